"""Budgets: when they are spent, and what their errors and warnings state."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.training.budget import (
    StageClock,
    Usage,
    budget_error,
    describe_usage,
    excess_forecast,
    is_spent,
    seconds_left,
)
from components.training.config import Budget, TrainingExecution

USAGE = Usage(elapsed_s=7_200.0, device_s=28_800.0)
"""Two hours on four devices."""


@pytest.mark.parametrize(
    ("budget", "num_devices", "expected_s"),
    [
        (Budget(), 4, math.inf),
        (Budget(hours=3.0), 4, 3_600.0),
        # 20 / 2.5 = 8 device-hours are spent; another 8 last two hours on four devices, one on 8.
        (Budget(price=40.0, price_per_hour=2.5), 4, 7_200.0),
        (Budget(price=40.0, price_per_hour=2.5), 8, 3_600.0),
        (Budget(hours=2.5, price=40.0, price_per_hour=2.5), 4, 1_800.0),
        (Budget(hours=1.0), 4, -3_600.0),
    ],
    ids=["none", "hours", "price", "other devices", "the lower", "exceeded"],
)
def test_the_time_left_is_that_of_the_first_limit(
    budget: Budget, num_devices: int, expected_s: float
) -> None:
    assert seconds_left(budget, USAGE, num_devices) == pytest.approx(expected_s)


@given(
    hours=st.floats(0.001, 100),
    elapsed_s=st.floats(0, 1e6),
    step_s=st.floats(0, 1e4),
    num_devices=st.integers(1, 64),
)
def test_a_step_within_the_budget_does_not_exceed_it(
    hours: float, elapsed_s: float, step_s: float, num_devices: int
) -> None:
    """The rest of the present step and the whole next step end within the limit."""
    usage = Usage(elapsed_s=elapsed_s, device_s=elapsed_s * num_devices)
    if not is_spent(Budget(hours=hours), usage, num_devices, step_s):
        assert usage.after(2 * step_s, num_devices).elapsed_s <= hours * 3600 * (1 + 1e-9)


def test_a_clock_without_limits_never_stops_and_counts_earlier_attempts() -> None:
    clock = StageClock(Budget(), 4, USAGE, Usage())
    assert not clock.is_last_step()
    usage = clock.usage
    assert usage.elapsed_s > 7_200
    assert usage.device_s - 28_800 == pytest.approx(4 * (usage.elapsed_s - 7_200))


def test_a_clock_counts_earlier_stages() -> None:
    budget = Budget(hours=2.0)
    assert StageClock(budget, 4, Usage(), USAGE).is_last_step()
    assert not StageClock(Budget(hours=1e6), 4, Usage(), USAGE).is_last_step()


def test_the_error_states_usage_limits_and_the_time_that_is_needed() -> None:
    budget = Budget(hours=2.0, price=20.0, price_per_hour=2.5)
    error = budget_error("stage nl did not start", budget, USAGE, time_left_s=5_400.0)
    assert error.got == ("stage nl did not start: training has used 2 hours, at a price of 20")
    assert error.expected == (
        "another step within training.budget.hours 2 and training.budget.price 20"
    )
    assert "--exec training.budget.hours=... or training.budget.price=..." in error.fix
    assert "about 1.5 hours more" in error.fix


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(1_447.9184, "1,447.92 hours"), (200.0, "200 hours"), (0.25, "0.25 hours"), (1e-6, "1e-06")],
)
def test_hours_are_readable(hours: float, expected: str) -> None:
    usage = Usage(elapsed_s=hours * 3600, device_s=0.0)
    assert expected in describe_usage(Budget(), usage)


def test_a_forecast_within_the_budget_is_no_warning() -> None:
    assert excess_forecast(Budget(hours=2.0), USAGE, 4) == ""
    assert excess_forecast(Budget(), USAGE, 4) == ""
    assert "needs 2 hours" in excess_forecast(Budget(hours=1.9), USAGE, 4)


@pytest.mark.parametrize(
    "values",
    [
        {"hours": 0.0},
        {"price": 10.0},
        {"price_per_hour": 2.0},
        {"price": -1.0, "price_per_hour": 1.0},
    ],
)
def test_an_invalid_budget_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="budget"):
        TrainingExecution.parse({"budget": values})


def test_a_budget_is_set_on_the_command_line() -> None:
    execution = TrainingExecution().override(["budget.price=12.5", "budget.price_per_hour=2"])
    assert execution.budget == Budget(price=12.5, price_per_hour=2.0)
