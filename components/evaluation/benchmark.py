"""What HumanEval and MTPB share: executing samples once each, counting outcomes, and filling an evaluation's folder.

One decision: where nothing isolates, nothing is executed, and then there is no score at all: `executed` is false, the reason
stands beside it, and figures are absent rather than zero.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import JsonValue

from components.core.errors import SandboxUnavailable
from components.core.files import write_json, write_jsonl
from components.core.fingerprint import fingerprint
from components.evaluation.sandbox import Limits, Sandbox, SandboxReport, Verdict, open_sandbox, unavailable
from components.evaluation.truncate import RULES

Work = TypeVar("Work", bound=Hashable)
Result = TypeVar("Result")


class Executed(NamedTuple, Generic[Result]):
    """What came of executing samples. `results` has one entry per sample, or is none where nothing was executed."""

    report: SandboxReport
    results: list[Result] | None
    num_programs: int
    """Different programs that were executed; equal ones are executed once."""
    seconds: float


def execute(
    run: Callable[[Sandbox, Sequence[Work]], list[Result]], samples: Sequence[Work], workers: int
) -> Executed[Result]:
    """Execute every different sample once, in a sandbox that has passed its self-test."""
    programs = list(dict.fromkeys(samples))
    try:
        with open_sandbox(workers) as sandbox:
            started = time.monotonic()
            found = dict(zip(programs, run(sandbox, programs), strict=True))
            seconds = time.monotonic() - started
    except SandboxUnavailable as error:
        return Executed(unavailable(error), None, 0, 0.0)
    return Executed(sandbox.report, [found[sample] for sample in samples], len(programs), seconds)


def protocol(benchmark: str, code_version: int, limits: Limits, **settings: JsonValue) -> dict[str, JsonValue]:
    """Everything that defines a benchmark's score but the model and the seed: two scores compare only if this is equal."""
    return {
        "benchmark": benchmark,
        "code_version": code_version,
        "truncation": list(RULES),
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
        "protocol": fingerprint(protocol),
        "outcomes": None if verdicts is None else _counted(verdict.kind for verdict in verdicts),
        "num_programs": executed.num_programs,
    }
    exceptions = None if verdicts is None else _counted(v.type_name for v in verdicts if v.kind == "exception")
    details = {"protocol_settings": dict(protocol), "self_test": dict(report.self_test), "exceptions": exceptions}
    write_json(folder / "results.json", {**common, **details, **results})
    write_jsonl(folder / "samples.jsonl", samples)
    rate = executed.num_programs / executed.seconds if executed.seconds else None
    timings = {"sampling_s": sampling_s, "execution_s": executed.seconds, "programs_per_s": rate}
    write_json(folder / "observed" / "timings.json", timings)
    return common


def _counted(names: Iterable[str]) -> dict[str, JsonValue]:
    return dict(sorted(Counter(names).items()))
