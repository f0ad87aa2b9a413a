"""The budget of a training: the time and the devices that it has used, and when it stops.

A budget counts the training of all stages of a recipe over all attempts: start-up of the ranks,
steps, waiting for checkpoints and data, and steps that a crash has lost. It decides when a stage
stops, never a weight: a stage that stops saves a checkpoint first, and resumes from it when the
budget is raised. Not counted: preparation, evaluations, and the time to save the last checkpoint.
"""

from __future__ import annotations

import math
import time

import psutil

from components.core.config import Config
from components.core.errors import BudgetError
from components.training.config import Budget

_S_PER_HOUR = 3600
_MIN_DECIMAL = 0.01


class Usage(Config):
    """Time and devices that training has used."""

    elapsed_s: float = 0.0
    """Seconds of the clock."""
    device_s: float = 0.0
    """Seconds of all devices together."""

    def plus(self, other: Usage) -> Usage:
        """Return the sum of two usages."""
        return Usage(
            elapsed_s=self.elapsed_s + other.elapsed_s, device_s=self.device_s + other.device_s
        )

    def maximum(self, other: Usage) -> Usage:
        """Return the larger value of each field."""
        return Usage(
            elapsed_s=max(self.elapsed_s, other.elapsed_s),
            device_s=max(self.device_s, other.device_s),
        )

    def after(self, seconds: float, num_devices: int) -> Usage:
        """Return this usage and `seconds` more on a number of devices."""
        return self.plus(Usage(elapsed_s=seconds, device_s=seconds * num_devices))


def seconds_left(budget: Budget, usage: Usage, num_devices: int) -> float:
    """Return the seconds until training reaches a limit; infinite without limits."""
    left_s = math.inf
    if budget.hours is not None:
        left_s = budget.hours * _S_PER_HOUR - usage.elapsed_s
    if budget.price is not None and budget.price_per_hour is not None:
        max_device_s = budget.price / budget.price_per_hour * _S_PER_HOUR
        left_s = min(left_s, (max_device_s - usage.device_s) / num_devices)
    return left_s


def is_spent(budget: Budget, usage: Usage, num_devices: int, step_s: float) -> bool:
    """Return whether another step would exceed a limit.

    Args:
        budget: the limits.
        usage: of the whole training so far.
        num_devices: number of devices that train.
        step_s: seconds of a step. Two of them must be left: this is asked during a step.
    """
    left_s = seconds_left(budget, usage, num_devices)
    return left_s <= 0 or left_s < 2 * step_s


def describe_usage(budget: Budget, usage: Usage) -> str:
    """Return, for example, `9.98 hours, at a price of 199.6`."""
    text = f"{_format(usage.elapsed_s / _S_PER_HOUR)} hours"
    if budget.price_per_hour is not None:
        price = usage.device_s / _S_PER_HOUR * budget.price_per_hour
        text += f", at a price of {_format(price)}"
    return text


def _format(number: float) -> str:
    """Two decimals at most; a small number with an exponent."""
    if number < _MIN_DECIMAL:
        return f"{number:.2g}"
    return f"{number:,.2f}".rstrip("0").rstrip(".")


def describe_limits(budget: Budget) -> str:
    """Return, for example, `training.budget.hours 10 and training.budget.price 200`."""
    limits = budget.limits.items()
    return " and ".join(f"training.budget.{name} {_format(limit)}" for name, limit in limits)


def excess_forecast(budget: Budget, needed: Usage, num_devices: int) -> str:
    """Return a warning that the whole training needs more than the budget; empty if it does not."""
    if seconds_left(budget, needed, num_devices) >= 0:
        return ""
    return (
        f"at the present speed, training needs {describe_usage(budget, needed)}, more than "
        f"{describe_limits(budget)}; it will stop at a checkpoint unless you raise the limit"
    )


def budget_error(
    event: str, budget: Budget, usage: Usage, time_left_s: float | None
) -> BudgetError:
    """Return the error of a stage whose next step would exceed the budget.

    Args:
        event: the reaction of the stage.
        budget: the limits.
        usage: of the whole training, this stage included.
        time_left_s: seconds that the rest of this stage needs at its present speed, if known.
    """
    names = [f"training.budget.{name}=..." for name in budget.limits]
    need = ""
    if time_left_s:
        need = (
            f"; the rest of this stage needs about {_format(time_left_s / _S_PER_HOUR)} hours more"
        )
    return BudgetError(
        f"{event}: training has used {describe_usage(budget, usage)}",
        expected=f"another step within {describe_limits(budget)}",
        fix=f"run the same command again with a higher limit (--exec {' or '.join(names)}) to "
        f"resume from the last checkpoint{need}",
    )


class StageClock:
    """Measures the usage of a stage over its attempts, and checks the budget. Rank 0 has it."""

    def __init__(
        self, budget: Budget, num_devices: int, earlier_attempts: Usage, earlier_stages: Usage
    ) -> None:
        """Start at the start of this process."""
        self._budget = budget
        self._num_devices = num_devices
        self._earlier_attempts = earlier_attempts
        self._earlier_stages = earlier_stages
        now_s = time.monotonic()
        # Start-up counts: importing libraries, building or reading the model.
        self._start_s = now_s - max(0.0, time.time() - psutil.Process().create_time())
        self._first_call_s: float | None = None
        self._last_call_s = 0.0
        self._num_calls = 0

    @property
    def usage(self) -> Usage:
        """Usage of this stage so far."""
        seconds = time.monotonic() - self._start_s
        return self._earlier_attempts.after(seconds, self._num_devices)

    def is_last_step(self) -> bool:
        """Return whether the step after the present one would exceed the budget.

        Called once in every step, at the same point. The present step and the next are assumed to
        take as long as the time since the last call.
        """
        now_s = time.monotonic()
        step_s = 0.0 if self._first_call_s is None else now_s - self._last_call_s
        self._first_call_s = now_s if self._first_call_s is None else self._first_call_s
        self._last_call_s = now_s
        self._num_calls += 1
        return is_spent(self._budget, self._total_usage, self._num_devices, step_s)

    def error(self, stage: str, step: int, num_steps: int) -> BudgetError:
        """Return the error of a stage that stops after a step."""
        time_left_s = None
        if self._first_call_s is not None and self._num_calls > 1:
            mean_step_s = (self._last_call_s - self._first_call_s) / (self._num_calls - 1)
            time_left_s = (num_steps - step) * mean_step_s
        event = f"stage {stage} saved a checkpoint and stopped after step {step:,} of {num_steps:,}"
        return budget_error(event, self._budget, self._total_usage, time_left_s)

    @property
    def _total_usage(self) -> Usage:
        return self._earlier_stages.plus(self.usage)
