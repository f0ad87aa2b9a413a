"""pass@k against hand-computed values and against counting all draws."""

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.scoring.statistics import mean_pass_at_k, pass_at_k


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
def test_by_hand(num_samples: int, num_passed: int, k: int, expected: Fraction) -> None:
    assert pass_at_k(num_samples, num_passed, k) == expected


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_it_is_the_share_of_draws_with_a_pass(case: tuple[int, int, int]) -> None:
    num_samples, num_passed, k = case
    draws = list(combinations([True] * num_passed + [False] * (num_samples - num_passed), k))
    assert pass_at_k(num_samples, num_passed, k) == Fraction(
        sum(any(draw) for draw in draws), len(draws)
    )


def test_there_is_no_estimate_for_more_than_was_drawn() -> None:
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)
    assert mean_pass_at_k(2, [1, 0], [1, 2, 10, 100]) == {"1": 0.25, "2": 0.5}
