"""Confidence intervals by the bootstrap: how far a mean depends on which problems a benchmark happens to have.

Percentile method (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), over problems, since samples of
one problem are no independent evidence about other problems. Seeded: equal values give equal intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

NUM_RESAMPLES = 10_000
LEVEL = 0.95
_AT_ONCE = 1_000


class Estimate(NamedTuple):
    """A mean over problems, and the bounds between which it lies in 95 % of resamples of the problems."""

    estimate: float
    low: float
    high: float

    def record(self) -> dict[str, JsonValue]:
        """`estimate`, `low` and `high`."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}

    def figures(self, name: str) -> dict[str, JsonValue]:
        """Flat, as figures are compared: `name`, `name_low` and `name_high`."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """The mean of one value per problem."""
    means = resampled_means(np.asarray(values, dtype=np.float64))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(fmean(values), float(low), float(high))


def resampled_means(values_P: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The means of `NUM_RESAMPLES` draws of as many values, with replacement."""
    generator, num = np.random.default_rng(0), len(values_P)
    # A resample is how often each value is in it: drawing counts takes less memory than drawing values.
    chances = np.full(num, 1 / num)
    parts = [generator.multinomial(num, chances, size=_AT_ONCE) @ values_P / num for _ in range(NUM_RESAMPLES // _AT_ONCE)]
    return np.concatenate(parts)
