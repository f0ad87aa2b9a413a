"""Two models' evidence side by side: paired intervals by brute force, and protocols field by field."""

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

METRIC, PERPLEXITY = "humaneval/pass@1", "mtpb/prompt_perplexity_multi"
BEFORE = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.25}
AFTER = {"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.75}


def evidence(values: dict[str, float], metric: str = METRIC, **changes: object) -> Evidence:
    known = {
        "digest": "x",
        "metrics": {metric: fmean(values.values())},
        "protocols": {"humaneval": "p", "mtpb": "q"},
        "by_problem": {metric: values},
    }
    return Evidence.parse({**known, **changes})


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_is_that_of_all_resamples(level: float) -> None:
    """Of four problems there are 256 resamples, all as likely: the true quantiles can be listed."""
    gains = [AFTER[problem] - BEFORE[problem] for problem in "abcd"]
    every = [fmean(chosen) for chosen in itertools.product(gains, repeat=4)]
    low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
    found = interval_of_difference([METRIC], evidence(BEFORE), evidence(AFTER), level)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.num_problems == 4
    assert interval_of_difference([METRIC], evidence(BEFORE), evidence(AFTER), level) == found


def test_problems_are_compared_in_pairs() -> None:
    """Problems are as different as can be, and each is solved a tenth more often: of the gain there is no doubt."""
    harder = {problem: value - 0.1 for problem, value in AFTER.items()}
    found = interval_of_difference([METRIC], evidence(harder), evidence(AFTER), 0.95)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_metrics_of_one_benchmark_stay_together_and_benchmarks_do_not() -> None:
    def both(other: str, values: dict[str, float]) -> Evidence:
        return evidence(
            values, metrics={METRIC: 0.0, other: 0.0}, by_problem={METRIC: values, other: values}
        )

    alone = interval_of_difference([METRIC], evidence(BEFORE), evidence(AFTER), 0.95)
    same = "humaneval/pass@10"
    together = interval_of_difference([METRIC, same], both(same, BEFORE), both(same, AFTER), 0.95)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    other = "mtpb/pass_rate_multi"
    apart = interval_of_difference([METRIC, other], both(other, BEFORE), both(other, AFTER), 0.95)
    assert apart.num_problems == 8
    assert apart.high - apart.low == pytest.approx(
        (alone.high - alone.low) / 2**0.5, rel=0.2
    )  # Twice as many problems.


def test_without_the_same_problems_there_is_no_pair() -> None:
    assert pairing_error([METRIC], evidence(BEFORE), evidence(AFTER)) is None
    fewer = {problem: value for problem, value in AFTER.items() if problem != "c"}
    assert "c is missing" in str(pairing_error([METRIC], evidence(BEFORE), evidence(fewer)))
    assert "no figures of" in str(
        pairing_error([METRIC], evidence(BEFORE), evidence(AFTER, by_problem={}))
    )


def test_a_comparison_has_intervals_where_problems_are_known() -> None:
    (one,) = compare_metrics(evidence(BEFORE), evidence(AFTER))
    assert (one.metric, one.comparable, one.protocol) == (METRIC, True, ())
    assert (one.ci_low, one.ci_high) == pytest.approx((-0.05, 0.5))
    (unknown,) = compare_metrics(evidence(BEFORE), evidence(AFTER, by_problem={}))
    assert (unknown.comparable, unknown.ci_low, unknown.ci_high) == (True, None, None)
    (other,) = compare_metrics(evidence(BEFORE), evidence(AFTER, protocols={"humaneval": "o"}))
    assert (other.comparable, other.ci_low, other.protocol) == (
        False,
        None,
        ("protocol differs: p against o",),
    )


SETTINGS = {
    "mode": "split",
    "sets": {"t0.2": {"num_samples": 200, "temperature": 0.2}},
    "packages": {"numpy": "2.4"},
    "inputs": {"nl": "a" * 64},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mode": "fast"}, ("mode differs: split against fast",)),
        ({"k": [1, 10]}, ("k differs: unstated against [1, 10]",)),
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
def test_the_fields_in_which_protocols_differ_are_named(
    changed: dict[str, object], said: tuple[str, ...]
) -> None:
    one = evidence(BEFORE, settings={"humaneval": SETTINGS})
    other = evidence(
        AFTER, settings={"humaneval": {**SETTINGS, **changed}}, protocols={"humaneval": "o"}
    )
    assert protocol_differences("humaneval", one, other) == said


def test_where_fields_are_not_known_the_fingerprints_are_named() -> None:
    one, other = evidence(BEFORE, protocols={"humaneval": "a" * 64}), evidence(AFTER, protocols={})
    assert protocol_differences("humaneval", one, other) == (
        f"protocol differs: {'a' * 12} against unstated",
    )
    assert protocol_differences("humaneval", one, one) == ()
