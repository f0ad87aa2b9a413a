"""What both benchmarks need of a sampler, and how every sample gets a seed of its own.

One decision: the seed of a sample is a hash of the run's seed and of what the sample is for, so drawing more samples, other
problems or in another order changes no sample that was drawn before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol


class Completer(Protocol):
    """What draws completions: `components.evaluation.sampling.Sampler`."""

    def complete(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None,
    ) -> list[str]:
        """One completion (without its prompt) for each prompt, the same for the same prompt and seed."""


def sample_seed(seed: int, *purpose: str | int) -> int:
    """A seed below 2**63 for one sample, from the run's seed and what the sample is for."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
