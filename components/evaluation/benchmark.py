"""What HumanEval and MTPB share: executing samples once each, counting outcomes, and filling an evaluation's folder.

One decision: where nothing isolates, nothing is executed, and then there is no score at all: `executed` is false, the reason
stands beside it, and figures are absent rather than zero. Limits are calibrated: HumanEval's canonical solutions run first,
and where the slowest takes longer than it did where the limits were chosen, so may every program.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import JsonValue

from components.core.errors import EvaluationError, SandboxUnavailable
from components.core.files import write_json, write_jsonl
from components.core.fingerprint import fingerprint
from components.evaluation.problems import load_humaneval
from components.evaluation.sandbox import Limits, Mode, Sandbox, SandboxReport, Trial, Verdict, open_sandbox, unavailable
from components.evaluation.truncate import RULES

Work = TypeVar("Work", bound=Hashable)
Result = TypeVar("Result")


_CALIBRATION_LIMIT_S = 60
CALIBRATION_S = 0.16
"""Processor seconds of HumanEval's slowest canonical solution where the limits were chosen (two cores, Python 3.11, measured
in November 2026). Where it takes longer, programs are given as many times more."""


class Executed(NamedTuple, Generic[Result]):
    """What came of executing samples. `results` has one entry per sample, or is none where nothing was executed."""

    report: SandboxReport
    results: list[Result] | None
    num_programs: int
    """Different programs that were executed; equal ones are executed once."""
    timings: dict[str, JsonValue]
    """What differs from run to run: seconds, programs that were run twice, the limit after calibration."""


def execute(
    run: Callable[[Sandbox, Sequence[Work], Limits], list[Result]],
    samples: Sequence[Work],
    limits: Limits,
    *,
    workers: int,
    unsafe: bool,
) -> Executed[Result]:
    """Execute every different sample once, in a sandbox that has passed its self-test.

    Raises:
        EvaluationError: a canonical solution does not pass here, so no verdict could be relied on.
    """
    programs = list(dict.fromkeys(samples))
    try:
        with open_sandbox(workers, unsafe=unsafe) as sandbox:
            slowest_s = _slowest_canonical_solution(sandbox)
            calibrated = limits.times(slowest_s / CALIBRATION_S)
            started = time.monotonic()
            found = dict(zip(programs, run(sandbox, programs, calibrated), strict=True))
            seconds = time.monotonic() - started
    except SandboxUnavailable as error:
        return Executed(unavailable(error), None, 0, {})
    timings: dict[str, JsonValue] = {
        "execution_s": seconds,
        "programs_per_s": len(programs) / seconds,
        "num_retried": sandbox.num_retried,
        "slowest_canonical_solution_cpu_s": slowest_s,
        "cpu_limit_s": calibrated.cpu_s,
    }
    return Executed(sandbox.report, [found[sample] for sample in samples], len(programs), timings)


def _slowest_canonical_solution(sandbox: Sandbox) -> float:
    """Processor seconds; on the way, proof that what is right passes here."""
    problems = load_humaneval()
    trials = [Trial(one.prompt, one.canonical_solution, one.test, one.entry_point) for one in problems]
    seconds = sandbox.cpu_seconds(trials, Limits(_CALIBRATION_LIMIT_S))
    failed = [problem.task_id for problem, taken in zip(problems, seconds, strict=True) if taken is None]
    if failed:
        raise EvaluationError(
            f"the canonical solution of {', '.join(failed[:3])} does not pass ({len(failed)} of {len(problems)} fail)",
            expected="all of them to pass, else no verdict of this machine means anything",
            do="run `codegen doctor`, look for a lack of memory or an overloaded machine, then run the same command again",
        )
    return max(taken for taken in seconds if taken is not None)


def protocol(
    benchmark: str, code_version: int, limits: Limits, *, mode: Mode, **settings: JsonValue
) -> dict[str, JsonValue]:
    """Everything that defines a benchmark's score but the model and the seed: two scores compare only if this is equal.

    The limits are those before calibration: what a program may use where the limits were chosen.
    """
    return {
        "benchmark": benchmark,
        "code_version": code_version,
        "truncation": list(RULES),
        "mode": mode,
        "limits": {"cpu_s": limits.cpu_s, "wall_s": limits.wall_s, "memory_mib": limits.memory_mib},
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        **settings,
    }


def publish(
    folder: Path,
    *,
    executed: Executed[Any],
    protocol: Mapping[str, JsonValue],
    results: Mapping[str, JsonValue],
    samples: Iterable[Mapping[str, JsonValue]],
    verdicts: Sequence[Verdict] | None,
    sampling_s: float,
) -> dict[str, JsonValue]:
    """Write results.json, samples.jsonl and observed/timings.json; returns what both benchmarks' statistics begin with."""
    report = executed.report
    common: dict[str, JsonValue] = {
        "benchmark": protocol["benchmark"],
        "executed": executed.results is not None,
        "reason": None if report.available else f"{report.missing}; {report.remedy}",
        "sandbox": report.isolation or None,
        "isolated": report.isolated if executed.results is not None else None,
        "mode": protocol["mode"],
        "protocol": fingerprint(protocol),
        "outcomes": None if verdicts is None else _counted(verdict.kind for verdict in verdicts),
        "num_programs": executed.num_programs,
    }
    exceptions = None if verdicts is None else _counted(v.type_name for v in verdicts if v.kind == "exception")
    details = {"protocol_settings": dict(protocol), "self_test": dict(report.self_test), "exceptions": exceptions}
    write_json(folder / "results.json", {**common, **details, **results})
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(folder / "observed" / "timings.json", {"sampling_s": sampling_s, **executed.timings})
    return common


def _counted(names: Iterable[str]) -> dict[str, JsonValue]:
    return dict(sorted(Counter(names).items()))
