"""From samples to scores: verdicts, pass@k with intervals, and the files of an evaluation.

Scoring requires samples and a program executor but no model, so existing samples can be scored
again. Without a sandbox the samples are stored, `executed` is false and metrics are absent, not
zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from components.core.files import write_json, write_jsonl
from components.core.fingerprint import fingerprint
from components.evaluation.benchmarks.problem import ExpectedPrint, Problem
from components.evaluation.benchmarks.protocol import BenchmarkProtocol, ExtraMetrics, ProblemCounts
from components.evaluation.sampling.samples import GeneratedSample, read_samples
from components.evaluation.sandbox import Verdict
from components.evaluation.scoring.program_executor import Program, ProgramExecutor
from components.evaluation.scoring.score_statistics import (
    MeanEstimate,
    PassCounts,
    estimate_pass_at_k,
)


class GradedSample(NamedTuple):
    """A sample with its verdict; None if nothing was executed."""

    sample: GeneratedSample
    verdict: Verdict | None
    is_strict_pass: bool = False
    """Whether it also passes by the strict rule for printed values."""


def build_program(sample: GeneratedSample, protocol: BenchmarkProtocol) -> Program:
    """Return the program that is executed to grade a sample."""
    source = sample.problem.program(sample.completions)
    return Program(source, protocol.limits, protocol.mode)


def protocol_settings(
    protocol: BenchmarkProtocol, executor: ProgramExecutor, precision: str
) -> dict[str, JsonValue]:
    """Return everything that defines a score except the model and the seed."""
    return {**protocol.settings(precision), **executor.report.protocol_fields}


def score(
    folder: Path,
    protocol: BenchmarkProtocol,
    samples: Mapping[str, Path],
    executor: ProgramExecutor,
    *,
    precision: str,
    seed: int | None,
) -> dict[str, JsonValue]:
    """Grade all sample sets of a protocol; fills `folder` and returns the artifact's statistics.

    Args:
        folder: for `results.json`, `samples.jsonl` (every sample with its verdict) and
            `observed/timings.json`.
        samples: the file of each sample set, by label.
        executor: may have executed the programs already.
        precision: of the model that generated the samples.
        seed: of the samples; None if unknown.

    Raises:
        EvaluationError: a canonical solution does not pass on this machine.
    """
    busy_s, num_retried = executor.busy_s, executor.num_retried
    graded: dict[str, list[GradedSample]] = {}
    for sample_set in protocol.sample_sets:
        path = samples[sample_set.label]
        graded[sample_set.label] = _grade(sample_set.benchmark.problems, path, protocol, executor)
    all_samples = [sample for of_set in graded.values() for sample in of_set]
    details, metrics = _results(protocol, graded)
    settings = protocol_settings(protocol, executor, precision)
    statistics = _shared_statistics(protocol, executor, all_samples, settings)
    results: dict[str, JsonValue] = {
        **statistics,
        "protocol_settings": settings,
        "self_test": dict(executor.report.self_test),
        "seed": seed,
        **details,
    }
    write_json(folder / "results.json", results)
    write_jsonl(
        folder / "samples.jsonl",
        (_sample_record(label, sample) for label, of_set in graded.items() for sample in of_set),
    )
    timings: dict[str, JsonValue] = {
        "execution_s": executor.busy_s - busy_s,
        "num_retried": executor.num_retried - num_retried,
        "num_cached_programs": executor.num_cached,
    }
    if executor.slowest_canonical_s:
        timings["slowest_canonical_solution_cpu_s"] = executor.slowest_canonical_s
        timings["cpu_limit_s"] = executor.calibrated(protocol.limits).cpu_s
    write_json(folder / "observed" / "timings.json", timings)
    return {**statistics, **metrics}


def _grade(
    problems: tuple[Problem, ...],
    path: Path,
    protocol: BenchmarkProtocol,
    executor: ProgramExecutor,
) -> list[GradedSample]:
    samples = list(read_samples(path, problems))
    outcomes = executor.results([build_program(sample, protocol) for sample in samples])
    if outcomes is None:
        return [GradedSample(sample, None) for sample in samples]
    return [
        GradedSample(
            sample, sample.problem.verdict(outcome), sample.problem.is_strict_pass(outcome)
        )
        for sample, outcome in zip(samples, outcomes, strict=True)
    ]


def _results(
    protocol: BenchmarkProtocol, graded: Mapping[str, Sequence[GradedSample]]
) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Return the details for results.json and the metrics that are compared between models."""
    counts = {label: _count(samples) for label, samples in graded.items()}
    estimates = {label: _estimates(of_set, protocol.k) for label, of_set in counts.items()}
    sets: dict[str, JsonValue] = {}
    for sample_set in protocol.sample_sets:
        label = sample_set.label
        sets[label] = {
            "temperature": sample_set.temperature,
            "top_p": sample_set.top_p,
            "num_samples": sample_set.num_samples,
            **_set_results(graded[label], counts[label]),
            "pass_at_k": {k: estimate.as_record() for k, estimate in estimates[label].items()},
        }
    if protocol.extra_metrics:
        extra = protocol.extra_metrics(counts)
    else:
        num_problems = len(protocol.sample_sets[0].benchmark.problems)
        extra = ExtraMetrics({"num_problems": num_problems}, {})
    records, metrics = _best_by_k(estimates, "pass")
    details: dict[str, JsonValue] = {"sets": sets, "pass_at_k": records}
    if not protocol.extra_metrics and _has_printed_values(protocol):
        strict = {
            label: _estimates(_strict(of_set), protocol.k) for label, of_set in counts.items()
        }
        details["strict_pass_at_k"], strict_metrics = _best_by_k(strict, "strict_pass")
        metrics |= strict_metrics
    metrics["num_problems"] = extra.details["num_problems"]
    return {**details, **extra.details}, {**metrics, **extra.metrics}


def _has_printed_values(protocol: BenchmarkProtocol) -> bool:
    problems = protocol.sample_sets[0].benchmark.problems
    return any(isinstance(problem.checker, ExpectedPrint) for problem in problems)


def _strict(counts: Iterable[ProblemCounts]) -> list[ProblemCounts]:
    return [count._replace(passed=count.strictly_passed) for count in counts]


def _set_results(
    samples: Sequence[GradedSample], counts: Sequence[ProblemCounts]
) -> dict[str, JsonValue]:
    verdicts = [graded.verdict for graded in samples if graded.verdict is not None]
    results: dict[str, JsonValue] = {
        "num_truncated": sum(graded.sample.num_truncated for graded in samples),
        "num_unfinished": sum(graded.sample.num_unfinished for graded in samples),
        "num_tokens": sum(graded.sample.num_tokens for graded in samples),
    }
    if len(verdicts) < len(samples):
        return {**results, "outcomes": None, "exceptions": None, "passes": None}
    return {
        **results,
        "outcomes": _tally(verdict.kind for verdict in verdicts),
        "exceptions": _tally(
            verdict.type_name for verdict in verdicts if verdict.kind == "exception"
        ),
        "passes": {count.task_id: count.num_passed for count in counts},
    }


def _estimates(counts: Sequence[ProblemCounts], ks: Iterable[int]) -> dict[str, MeanEstimate]:
    """Return pass@k by k; empty if nothing was executed."""
    pass_counts = [
        PassCounts(count.group, count.num_samples, count.num_passed)
        for count in counts
        if count.num_passed is not None
    ]
    return estimate_pass_at_k(pass_counts, ks)


def _best_by_k(
    estimates: Mapping[str, Mapping[str, MeanEstimate]], name: str
) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Return the record and the metrics of the best set for every k; the first of equals.

    The paper reports the best set. The interval does not account for the selection.
    """
    best: dict[str, tuple[str, MeanEstimate]] = {}
    for label, of_set in estimates.items():
        for k, estimate in of_set.items():
            if k not in best or estimate.estimate > best[k][1].estimate:
                best[k] = (label, estimate)
    records: dict[str, JsonValue] = {}
    metrics: dict[str, JsonValue] = {}
    for k, (label, estimate) in best.items():
        records[k] = {"set": label, **estimate.as_record()}
        metrics |= estimate.as_metrics(f"{name}@{k}")
    return records, metrics


def _count(samples: Sequence[GradedSample]) -> list[ProblemCounts]:
    """Count by problem; samples of a problem are adjacent."""
    counts = []
    for problem, group in groupby(samples, key=lambda graded: graded.sample.problem):
        of_problem = list(group)
        scored = of_problem if any(graded.sample.prompt_tokens for graded in of_problem) else []
        counts.append(
            ProblemCounts(
                problem.task_id,
                problem.group or problem.task_id,
                len(of_problem),
                tuple(graded.sample.prompt_nats for graded in scored),
                tuple(graded.sample.prompt_tokens for graded in scored),
                tuple(graded.verdict.passed for graded in of_problem if graded.verdict),
                tuple(graded.is_strict_pass for graded in of_problem if graded.verdict),
            )
        )
    return counts


def _shared_statistics(
    protocol: BenchmarkProtocol,
    executor: ProgramExecutor,
    samples: Sequence[GradedSample],
    settings: dict[str, JsonValue],
) -> dict[str, JsonValue]:
    """Return the statistics that every benchmark has."""
    report = executor.report
    verdicts = [graded.verdict for graded in samples if graded.verdict]
    programs = {build_program(graded.sample, protocol) for graded in samples}
    return {
        "benchmark": protocol.name,
        "executed": report.available,
        "reason": None if report.available else f"{report.missing}; {report.fix}",
        "sandbox": report.isolation or None,
        "isolated": report.isolated if report.available else None,
        "mode": protocol.mode,
        "protocol": fingerprint(settings),
        "outcomes": _tally(verdict.kind for verdict in verdicts) if report.available else None,
        "num_programs": len(programs) if report.available else 0,
        "num_samples": len(samples),
        "num_truncated": sum(graded.sample.num_truncated for graded in samples),
    }


def _sample_record(label: str, graded: GradedSample) -> dict[str, JsonValue]:
    """Return a line of samples.jsonl; `outcome` is null if nothing was executed."""
    verdict = graded.verdict
    return {
        "set": label,
        "prompts": list(graded.sample.problem.turns),
        **graded.sample.as_record(),
        "outcome": verdict.kind if verdict else None,
        "exception_type": verdict.type_name if verdict else None,
        "strict_pass": graded.is_strict_pass if verdict else None,
    }


def _tally(names: Iterable[str]) -> dict[str, JsonValue]:
    return dict(sorted(Counter(names).items()))
