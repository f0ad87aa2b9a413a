"""Metrics of a stage: a line of `metrics.jsonl` per optimizer step.

Rank 0 appends and the flow reads while the stage runs. A resumed stage first truncates the file to
the step that it resumes from, so the file contains each step once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError
from components.core.files import parse_json, read_json, read_jsonl, write_jsonl
from components.training.budget import Usage

logger = logging.getLogger(__name__)


class StepMetrics(Config):
    """An optimizer step.

    The fields up to `held_out` are equal in every run of a recipe with the same execution config.
    """

    step: int
    """Counted from 1 in each stage."""
    tokens: int
    """Tokens of this stage so far."""
    loss: float | None
    """Mean over the global batch in nats per token, z-loss included. None: not finite."""
    learning_rate: float
    grad_norm: float | None
    """Global L2 norm before clipping. None: not finite, or the batch was skipped."""
    skipped: bool = False
    """The batch was skipped: no weight changed."""
    loss_scale: float | None = None
    """Loss scale of the next step in fp16; None in other precisions."""
    bits_per_byte: float | None = None
    """The loss per byte of the text that the predicted tokens represent, z-loss included."""
    held_out: dict[str, float | None] | None = None
    """Bits per byte on held-out documents by language, if evaluated after this step. None: not
    finite."""
    tokens_per_s: float
    """Throughput of this step, including a checkpoint before it."""
    mfu: float
    """Model FLOPs utilisation, at most 1: the model's FLOP/s divided by `peak_flops`."""
    peak_flops: float | None = None
    """FLOP/s of all ranks together, measured when this attempt started, or the model's FLOP/s in a
    faster step. None in lines of older versions."""
    data_wait_s: float = 0.0
    """Time that rank 0 waited for the batch. Absent in lines of older versions."""
    checkpoint_wait_s: float = 0.0
    """Time that training waited for the checkpoint before this step."""
    evaluation_s: float = 0.0
    """Time of the held-out evaluation after this step; not part of `tokens_per_s`."""
    peak_memory_bytes: int | None = None
    """Peak memory of a rank since its start: tensors on a GPU, otherwise the whole process."""
    elapsed_s: float
    """Time of this stage so far, over all attempts: start-up of the ranks, steps, and steps that
    were lost in an interruption."""
    device_s: float = 0.0
    """The same in seconds of all devices together."""
    time_left_s: float

    @property
    def usage(self) -> Usage:
        """Time and devices of this stage so far."""
        return Usage(elapsed_s=self.elapsed_s, device_s=self.device_s)


class Restart(Config):
    """An attempt that continued an interrupted attempt of a stage."""

    resumed_step: int
    """Step of the checkpoint; 0: there was none, so the stage started again."""
    lost_steps: int
    """Finished steps of the interrupted attempt that are repeated."""
    damaged_steps: ListOrTuple[int] = ()
    """Steps of newer checkpoints that were damaged."""


def record_restart(
    path: Path, metrics: Path, resumed_step: int, damaged_steps: Sequence[int]
) -> None:
    """Append a restart to a file, unless this is the first attempt of the stage.

    Args:
        metrics: the metrics file, with the lines of the interrupted attempt.
    """
    steps = [line.step for line in read_metrics(metrics)]
    if not steps and not resumed_step:
        return
    restart = Restart(
        resumed_step=resumed_step,
        lost_steps=max(0, max(steps, default=0) - resumed_step),
        damaged_steps=tuple(damaged_steps),
    )
    write_jsonl(path, [entry.model_dump() for entry in [*read_restarts(path), restart]])


def read_restarts(path: Path) -> list[Restart]:
    """The restarts of a stage, oldest first; an empty list if there is no file."""
    return [Restart.parse(line) for line in read_jsonl(path)] if path.exists() else []


class MetricsFile:
    """`metrics.jsonl`, opened to append the steps after a given step."""

    def __init__(self, path: Path, after_step: int) -> None:
        """Keep the valid lines up to `after_step`, drop the others."""
        lines = [line for line in read_metrics(path) if line.step <= after_step]
        if len(lines) != after_step:
            num_lost = after_step - len(lines)
            logger.warning(
                "%s has lost the metrics of %d steps; weights are not affected", path, num_lost
            )
        write_jsonl(path, (line.model_dump() for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def append(self, metrics: StepMetrics) -> None:
        """Append a line and flush it."""
        self._file.write(json.dumps(metrics.model_dump(), sort_keys=True, allow_nan=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class MetricsTail:
    """Reads the lines that the trainer appends to a metrics file."""

    def __init__(self, path: Path, *, skip_existing: bool = False) -> None:
        """`skip_existing`: ignore the present file; the trainer replaces it with a new file."""
        self._path = path
        self._ignored_inode = _inode(path) if skip_existing else None
        self._offset = 0
        self.last_step = 0

    def restart(self) -> None:
        """Wait for a new file of a restarted trainer. Steps that were read are not repeated."""
        self._ignored_inode = _inode(self._path)
        self._offset = 0

    def read(self) -> list[StepMetrics]:
        """The lines that were completed since the last call."""
        if _inode(self._path) in (None, self._ignored_inode):
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        lines = [StepMetrics.parse(parse_json(line)) for line in complete.splitlines()]
        new_lines = [line for line in lines if line.step > self.last_step]
        if new_lines:
            self.last_step = new_lines[-1].step
        return new_lines


def read_metrics(path: Path) -> list[StepMetrics]:
    """The valid lines of a metrics file; an empty list if there is no file."""
    if not path.exists():
        return []
    return parse_metrics(path.read_bytes())


def parse_metrics(content: bytes) -> list[StepMetrics]:
    """The valid lines of the content of a metrics file."""
    lines = content.splitlines(keepends=True)
    return [metrics for metrics in map(_parse_line, lines) if metrics is not None]


def read_usage(path: Path, steps: Sequence[StepMetrics]) -> Usage:
    """The usage of all attempts of a stage.

    Args:
        path: the usage file; it counts lines that an attempt has dropped. It may not exist.
        steps: the lines of the metrics file.
    """
    usage = Usage.parse(read_json(path)) if path.exists() else Usage()
    return usage.maximum(steps[-1].usage) if steps else usage


def _parse_line(line: bytes) -> StepMetrics | None:
    """The metrics of a line. None if a crash truncated the line or a disk error damaged it."""
    try:
        return StepMetrics.parse(parse_json(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError, ConfigError):
        return None


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
