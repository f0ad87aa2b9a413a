"""Which batches are left out, from losses alone."""

from __future__ import annotations

import math

import pytest

from components.training.step_skipping import SPIKE_WINDOW, SkipState, StepSkipper


def test_losses_that_are_not_finite() -> None:
    skips = StepSkipper(0, None, SkipState())
    assert skips.skip_reason([1.0, math.nan]) == "the loss is nan"
    assert skips.skip_reason([math.inf]) == "the loss is inf"
    assert skips.skip_reason([1.0, 1e30]) is None, "no spike without a rule for it"


def test_a_spike_is_above_the_mean_by_so_many_deviations() -> None:
    """Half of the losses are 1 and half are 3: mean 2, standard deviation 1."""
    skips = StepSkipper(10, 6.0, SkipState())
    for number in range(63):
        skips.record(1.0 if number % 2 else 3.0)
    assert skips.skip_reason([100.0]) is None, "too few to compare with"
    skips.record(1.0)
    assert skips.skip_reason([8.0]) is None
    assert (
        skips.skip_reason([8.1, 8.1])
        == "the loss is 8.100, above 8.000 (of the last 64: 2.000 +- 1.000)"
    )
    assert skips.skip_reason([0.0, 16.0]) is None, "the mean of the batch counts"


def test_only_the_last_batches_that_were_taken_count() -> None:
    skips = StepSkipper(
        10,
        6.0,
        SkipState.of(
            [(50.0, False)] * 7 + [(2.0, False), (None, True), (99.0, True)] * SPIKE_WINDOW
        ),
    )
    assert skips.state == SkipState(num_skipped=2 * SPIKE_WINDOW, losses=(2.0,) * SPIKE_WINDOW)
    assert (
        skips.skip_reason([2.1])
        == "the loss is 2.100, above 2.000 (of the last 128: 2.000 +- 0.000)"
    )


@pytest.mark.parametrize("limit", [0, 2])
def test_more_than_the_limit_is_too_many(limit: int) -> None:
    skips = StepSkipper(limit, None, SkipState())
    for _ in range(limit):
        skips.record(None)
    assert not skips.is_limit_exceeded
    skips.record(None)
    assert skips.is_limit_exceeded
    assert StepSkipper(limit, None, skips.state).is_limit_exceeded, "a stage that goes on knows it"
