"""Bootstrap confidence intervals of means.

Percentile method (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13),
computed by SciPy. Seeded: equal values give equal intervals. Evaluation uses it for scores,
registry for differences of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 10_000
_BATCH_SIZE = 1_000
"""Resamples in memory at once: 1,640 values take 26 MB."""


def bootstrap_interval(
    samples: Sequence[npt.NDArray[np.float64]], level: float, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the sum of the samples' means at `level` (for example 0.95).

    Args:
        samples: independent samples, each resampled with replacement by itself; often one.
    """
    # The mean of equal values is the same in every resample; SciPy rejects a sample of one value.
    constant = float(sum(sample[0] for sample in samples if np.ptp(sample) == 0))
    varying = [sample for sample in samples if np.ptp(sample) > 0]
    if not varying:
        return constant, constant
    from scipy.stats import bootstrap  # slow import

    def sum_of_means(*resamples: Any, axis: int) -> Any:
        return sum(resample.mean(axis=axis) for resample in resamples)

    interval = bootstrap(
        varying,
        sum_of_means,
        n_resamples=NUM_RESAMPLES,
        batch=_BATCH_SIZE,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return constant + float(interval.low), constant + float(interval.high)
