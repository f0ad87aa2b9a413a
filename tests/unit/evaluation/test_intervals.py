from __future__ import annotations

import numpy as np
import pytest

from components.core.statistics import NUM_RESAMPLES, bootstrap_means
from components.evaluation.scoring.statistics import mean_with_interval


def test_the_interval_of_a_mean_is_that_of_the_resamples_themselves() -> None:
    """Of three problems there are 27 resamples, all as likely: the true quantiles can be listed."""
    values = [0.0, 0.3, 0.9]
    every = sorted(
        sum(values[i] for i in (a, b, c)) / 3 for a in range(3) for b in range(3) for c in range(3)
    )
    found = mean_with_interval(values)
    assert found.estimate == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx(
        (every[0], every[-1])
    )  # Each extreme has a chance of 3.7 %.
    means = bootstrap_means(np.array(values))
    assert len(means) == NUM_RESAMPLES
    assert means.mean() == pytest.approx(np.mean(every), abs=0.01)
    assert means.std() == pytest.approx(np.std(every), abs=0.01)


def test_the_interval_of_many_is_the_normal_one() -> None:
    values = np.random.default_rng(1).random(400)
    found, width = mean_with_interval(values.tolist()), 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - width, abs=0.003)
    assert found.high == pytest.approx(values.mean() + width, abs=0.003)
    assert mean_with_interval(values.tolist()) == found


@pytest.mark.parametrize("values", [[0.25], [1.0] * 9])
def test_where_all_are_equal_there_is_no_doubt(values: list[float]) -> None:
    found = mean_with_interval(values)
    assert (found.estimate, found.low, found.high) == pytest.approx((values[0],) * 3)
