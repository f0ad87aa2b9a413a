"""From samples to scores: verdicts, pass@k with confidence intervals, and the files of an evaluation.

One decision: scoring needs samples and a judge, no model, so old samples can be scored anew. Where nothing isolates, samples
are kept, `executed` is false and figures are absent rather than zero.
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
from components.evaluation.benchmarks.problem import Problem
from components.evaluation.benchmarks.protocol import BenchmarkProtocol, ExtraMetrics, ProblemCounts
from components.evaluation.sampling.samples import Sample, read_samples
from components.evaluation.sandbox import Verdict
from components.evaluation.scoring import pass_at_k
from components.evaluation.scoring.intervals import Estimate
from components.evaluation.scoring.pass_at_k import Count
from components.evaluation.scoring.program_executor import Program, ProgramExecutor


class GradedSample(NamedTuple):
    """A sample with its verdict; none where nothing was executed."""

    sample: Sample
    verdict: Verdict | None


def program_of(sample: Sample, plan: BenchmarkProtocol) -> Program:
    """What is executed to judge a sample."""
    return Program(sample.problem.program(sample.completions), plan.limits, plan.mode)


def protocol_settings(
    plan: BenchmarkProtocol, judge: ProgramExecutor, precision: str
) -> dict[str, JsonValue]:
    """Everything that defines a score but the model and the seed, isolation included where it changes verdicts."""
    return {**plan.settings(precision), **judge.report.protocol_fields}


def score(
    folder: Path,
    plan: BenchmarkProtocol,
    samples: Mapping[str, Path],
    judge: ProgramExecutor,
    *,
    precision: str,
    seed: int | None,
) -> dict[str, JsonValue]:
    """Judge the samples of every set of a plan; fills `folder` and returns the artifact's statistics.

    Args:
        folder: for `results.json`, `samples.jsonl` (every sample with its verdict) and `observed/timings.json`.
        samples: the file of each set, by its label.
        judge: may have executed them already.
        precision: in which the samples were drawn.
        seed: of the samples; none where it is not known.

    Raises:
        EvaluationError: what is known to be right does not pass on this machine.
    """
    busy_s, retried = judge.busy_s, judge.num_retried
    sets = {
        draw.label: _judged(draw.benchmark.problems, samples[draw.label], plan, judge)
        for draw in plan.draws
    }
    everything = [one for some in sets.values() for one in some]
    results, figures = _results(plan, sets)
    common = _shared_statistics(plan, judge, everything, precision)
    settings = protocol_settings(plan, judge, precision)
    details = {
        "protocol_settings": settings,
        "self_test": dict(judge.report.self_test),
        "seed": seed,
    }
    write_json(folder / "results.json", {**common, **details, **results})
    write_jsonl(
        folder / "samples.jsonl",
        (_record(label, one) for label, some in sets.items() for one in some),
    )
    timings: dict[str, JsonValue] = {
        "execution_s": judge.busy_s - busy_s,
        "num_retried": judge.num_retried - retried,
        "programs_before": judge.num_cached,
    }
    if judge.slowest_canonical_s:
        timings |= {
            "slowest_canonical_solution_cpu_s": judge.slowest_canonical_s,
            "cpu_limit_s": judge.calibrated(plan.limits).cpu_s,
        }
    write_json(folder / "observed" / "timings.json", timings)
    return {**common, **figures}


def _judged(
    problems: tuple[Problem, ...], path: Path, plan: BenchmarkProtocol, judge: ProgramExecutor
) -> list[GradedSample]:
    samples = list(read_samples(path, problems))
    outcomes = judge.results([program_of(sample, plan) for sample in samples])
    if outcomes is None:
        return [GradedSample(sample, None) for sample in samples]
    return [
        GradedSample(sample, sample.problem.verdict(one))
        for sample, one in zip(samples, outcomes, strict=True)
    ]


def _results(
    plan: BenchmarkProtocol, sets: Mapping[str, Sequence[GradedSample]]
) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """What results.json tells of the samples, and the figures that are compared."""
    counted = {label: _counted(some) for label, some in sets.items()}
    estimates = {label: _estimates(some, plan.k) for label, some in counted.items()}
    described: dict[str, JsonValue] = {}
    for draw in plan.draws:
        described[draw.label] = {
            "temperature": draw.temperature,
            "top_p": draw.top_p,
            "num_samples": draw.num_samples,
            **_set_results(sets[draw.label], counted[draw.label]),
            "pass_at_k": {k: one.record() for k, one in estimates[draw.label].items()},
        }
    best = _best(estimates)
    facts = (
        plan.facts(counted)
        if plan.facts
        else ExtraMetrics({"num_problems": len(plan.draws[0].benchmark.problems)}, {})
    )
    best_records: dict[str, JsonValue] = {
        k: {"set": of, **one.record()} for k, (of, one) in best.items()
    }
    figures: dict[str, JsonValue] = {"num_problems": facts.details["num_problems"]}
    for k, (_, one) in best.items():
        figures |= one.figures(f"pass@{k}")
    return {"sets": described, "pass_at_k": best_records, **facts.details}, {
        **figures,
        **facts.figures,
    }


def _set_results(
    judged: Sequence[GradedSample], counted: Sequence[ProblemCounts]
) -> dict[str, JsonValue]:
    verdicts = [one.verdict for one in judged if one.verdict is not None]
    executed = len(verdicts) == len(judged)
    return {
        "num_truncated": sum(one.sample.num_truncated for one in judged),
        "num_unfinished": sum(one.sample.num_unfinished for one in judged),
        "num_tokens": sum(one.sample.num_tokens for one in judged),
        "outcomes": _tally(verdict.kind for verdict in verdicts) if executed else None,
        "exceptions": _tally(one.type_name for one in verdicts if one.kind == "exception")
        if executed
        else None,
        "passes": {one.task_id: one.num_passed for one in counted} if executed else None,
    }


def _estimates(counted: Sequence[ProblemCounts], ks: Iterable[int]) -> dict[str, Estimate]:
    """pass@k by k; none where nothing was executed."""
    counts = [
        Count(one.group, one.num_samples, one.num_passed)
        for one in counted
        if one.num_passed is not None
    ]
    return pass_at_k.estimates(counts, ks)


def _best(estimates: Mapping[str, Mapping[str, Estimate]]) -> dict[str, tuple[str, Estimate]]:
    """For every k the best set, as the paper reports; the first of equals. Its interval leaves out that it was chosen."""
    best: dict[str, tuple[str, Estimate]] = {}
    for label, found in estimates.items():
        for k, one in found.items():
            if k not in best or one.estimate > best[k][1].estimate:
                best[k] = (label, one)
    return best


def _counted(judged: Sequence[GradedSample]) -> list[ProblemCounts]:
    """By problem; samples of a problem lie side by side."""
    counted = []
    for problem, some in groupby(judged, key=lambda one: one.sample.problem):
        of_problem = list(some)
        passed = tuple(one.verdict.passed for one in of_problem if one.verdict)
        measured = any(one.sample.prompt_tokens for one in of_problem)
        counted.append(
            ProblemCounts(
                problem.task_id,
                problem.group or problem.task_id,
                len(of_problem),
                sum(passed) if passed else None,
                tuple(one.sample.prompt_nats for one in of_problem if measured),
                tuple(one.sample.prompt_tokens for one in of_problem if measured),
                passed,
            )
        )
    return counted


def _shared_statistics(
    plan: BenchmarkProtocol, judge: ProgramExecutor, judged: Sequence[GradedSample], precision: str
) -> dict[str, JsonValue]:
    """What the statistics of every benchmark begin with."""
    report, verdicts = judge.report, [one.verdict for one in judged if one.verdict]
    return {
        "benchmark": plan.name,
        "executed": report.available,
        "reason": None if report.available else f"{report.missing}; {report.remedy}",
        "sandbox": report.isolation or None,
        "isolated": report.isolated if report.available else None,
        "mode": plan.mode,
        "protocol": fingerprint(protocol_settings(plan, judge, precision)),
        "outcomes": _tally(verdict.kind for verdict in verdicts) if report.available else None,
        "num_programs": len({program_of(one.sample, plan) for one in judged})
        if report.available
        else 0,
        "num_samples": len(judged),
        "num_truncated": sum(one.sample.num_truncated for one in judged),
    }


def _record(label: str, one: GradedSample) -> dict[str, JsonValue]:
    """A line of samples.jsonl, read without the benchmark's file; `outcome` is none where nothing was executed."""
    verdict = one.verdict
    return {
        "set": label,
        "prompts": list(one.sample.problem.turns),
        **one.sample.record(),
        "outcome": verdict.kind if verdict else None,
        "raised": verdict.type_name if verdict else None,
    }


def _tally(names: Iterable[str]) -> dict[str, JsonValue]:
    return dict(sorted(Counter(names).items()))
