"""pass@k, the chance that at least one of k samples passes, estimated without bias from n >= k samples.

Chen et al. 2021 (arXiv 2107.03374), equation 1: the mean over problems of 1 - C(n - c, k) / C(n, k), where c of n samples
passed. Computed in whole numbers, so nothing is lost where the binomials are large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import comb


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
    alike = Counter(passes)  # Problems of equal counts have equal estimates, and large binomials take their time.
    return {
        str(k): float(sum(num * pass_at_k(num_samples, passed, k) for passed, num in alike.items()) / len(passes))
        for k in sorted(set(ks))
        if k <= num_samples
    }
