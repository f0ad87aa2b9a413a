"""Decisions to skip batches, from their losses."""

from __future__ import annotations

import math

import pytest

from components.training.step_skipping import SPIKE_WINDOW, SkipState, StepSkipper


def test_a_batch_without_a_finite_loss_is_skipped() -> None:
    skipper = StepSkipper(0, None, SkipState())
    assert skipper.skip_reason([1.0, math.nan]) == "the loss is nan"
    assert skipper.skip_reason([math.inf]) == "the loss is inf"
    assert skipper.skip_reason([1.0, 1e30]) is None, "no spike detection by default"


def test_a_spike_is_more_than_a_number_of_standard_deviations_above_the_mean() -> None:
    """Half of the losses are 1 and half are 3: mean 2, standard deviation 1."""
    skipper = StepSkipper(10, 6.0, SkipState())
    for number in range(63):
        skipper.record(1.0 if number % 2 else 3.0)
    assert skipper.skip_reason([100.0]) is None, "fewer than 64 losses"
    skipper.record(1.0)
    assert skipper.skip_reason([8.0]) is None
    assert (
        skipper.skip_reason([8.1, 8.1])
        == "the loss is 8.100, above 8.000 (last 64: 2.000 +- 1.000)"
    )
    assert skipper.skip_reason([0.0, 16.0]) is None, "the mean of the batch is compared"


def test_only_the_last_batches_that_were_not_skipped_are_compared() -> None:
    skipper = StepSkipper(10, 6.0, SkipState())
    for loss in [50.0] * 7 + [2.0, None, None] * SPIKE_WINDOW:
        skipper.record(loss)
    assert skipper.state == SkipState(num_skipped=2 * SPIKE_WINDOW, losses=(2.0,) * SPIKE_WINDOW)
    assert skipper.skip_reason([2.1]) == "the loss is 2.100, above 2.000 (last 128: 2.000 +- 0.000)"


def test_overflows_are_counted_without_a_limit() -> None:
    skipper = StepSkipper(0, None, SkipState(num_overflows=1))
    for _ in range(20):
        skipper.record_overflow()
    assert not skipper.is_limit_exceeded
    assert skipper.state == SkipState(num_overflows=21)
    skipper.record(None)
    assert skipper.is_limit_exceeded
    assert skipper.state.num_without_update == 22


@pytest.mark.parametrize("limit", [0, 2])
def test_the_limit_is_exceeded_by_one_more_skipped_batch(limit: int) -> None:
    skipper = StepSkipper(limit, None, SkipState())
    for _ in range(limit):
        skipper.record(None)
    assert not skipper.is_limit_exceeded
    skipper.record(None)
    assert skipper.is_limit_exceeded
    assert StepSkipper(limit, None, skipper.state).is_limit_exceeded, "after a resume"
