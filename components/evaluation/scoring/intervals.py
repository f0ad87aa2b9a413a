"""Confidence intervals of scores: how far a mean depends on which problems a benchmark happens to have.

Over problems, since samples of one problem are no independent evidence about other problems (`components.core.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue

from components.core.bootstrap import bootstrap_means, percentile_interval

LEVEL = 0.95


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
    return Estimate(
        fmean(values),
        *percentile_interval(bootstrap_means(np.asarray(values, dtype=np.float64)), LEVEL),
    )
