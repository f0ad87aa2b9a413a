"""The evidence about a model as plain data, and the comparison of two models' evidence.

Does not import MLflow. A metric that is a mean over problems has the value of each problem, so two
models are compared problem by problem without knowledge of the benchmark. A protocol has a
fingerprint, which decides whether metrics are comparable, and the fields behind it, which explain
a difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, JsonValue

from components.core.confidence_interval import bootstrap_interval
from components.core.config import Config, ListOrTuple
from components.registry.config import benchmark_of

CONFIDENCE_LEVEL = 0.95
"""Of the intervals of `compare_metrics`; a gate configures its own."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Evidence(Config):
    """Everything that the gate knows about a model."""

    digest: str
    """SHA-256 of the checkpoint's files."""
    metrics: dict[str, float]
    """By name, `benchmark/corpus/language`."""
    protocols: dict[str, str]
    """Fingerprint of the protocol of each benchmark: everything except the model that changes a
    score."""
    settings: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """The nested fields of each protocol, by benchmark."""
    by_problem: dict[str, dict[str, float]] = Field(default_factory=dict)
    """The value of each problem, for metrics that are means over problems."""
    contamination: dict[str, dict[str, int | None]] = Field(default_factory=dict)
    """Documents that contained a part of a benchmark, by benchmark and training corpus version;
    they were rejected from training. None: not searched."""
    logit_difference: Annotated[float | None, Field(allow_inf_nan=True)] = None
    """Largest absolute difference to the Hugging Face logits; None: not measured."""
    sandboxed: bool | None = None
    """Whether all generated programs ran in a sandbox; None: no program ran."""
    git_dirty: bool | None = None
    """Whether the training code had uncommitted changes; None: unknown."""


class MetricDifference(Config):
    """A metric of two models."""

    metric: str
    left: float | None
    right: float | None
    comparable: bool
    """Whether both models were evaluated with the same protocol."""
    protocol: ListOrTuple[str] = ()
    """The protocol fields that differ, if both models have the metric."""
    ci_low: float | None = None
    ci_high: float | None = None
    """The 95 % confidence interval of `right - left`; None without values by problem."""


class GainInterval(NamedTuple):
    """Confidence interval of the difference of two means."""

    low: float
    high: float
    num_problems: int


def compare_metrics(first: Evidence, second: Evidence) -> list[MetricDifference]:
    """Compare all metrics of two models."""
    metrics = sorted({*first.metrics, *second.metrics})
    return [_compare_metric(metric, first, second) for metric in metrics]


def _compare_metric(metric: str, first: Evidence, second: Evidence) -> MetricDifference:
    benchmark = benchmark_of(metric)
    first_protocol = first.protocols.get(benchmark)
    comparable = first_protocol is not None and first_protocol == second.protocols.get(benchmark)
    difference = MetricDifference(
        metric=metric,
        left=first.metrics.get(metric),
        right=second.metrics.get(metric),
        comparable=comparable,
    )
    if metric not in first.metrics or metric not in second.metrics:
        return difference
    if not comparable:
        return difference.replace(protocol=protocol_differences(benchmark, first, second))
    if pairing_error([metric], first, second):
        return difference
    interval = interval_of_difference([metric], first, second, CONFIDENCE_LEVEL)
    return difference.replace(ci_low=interval.low, ci_high=interval.high)


def pairing_error(metrics: Sequence[str], first: Evidence, second: Evidence) -> str | None:
    """Return why two models cannot be compared problem by problem in these metrics, or None."""
    problems_by_benchmark: dict[str, set[str]] = {}
    for metric in metrics:
        first_values = first.by_problem.get(metric)
        second_values = second.by_problem.get(metric)
        if not first_values or not second_values:
            return f"no values by problem of {metric}"
        problems = problems_by_benchmark.setdefault(benchmark_of(metric), set(first_values))
        unpaired = (problems ^ set(first_values)) | (problems ^ set(second_values))
        if unpaired:
            return f"the problems of {metric} differ: {min(unpaired)} is missing"
    return None


def interval_of_difference(
    metrics: Sequence[str], first: Evidence, second: Evidence, level: float
) -> GainInterval:
    """Return the middle `level` of `second - first` in the mean of metrics, by a paired bootstrap.

    The values of both models for a problem stay paired, and so do the metrics of a benchmark;
    benchmarks are resampled separately. The selection of the best of several temperatures is
    ignored.
    """
    by_benchmark: dict[str, dict[str, float]] = {}
    for metric in metrics:
        gains = by_benchmark.setdefault(benchmark_of(metric), {})
        for problem, first_value in first.by_problem[metric].items():
            gain = (second.by_problem[metric][problem] - first_value) / len(metrics)
            gains[problem] = gains.get(problem, 0.0) + gain
    samples = [
        np.array([gains[problem] for problem in sorted(gains)])
        for _, gains in sorted(by_benchmark.items())
    ]
    low, high = bootstrap_interval(samples, level)
    return GainInterval(low, high, sum(len(sample) for sample in samples))


def protocol_differences(benchmark: str, first: Evidence, second: Evidence) -> tuple[str, ...]:
    """Return the differing protocol fields of two models as phrases; empty if they are equal."""
    first_protocol = first.protocols.get(benchmark)
    second_protocol = second.protocols.get(benchmark)
    if first_protocol is not None and first_protocol == second_protocol:
        return ()
    first_fields = first.settings.get(benchmark, {})
    second_fields = second.settings.get(benchmark, {})
    differences: tuple[str, ...] = ()
    if first_fields and second_fields:
        differences = tuple(_field_differences(first_fields, second_fields, ""))
    return differences or (_difference_text("protocol", first_protocol, second_protocol),)


def _field_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], path: str
) -> Iterator[str]:
    for key in sorted({*first, *second}):
        field = f"{path}{key}"
        first_value, second_value = first.get(key), second.get(key)
        if isinstance(first_value, Mapping) and isinstance(second_value, Mapping):
            if first_value.keys() != second_value.keys():  # Only the keys, not their contents.
                keys = (", ".join(sorted(first_value)), ", ".join(sorted(second_value)))
                yield _difference_text(field, *keys)
            common = first_value.keys() & second_value.keys()
            yield from _field_differences(
                {name: first_value[name] for name in common},
                {name: second_value[name] for name in common},
                f"{field}.",
            )
        elif first_value != second_value:
            yield _difference_text(field, first_value, second_value)


def _difference_text(field: str, first: JsonValue, second: JsonValue) -> str:
    return f"{field} differs: {_value_text(first)} against {_value_text(second)}"


def _value_text(value: JsonValue) -> str:
    if value is None:
        return "unknown"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if _SHA256.fullmatch(text) else text
