"""Fixed random numbers, so that the same program has the same verdict twice."""

from __future__ import annotations


def seed(source: str) -> None:
    """Seed the generators that `source` mentions."""
    if "random" in source:
        import random

        random.seed(0)
        if "numpy" in source:
            import numpy

            numpy.random.seed(0)
