"""Which batches are left out: those whose loss or gradient is not finite and, where a stage asks for it, those that spike.

Whether step s is left out depends on the losses of the steps before it and on its own, and on nothing else. Every rank knows
all of them, so all ranks decide alike, and so does a stage that goes on after a kill. A spike is the rule of OLMo-core's
skip-step optimizer, on the loss: more than so many standard deviations above the mean of the last 128 batches. Not covered:
a spike of the gradient's norm, which DeepSpeed knows only as it takes the step; going back to an earlier checkpoint.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WINDOW = 128
"""Batches that a loss is compared with."""
_FEWEST = WINDOW // 2
"""With fewer behind it no loss is called a spike."""


class SkipState(NamedTuple):
    """What a stage that goes on has to know of its earlier steps."""

    num_skipped: int = 0
    losses: tuple[float, ...] = ()
    """Of the last batches that were not left out, the oldest first."""

    @classmethod
    def of(cls, steps: Iterable[tuple[float | None, bool]]) -> SkipState:
        """From the loss of every step, and whether it was left out."""
        losses, num_skipped = deque[float](maxlen=WINDOW), 0
        for loss, skipped in steps:
            num_skipped += skipped
            if not skipped and loss is not None:
                losses.append(loss)
        return cls(num_skipped, tuple(losses))


class StepSkipper:
    """The batches that are left out of one stage."""

    def __init__(self, limit: int, loss_spike_num_std: float | None, before: SkipState) -> None:
        """limit, loss_spike_num_std: see `StageConfig`."""
        self._limit, self._spike_deviations = limit, loss_spike_num_std
        self.count = before.num_skipped
        self._losses = deque(before.losses, maxlen=WINDOW)

    @property
    def state(self) -> SkipState:
        """What a later step has to know of those before it."""
        return SkipState(self.count, tuple(self._losses))

    @property
    def limit_exceeded(self) -> bool:
        """Whether more batches were left out than may be."""
        return self.count > self._limit

    def reason(self, losses: Sequence[float]) -> str | None:
        """Why a batch whose micro-batches have these losses is to be left out; None where it is not."""
        unfit = next((loss for loss in losses if not math.isfinite(loss)), None)
        if unfit is not None:
            return f"the loss is {unfit}"
        if self._spike_deviations is None or len(self._losses) < _FEWEST:
            return None
        mean, deviation = statistics.fmean(self._losses), statistics.pstdev(self._losses)
        loss, most = statistics.fmean(losses), mean + self._spike_deviations * deviation
        if loss <= most:
            return None
        return f"the loss is {loss:.3f}, above {most:.3f} (of the last {len(self._losses)}: {mean:.3f} +- {deviation:.3f})"

    def note(self, loss: float | None) -> None:
        """Remember a step: the loss of its batch, or None where that was left out."""
        if loss is None:
            self.count += 1
        else:
            self._losses.append(loss)
