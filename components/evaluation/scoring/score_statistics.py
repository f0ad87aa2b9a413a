"""pass@k and means over problems, with confidence intervals.

pass@k is the probability that at least one of k samples passes, estimated without bias from n >= k
samples (Chen et al. 2021, arXiv 2107.03374, equation 1): the mean over problems of
`1 - C(n - c, k) / C(n, k)`, where c of n samples passed. It is computed in integers, so large
binomials lose no precision.

Intervals resample problems, since samples of one problem are no independent evidence about other
problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import comb
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from pydantic import JsonValue

from components.core.confidence_interval import bootstrap_interval

LEVEL = 0.95


class MeanEstimate(NamedTuple):
    """A mean over problems with the bounds of its 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float

    def as_record(self) -> dict[str, JsonValue]:
        """Return `estimate`, `low` and `high`."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}

    def as_metrics(self, name: str) -> dict[str, JsonValue]:
        """Return flat metrics: `name`, `name_low` and `name_high`."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}


class PassCounts(NamedTuple):
    """How many samples of one problem passed."""

    group: str
    """Problems of one group are one value of the mean, and are resampled together."""
    num_samples: int
    num_passed: int


def mean_with_interval(values: Sequence[float]) -> MeanEstimate:
    """Return the mean of one value per problem."""
    low, high = bootstrap_interval([np.asarray(values, dtype=np.float64)], LEVEL)
    return MeanEstimate(fmean(values), low, high)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> Fraction:
    """Return the exact estimate for one problem.

    Raises:
        ValueError: k exceeds num_samples, or the counts are inconsistent.
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"no pass@{k} of {num_passed} passes in {num_samples} samples")
    return 1 - Fraction(comb(num_samples - num_passed, k), comb(num_samples, k))


def mean_pass_at_k(num_samples: int, passes: Sequence[int], ks: Iterable[int]) -> dict[str, float]:
    """Return the mean over problems by k, as a fraction; a k above `num_samples` is omitted.

    Args:
        passes: the number of passed samples of each problem.
    """
    # Large binomials are slow, so each distinct count is computed once.
    num_problems_by_count = Counter(passes)
    means = {}
    for k in sorted({k for k in ks if k <= num_samples}):
        total = sum(
            num * pass_at_k(num_samples, passed, k) for passed, num in num_problems_by_count.items()
        )
        means[str(k)] = float(total / len(passes))
    return means


def estimate_pass_at_k(counts: Sequence[PassCounts], ks: Iterable[int]) -> dict[str, MeanEstimate]:
    """Return pass@k by k with intervals; omits a k if a problem has fewer samples."""
    estimates = {}
    for k in sorted(set(ks)):
        if counts and all(k <= count.num_samples for count in counts):
            by_group: dict[str, list[float]] = {}
            for count in counts:
                value = float(pass_at_k(count.num_samples, count.num_passed, k))
                by_group.setdefault(count.group, []).append(value)
            estimates[str(k)] = mean_with_interval([fmean(values) for values in by_group.values()])
    return estimates


def metrics_by_problem(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return `pass@k` and `pass_rate_*` by problem, to compare two models in pairs.

    Only metrics that are means over problems are included, under the names of the statistics.
    pass@k is of the set that is best for k, as in the statistics.

    Args:
        results: the content of an evaluation's `results.json`.

    Returns:
        Values by metric and problem; empty if nothing was executed.
    """
    metrics = {}
    for k, best in results.get("pass_at_k", {}).items():
        sample_set = results["sets"][best["set"]]
        metrics[f"pass@{k}"] = {
            problem: float(pass_at_k(sample_set["num_samples"], passed, int(k)))
            for problem, passed in sample_set["passes"].items()
        }
    for label, rates in (results.get("rates") or {}).items():
        metrics[f"pass_rate_{label}"] = dict(rates["problem"])
        metrics[f"pass_rate_strict_{label}"] = dict(rates["problem_strict"])
    return metrics
