"""The bootstrap: how far a mean depends on which values happen to be in a sample.

Percentile method (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Seeded: equal values give equal intervals. Here because two rooms need it that do not know each
other: evaluation for scores, registry for gains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 10_000
_AT_ONCE = 1_000


def bootstrap_means(values_P: npt.NDArray[np.float64], seed: int = 0) -> npt.NDArray[np.float64]:
    """The means of `NUM_RESAMPLES` draws of as many values, with replacement."""
    generator, num = np.random.default_rng(seed), len(values_P)
    # A resample is how often each value is in it: drawing counts takes less memory than drawing
    # values.
    chances = np.full(num, 1 / num)
    parts = [
        generator.multinomial(num, chances, size=_AT_ONCE) @ values_P / num
        for _ in range(NUM_RESAMPLES // _AT_ONCE)
    ]
    return np.concatenate(parts)


def percentile_interval(values: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    """The bounds of the middle `level` (0.95, say) of some values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
