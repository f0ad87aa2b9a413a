"""pass@k, the chance that at least one of k samples passes, estimated without bias from n >= k samples.

Chen et al. 2021 (arXiv 2107.03374), equation 1: the mean over problems of 1 - C(n - c, k) / C(n, k), where c of n samples
passed. Computed in whole numbers, so nothing is lost where the binomials are large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import comb
from statistics import fmean
from typing import NamedTuple

from components.evaluation.scoring.intervals import Estimate, mean_with_interval


class Count(NamedTuple):
    """What became of the samples of one problem."""

    group: str
    """Problems of one group are one value of the mean, and are resampled together."""
    num_samples: int
    num_passed: int


def pass_at_k(num_samples: int, num_passed: int, k: int) -> Fraction:
    """The estimate for one problem, exactly.

    Raises:
        ValueError: there is no estimate (k above num_samples), or the counts cannot be.
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"no pass@{k} of {num_passed} passes in {num_samples} samples")
    return 1 - Fraction(comb(num_samples - num_passed, k), comb(num_samples, k))


def mean_pass_at_k(num_samples: int, passes: Sequence[int], ks: Iterable[int]) -> dict[str, float]:
    """The mean over problems by k, as a fraction; a k above `num_samples` is left out.

    `passes` are the numbers of samples that passed, one per problem.
    """
    alike = Counter(
        passes
    )  # Problems of equal counts have equal estimates, and large binomials take their time.
    return {
        str(k): float(
            sum(num * pass_at_k(num_samples, passed, k) for passed, num in alike.items())
            / len(passes)
        )
        for k in sorted(set(ks))
        if k <= num_samples
    }


def estimates(counts: Sequence[Count], ks: Iterable[int]) -> dict[str, Estimate]:
    """pass@k by k, with intervals; none of no problems, and none of a k for which a problem has too few samples."""
    found = {}
    for k in sorted(set(ks)):
        if counts and all(k <= one.num_samples for one in counts):
            by_group: dict[str, list[float]] = {}
            for one in counts:
                by_group.setdefault(one.group, []).append(
                    float(pass_at_k(one.num_samples, one.num_passed, k))
                )
            found[str(k)] = mean_with_interval([fmean(values) for values in by_group.values()])
    return found
