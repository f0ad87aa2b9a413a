"""pass@k against values computed by hand and by enumeration, and bootstrap intervals."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.confidence_interval import bootstrap_interval
from components.evaluation.scoring.score_statistics import (
    mean_pass_at_k,
    mean_with_interval,
    pass_at_k,
)


@pytest.mark.parametrize(
    ("num_samples", "num_passed", "k", "expected"),
    [
        (10, 3, 1, Fraction(3, 10)),
        (5, 2, 2, Fraction(7, 10)),  # 1 - C(3,2)/C(5,2) = 1 - 3/10
        (4, 1, 3, Fraction(3, 4)),  # 1 - C(3,3)/C(4,3)
        (200, 0, 100, Fraction(0)),
        (200, 101, 100, Fraction(1)),
        (3, 3, 3, Fraction(1)),
    ],
)
def test_pass_at_k_by_hand(num_samples: int, num_passed: int, k: int, expected: Fraction) -> None:
    assert pass_at_k(num_samples, num_passed, k) == expected


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(counts: tuple[int, int, int]) -> None:
    num_samples, num_passed, k = counts
    subsets = list(combinations([True] * num_passed + [False] * (num_samples - num_passed), k))
    expected = Fraction(sum(any(subset) for subset in subsets), len(subsets))
    assert pass_at_k(num_samples, num_passed, k) == expected


def test_there_is_no_estimate_for_k_above_the_number_of_samples() -> None:
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)
    assert mean_pass_at_k(2, [1, 0], [1, 2, 10, 100]) == {"1": 0.25, "2": 0.5}


def test_the_interval_of_three_values_is_that_of_all_their_resamples() -> None:
    """Three values have 27 equally likely resamples, so the quantiles can be enumerated."""
    values = [0.0, 0.3, 0.9]
    means = sorted(sum(resample) / 3 for resample in product(values, repeat=3))
    mean = mean_with_interval(values)
    assert mean.estimate == pytest.approx(0.4)
    # Each extreme has a probability of 3.7 %, more than the 2.5 % outside each bound.
    assert (mean.low, mean.high) == pytest.approx((means[0], means[-1]))
    # 10 of the 27 means are below 0.3: the middle 20 % lies between the 11th and the 17th.
    low, high = bootstrap_interval([np.array(values)], 0.2)
    assert (low, high) == pytest.approx((means[10], means[16]))


def test_the_interval_of_many_values_is_the_normal_interval() -> None:
    values = np.random.default_rng(1).random(400)
    mean = mean_with_interval(values.tolist())
    width = 1.96 * values.std() / 20
    assert mean.low == pytest.approx(values.mean() - width, abs=0.003)
    assert mean.high == pytest.approx(values.mean() + width, abs=0.003)
    assert mean_with_interval(values.tolist()) == mean


@pytest.mark.parametrize("values", [[0.25], [1.0] * 9])
def test_the_interval_of_equal_values_is_a_point(values: list[float]) -> None:
    mean = mean_with_interval(values)
    assert (mean.estimate, mean.low, mean.high) == pytest.approx((values[0],) * 3)


def test_independent_samples_are_resampled_separately() -> None:
    """The variance of a sum of means is the sum of the variances; a constant sample shifts it."""
    generator = np.random.default_rng(2)
    first, second = generator.random(400), generator.random(300)
    low, high = bootstrap_interval([first, second, np.full(5, 2.0)], 0.95)
    middle = first.mean() + second.mean() + 2
    width = 1.96 * np.sqrt(first.var() / 400 + second.var() / 300)
    assert low == pytest.approx(middle - width, abs=0.005)
    assert high == pytest.approx(middle + width, abs=0.005)
