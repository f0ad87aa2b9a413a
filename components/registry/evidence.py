"""What is known about one model, as plain data, and in what two models' evidence differs. No MLflow is needed for it.

Design decision: a figure that is a mean over problems comes with the value of every problem, whatever the benchmark counts,
so two models can be compared problem by problem with no knowledge of pass@k here. Protocols come as a fingerprint, which
decides what is comparable, and as the fields behind it, which say why something is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, JsonValue

from components.core.config import Config, ListOrTuple
from components.core.statistics import bootstrap_interval

LEVEL = 0.95
"""Of the intervals that are shown to people; a gate states its own."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Evidence(Config):
    """What is known about one model when the gate decides."""

    digest: str
    """SHA-256 of the checkpoint's files."""
    metrics: dict[str, float]
    """Figures by name, `benchmark/corpus/language`."""
    protocols: dict[str, str]
    """Fingerprint of how each benchmark was run, by benchmark; everything that changes a score but the model."""
    settings: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """The fields behind each of these fingerprints, nested, by benchmark."""
    by_problem: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Of metrics that are means over problems: the value of each problem, by metric."""
    contamination: dict[str, dict[str, int | None]] = Field(default_factory=dict)
    """Documents that held a part of a benchmark, by benchmark and by the version of what the model learnt from; they are
    left out of training. None: nobody looked."""
    logit_difference: Annotated[float | None, Field(allow_inf_nan=True)] = None
    """Largest absolute difference to Hugging Face's logits; none means not measured."""
    sandboxed: bool | None = None
    """Whether generated programs ran isolated; none means none ran."""
    git_dirty: bool | None = None
    """Whether the code that trained it had uncommitted changes; none means unknown."""


class MetricDifference(Config):
    """One metric of two models."""

    metric: str
    left: float | None
    right: float | None
    comparable: bool
    """Whether both were measured by the same protocol."""
    protocol: ListOrTuple[str] = ()
    """Where not, and both were measured: the fields that differ."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `other - one`; none where the value of each problem is not known."""


class Interval(NamedTuple):
    """Where the difference of two means lies in so much of the resamples of their problems."""

    low: float
    high: float
    num_problems: int


def benchmark_of(metric: str) -> str:
    """The part of a metric's name before the first slash."""
    return metric.split("/")[0]


def compare_metrics(one: Evidence, other: Evidence) -> list[MetricDifference]:
    """Every metric that either of two models has."""
    return [_difference(metric, one, other) for metric in sorted({*one.metrics, *other.metrics})]


def _difference(metric: str, one: Evidence, other: Evidence) -> MetricDifference:
    benchmark = benchmark_of(metric)
    comparable = one.protocols.get(benchmark) == other.protocols.get(benchmark) is not None
    both = metric in one.metrics and metric in other.metrics
    paired = both and comparable and pairing_error([metric], one, other) is None
    interval = interval_of_difference([metric], one, other, LEVEL) if paired else None
    return MetricDifference(
        metric=metric,
        left=one.metrics.get(metric),
        right=other.metrics.get(metric),
        comparable=comparable,
        protocol=protocol_differences(benchmark, one, other) if both and not comparable else (),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


# -- problem by problem ------------------------------------------------------------------------------------------------


def pairing_error(metrics: Sequence[str], one: Evidence, other: Evidence) -> str | None:
    """Why two models cannot be compared problem by problem in these metrics, or None where they can."""
    problems: dict[str, set[str]] = {}
    for metric in metrics:
        ours, theirs = one.by_problem.get(metric), other.by_problem.get(metric)
        if not ours or not theirs:
            return f"no figures of {metric} by problem"
        expected = problems.setdefault(benchmark_of(metric), set(ours))
        if strange := sorted((expected ^ set(ours)) | (expected ^ set(theirs))):
            return f"{metric} is not of the same problems: {strange[0]} is missing somewhere"
    return None


def interval_of_difference(
    metrics: Sequence[str], one: Evidence, other: Evidence, level: float
) -> Interval:
    """A paired bootstrap over problems: the middle `level` of `other - one` in the mean of some metrics.

    What both models made of a problem stays together, and so do the metrics of one benchmark; benchmarks are resampled
    apart. Where a metric is the best of several temperatures, that it was chosen is left out, as it is beside the scores.
    """
    by_benchmark: dict[str, dict[str, float]] = {}
    for metric in metrics:
        gains = by_benchmark.setdefault(benchmark_of(metric), {})
        for problem, value in one.by_problem[metric].items():
            gains[problem] = gains.get(problem, 0.0) + (
                other.by_problem[metric][problem] - value
            ) / len(metrics)
    samples = [
        np.array([gains[problem] for problem in sorted(gains)])
        for _, gains in sorted(by_benchmark.items())
    ]
    low, high = bootstrap_interval(samples, level)
    return Interval(low, high, sum(len(sample) for sample in samples))


# -- protocols ---------------------------------------------------------------------------------------------------------


def protocol_differences(benchmark: str, one: Evidence, other: Evidence) -> tuple[str, ...]:
    """In which fields the protocols of two models differ, as phrases; none where they are the same."""
    ours, theirs = one.protocols.get(benchmark), other.protocols.get(benchmark)
    if ours is not None and ours == theirs:
        return ()
    known = (one.settings.get(benchmark), other.settings.get(benchmark))
    found = tuple(_fields(known[0], known[1], "")) if known[0] and known[1] else ()
    return found or (f"protocol differs: {_shown(ours)} against {_shown(theirs)}",)


def _fields(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in sorted({*one, *other}):
        field, ours, theirs = f"{path}{key}", one.get(key), other.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            if set(ours) != set(theirs):  # Which there are says more than all that is said of each.
                yield f"{field} differs: {', '.join(sorted(ours))} against {', '.join(sorted(theirs))}"
            common = sorted({*ours} & {*theirs})
            yield from _fields(
                {k: ours[k] for k in common}, {k: theirs[k] for k in common}, f"{field}."
            )
        elif ours != theirs:
            yield f"{field} differs: {_shown(ours)} against {_shown(theirs)}"


def _shown(value: JsonValue) -> str:
    if value is None:
        return "unstated"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if _DIGEST.fullmatch(text) else text
