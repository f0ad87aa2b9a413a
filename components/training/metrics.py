"""One line per optimizer step.

`metrics.jsonl` is the progress stream as well as its record: rank 0 appends, the flow reads along. A resumed stage first
cuts the file back to the step that it resumes from, so each step stands there exactly once.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Self

from components.core.config import Config
from components.core.errors import ConfigError
from components.core.files import write_jsonl

logger = logging.getLogger(__name__)


class StepMetrics(Config):
    """One optimizer step. The fields up to `held_out` are the same in every run of the recipe on one place."""

    step: int
    """Counted from 1 in each stage."""
    tokens: int
    """Seen in this stage so far."""
    loss: float | None
    """Mean over the global batch, in nats per token, z-loss included. None: not finite, so the batch was left out."""
    learning_rate: float
    grad_norm: float | None
    """Global L2 norm before clipping. None: not finite, or not computed, since the batch was left out."""
    skipped: bool = False
    """The batch was left out: no weight changed."""
    bits_per_byte: float | None = None
    """The loss over the bytes of text that the batch's predicted tokens stand for, z-loss included."""
    held_out: dict[str, float | None] | None = None
    """Bits per byte on held-out documents after this step, by language, where they were measured. None: not finite."""
    tokens_per_s: float
    """Of this step, and of the checkpoint before it where there was one."""
    mfu: float
    """Model FLOPs utilisation of this step: the model's FLOPs per second over `peak_flops`."""
    peak_flops: float | None = None
    """FLOP/s that all ranks together reached in the probe at the start of this attempt (`peak`), the denominator of `mfu`.
    None in lines of a stage that was begun before this was noted."""
    data_wait_s: float = 0.0
    """How long rank 0 waited for this step's batch; a stage that an older version began has lines without it."""
    checkpoint_wait_s: float = 0.0
    """How long training stood still for the checkpoint before this step."""
    evaluation_s: float = 0.0
    """Spent on held-out documents after this step; in no figure of speed."""
    peak_memory_bytes: int | None = None
    """The most that any rank has held since it began: on a GPU of tensors, else of the whole process."""
    elapsed_s: float
    """Spent on the steps of this stage so far, attempts that were killed included."""
    time_left_s: float


class MetricsFile:
    """`metrics.jsonl`, opened to go on after a given step."""

    def __init__(self, path: Path, after_step: int) -> None:
        """Keep the lines up to `after_step`, drop later ones (and one that was cut in half, or that a disk has damaged)."""
        kept = [line for line in read_metrics(path) if line.step <= after_step]
        if len(kept) != after_step:
            logger.warning(
                "%s has lost the figures of %d steps; the weights have not",
                path,
                after_step - len(kept),
            )
        self.elapsed_s = kept[-1].elapsed_s if kept else 0.0
        write_jsonl(path, (line.model_dump() for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def append(self, metrics: StepMetrics) -> None:
        """Add a line, at once visible to readers."""
        self._file.write(json.dumps(metrics.model_dump(), sort_keys=True, allow_nan=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[StepMetrics]:
    """The whole lines of a metrics file; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in map(_line, lines) if line is not None]


def _line(line: bytes) -> StepMetrics | None:
    """None of a line that a kill has cut in half, or of which a disk has lost bytes: nothing else hangs on it."""
    try:
        return StepMetrics.parse(json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError, ConfigError):
        return None
