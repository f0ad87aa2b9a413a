"""Decides which batches to skip: those without a finite loss or gradient, and loss spikes.

An overflow of fp16 gradients also skips an update. It is counted, but not limited: DeepSpeed lowers
the loss scale, and stops the stage at the lowest.

The decision for a step depends on the losses of this and earlier steps only. Every rank has all of
them, so all ranks decide alike, and so does a resumed stage. The spike rule is that of OLMo-core's
skip-step optimizer, applied to the loss. Not covered: spikes of the gradient norm, which DeepSpeed
computes only as part of the optimizer step.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

SPIKE_WINDOW = 128
"""Number of previous losses that a loss is compared with."""
_MIN_LOSSES = SPIKE_WINDOW // 2
"""Losses required before a loss can be a spike."""


class SkipState(NamedTuple):
    """The state of the rule after a step, stored in checkpoints."""

    num_skipped: int = 0
    """Batches that were skipped by the rule."""
    num_overflows: int = 0
    """Batches without an update because their gradient overflowed fp16."""
    losses: tuple[float, ...] = ()
    """Losses of the last batches that were not skipped, oldest first."""

    @property
    def num_without_update(self) -> int:
        """Batches that changed no weight."""
        return self.num_skipped + self.num_overflows


class StepSkipper:
    """Applies the rule to the steps of a stage."""

    def __init__(self, limit: int, loss_spike_num_std: float | None, state: SkipState) -> None:
        """`limit`, `loss_spike_num_std`: see `StageConfig`."""
        self._limit = limit
        self._spike_num_std = loss_spike_num_std
        self.num_skipped = state.num_skipped
        self._num_overflows = state.num_overflows
        self._losses = deque(state.losses, maxlen=SPIKE_WINDOW)

    @property
    def state(self) -> SkipState:
        """The state to resume from."""
        return SkipState(self.num_skipped, self._num_overflows, tuple(self._losses))

    @property
    def is_limit_exceeded(self) -> bool:
        """Whether more batches were skipped than allowed."""
        return self.num_skipped > self._limit

    def skip_reason(self, losses: Sequence[float]) -> str | None:
        """The reason to skip a batch with these micro-batch losses; None to train on it."""
        for loss in losses:
            if not math.isfinite(loss):
                return f"the loss is {loss}"
        if self._spike_num_std is None or len(self._losses) < _MIN_LOSSES:
            return None
        mean = statistics.fmean(self._losses)
        deviation = statistics.pstdev(self._losses)
        loss = statistics.fmean(losses)
        threshold = mean + self._spike_num_std * deviation
        if loss <= threshold:
            return None
        window = f"last {len(self._losses)}: {mean:.3f} +- {deviation:.3f}"
        return f"the loss is {loss:.3f}, above {threshold:.3f} ({window})"

    def record(self, loss: float | None) -> None:
        """Record a step: the loss of its batch, or None if the batch was skipped."""
        if loss is None:
            self.num_skipped += 1
        else:
            self._losses.append(loss)

    def record_overflow(self) -> None:
        """Record a step whose update was skipped because its gradient overflowed fp16."""
        self._num_overflows += 1
