"""Comparison of two models' evidence: paired intervals by brute force, and protocol differences."""

from __future__ import annotations

import itertools
from statistics import fmean

import numpy as np
import pytest

from components.registry.evidence import (
    Evidence,
    compare_metrics,
    interval_of_difference,
    pairing_error,
    protocol_differences,
)

METRIC = "humaneval/pass@1"
LEFT_VALUES = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.25}
RIGHT_VALUES = {"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.75}


def evidence(values: dict[str, float], metric: str = METRIC, **changes: object) -> Evidence:
    fields = {
        "digest": "x",
        "metrics": {metric: fmean(values.values())},
        "protocols": {"humaneval": "p", "mtpb": "q"},
        "by_problem": {metric: values},
    }
    return Evidence.parse({**fields, **changes})


LEFT = evidence(LEFT_VALUES)
RIGHT = evidence(RIGHT_VALUES)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_matches_the_enumeration_of_all_resamples(level: float) -> None:
    """Four problems have 256 equally likely resamples, so the quantiles can be computed exactly."""
    gains = [RIGHT_VALUES[problem] - LEFT_VALUES[problem] for problem in "abcd"]
    means = [fmean(resample) for resample in itertools.product(gains, repeat=4)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    interval = interval_of_difference([METRIC], LEFT, RIGHT, level)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.num_problems == 4
    assert interval_of_difference([METRIC], LEFT, RIGHT, level) == interval


def test_problems_are_compared_in_pairs() -> None:
    """The problems differ a lot, and each is solved 0.1 more often: the gain is certain."""
    lower = {problem: value - 0.1 for problem, value in RIGHT_VALUES.items()}
    interval = interval_of_difference([METRIC], evidence(lower), RIGHT, 0.95)
    assert (interval.low, interval.high) == pytest.approx((0.1, 0.1))


def test_metrics_of_one_benchmark_are_resampled_together_and_benchmarks_separately() -> None:
    def with_second_metric(metric: str, values: dict[str, float]) -> Evidence:
        return evidence(
            values,
            metrics={METRIC: 0.0, metric: 0.0},
            by_problem={METRIC: values, metric: values},
        )

    def interval_with(metric: str):
        return interval_of_difference(
            [METRIC, metric],
            with_second_metric(metric, LEFT_VALUES),
            with_second_metric(metric, RIGHT_VALUES),
            0.95,
        )

    single = interval_of_difference([METRIC], LEFT, RIGHT, 0.95)
    same_benchmark = interval_with("humaneval/pass@10")
    assert (same_benchmark.low, same_benchmark.high) == pytest.approx((single.low, single.high))
    two_benchmarks = interval_with("mtpb/pass_rate_multi")
    assert two_benchmarks.num_problems == 8
    # Twice as many problems.
    expected_width = (single.high - single.low) / 2**0.5
    assert two_benchmarks.high - two_benchmarks.low == pytest.approx(expected_width, rel=0.2)


def test_different_problems_cannot_be_paired() -> None:
    assert pairing_error([METRIC], LEFT, RIGHT) is None
    fewer = {problem: value for problem, value in RIGHT_VALUES.items() if problem != "c"}
    assert "c is missing" in str(pairing_error([METRIC], LEFT, evidence(fewer)))
    without_problems = evidence(RIGHT_VALUES, by_problem={})
    assert "no values by problem" in str(pairing_error([METRIC], LEFT, without_problems))


def test_a_comparison_has_intervals_if_values_by_problem_exist() -> None:
    (difference,) = compare_metrics(LEFT, RIGHT)
    assert (difference.metric, difference.comparable, difference.protocol) == (METRIC, True, ())
    assert (difference.ci_low, difference.ci_high) == pytest.approx((-0.05, 0.5))
    (difference,) = compare_metrics(LEFT, evidence(RIGHT_VALUES, by_problem={}))
    assert difference.comparable
    assert (difference.ci_low, difference.ci_high) == (None, None)
    (difference,) = compare_metrics(LEFT, evidence(RIGHT_VALUES, protocols={"humaneval": "o"}))
    assert (difference.comparable, difference.ci_low) == (False, None)
    assert difference.protocol == ("protocol differs: p against o",)


SETTINGS = {
    "mode": "split",
    "sets": {"t0.2": {"num_samples": 200, "temperature": 0.2}},
    "packages": {"numpy": "2.4"},
    "inputs": {"nl": "a" * 64},
}


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"mode": "fast"}, ("mode differs: split against fast",)),
        ({"k": [1, 10]}, ("k differs: unknown against [1, 10]",)),
        ({"inputs": {"nl": "b" * 64}}, (f"inputs.nl differs: {'a' * 12} against {'b' * 12}",)),
        (
            {
                "sets": {
                    "t0.2": {"num_samples": 2, "temperature": 0.2},
                    "t0.6": {"num_samples": 2, "temperature": 0.6},
                }
            },
            (
                "sets differs: t0.2 against t0.2, t0.6",
                "sets.t0.2.num_samples differs: 200 against 2",
            ),
        ),
    ],
)
def test_differing_protocol_fields_are_named(
    changes: dict[str, object], differences: tuple[str, ...]
) -> None:
    left = evidence(LEFT_VALUES, settings={"humaneval": SETTINGS})
    right = evidence(
        RIGHT_VALUES,
        settings={"humaneval": {**SETTINGS, **changes}},
        protocols={"humaneval": "o"},
    )
    assert protocol_differences("humaneval", left, right) == differences


def test_fingerprints_are_named_if_protocol_fields_are_unknown() -> None:
    left = evidence(LEFT_VALUES, protocols={"humaneval": "a" * 64})
    right = evidence(RIGHT_VALUES, protocols={})
    assert protocol_differences("humaneval", left, right) == (
        f"protocol differs: {'a' * 12} against unknown",
    )
    assert protocol_differences("humaneval", left, left) == ()
