"""The loop of one rank: batches in, optimizer steps, one line of metrics each, a checkpoint now and then.

What happens in step s depends on s, the run and the state that a checkpoint holds, and on nothing else: the learning rate
and the batch are pure functions of s, and the model has no dropout. So a stage that was killed and resumed ends with the
same bits as one that was not (on the same place), and the next steps' batches can be read while this one is computed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.core.errors import TrainingError
from components.tokenizer.prefetch import Prefetcher
from components.training.batches import Batches
from components.training.checkpoints import Checkpoints
from components.training.config import TrainingPlace
from components.training.distributed import gather_values
from components.training.hardware import Hardware
from components.training.metrics import MetricsFile, StepMetrics
from components.training.run import METRICS, StageRun
from components.training.schedule import learning_rate
from components.training.stopping import stopped, was_told

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    """What came of a step; times in s."""

    loss: float
    grad_norm: float
    data_wait_s: float
    checkpoint_wait_s: float
    """Of the checkpoint before it."""


@dataclass(frozen=True)
class Trainer:
    """One rank's part of a stage."""

    engine: Any
    run: StageRun
    place: TrainingPlace
    hardware: Hardware
    batches: Batches
    checkpoints: Checkpoints

    def train(self, folder: Path, done: int) -> float:
        """Take every step after `done`, and return the loss of the last one. All ranks call it together.

        Raises:
            TrainingError: the loss or the gradient is no longer finite.
            StorageFull: no room for a checkpoint.
        """
        device, precision, peak_flops = self.hardware
        logger.info(
            "stage %s goes on after step %d; %s, %s, measured peak %.1f GFLOP/s",
            *(self.run.stage, done, device, precision, peak_flops / 1e9),
        )
        if dist.get_rank() != 0:
            return [step.loss for step in self._steps(done)][-1]
        with MetricsFile(folder / METRICS, after_step=done) as metrics:
            clock = _Clock(self.run, peak_flops, done, metrics.elapsed_s)
            for step in self._steps(done):
                metrics.append(clock.tick(step))
        return step.loss

    def _steps(self, done: int) -> Iterator[_Step]:
        """What came of each step after `done`; a due checkpoint follows.

        Raises:
            TrainingError: besides what a step raises, a rank was told to end; the step is saved by then.
        """
        steps, last, waited_s, checkpoint_s = range(done + 1, self.run.config.steps + 1), self.run.config.steps, 0.0, 0.0
        with Prefetcher(self.batches.of_step, steps) as batches:
            for step, micro_batches in zip(steps, batches, strict=True):
                data_wait_s, waited_s = batches.wait_s - waited_s, batches.wait_s
                loss, grad_norm, is_last = self._step(step, micro_batches)
                yield _Step(loss, grad_norm, data_wait_s, checkpoint_s)
                checkpoint_s = 0.0
                if step < last and (is_last or step % self.place.checkpoint_every_steps == 0):
                    checkpoint_s = self.checkpoints.save(self.engine, step)
                if step < last and is_last:
                    self.checkpoints.finish()
                    raise stopped(self.run.stage, step)

    def _step(self, step: int, micro_batches: list[Tensor]) -> tuple[float, float, bool]:
        """Loss, norm of the gradient, and whether a rank was told to end after this step."""
        rate = learning_rate(step, self.run.config)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        losses: list[Tensor] = []
        for tokens_BT in micro_batches:
            loss = self.engine(tokens_BT.to(self.hardware.device, non_blocking=True), z_loss=self.run.config.z_loss)
            self.engine.backward(loss)
            losses.append(loss.detach())
            if len(losses) == len(micro_batches):
                told = torch.tensor(float(was_told()), device=self.hardware.device)
                *by_micro, every_told = zip(*gather_values(torch.stack([*losses, told]).double()), strict=True)
                self._require_finite(step, by_micro)
                own_norm = self._own_norm()
            self.engine.step()
        every = [value for values in by_micro for value in values]
        grad_norm = float(self.engine.get_global_grad_norm() if own_norm is None else own_norm)
        if not math.isfinite(grad_norm):
            raise self._diverged(step, f"the gradient's norm is {grad_norm}", self.batches.sequences_of_step(step))
        return math.fsum(every) / len(every), grad_norm, any(every_told)

    def _own_norm(self) -> float | None:
        """The gradient's norm where DeepSpeed does not tell it: without ZeRO, in fp32. Every rank has all of it by now."""
        if self.place.zero_stage or self.hardware.precision != "fp32":
            return None
        return float(nn.utils.get_total_norm(one.grad for one in self.engine.module.parameters()))

    def _require_finite(self, step: int, by_micro: list[tuple[float, ...]]) -> None:
        """Stop before the step is taken, naming the sequences of the micro-batches that were not finite."""
        values = {(rank, micro): value for micro, row in enumerate(by_micro) for rank, value in enumerate(row)}
        bad = [where for where, value in values.items() if not math.isfinite(value)]
        if bad:
            sequences = [number for rank, micro in bad for number in self.batches.sequences_of(step, rank, micro)]
            raise self._diverged(step, f"the loss is {values[bad[0]]}", sequences)

    def _diverged(self, step: int, what: str, sequences: list[int]) -> TrainingError:
        numbers = ", ".join(map(str, sequences))
        return TrainingError(
            f"stage {self.run.stage}, step {step}: {what} on the sequences {numbers} of the train split",
            expected="a finite number",
            do="lower learning_rate, lengthen warmup_steps, or look at those sequences",
        )


class _Clock:
    """Turns a step's results and the time it took into its line of metrics."""

    def __init__(self, run: StageRun, peak_flops: float, done: int, elapsed_s: float) -> None:
        self._run, self._peak_flops, self._done, self._step = run, peak_flops, done, done
        self._before_s = elapsed_s
        self._started = self._last = time.monotonic()

    def tick(self, step: _Step) -> StepMetrics:
        """The metrics of the step that has just been taken."""
        now = time.monotonic()
        step_s, self._last = now - self._last, now
        self._step += 1
        config = self._run.config
        tokens_per_s = config.batch_tokens / step_s
        mean_step_s = (now - self._started) / (self._step - self._done)
        return StepMetrics(
            step=self._step,
            loss=step.loss,
            learning_rate=learning_rate(self._step, config),
            grad_norm=step.grad_norm,
            tokens=self._step * config.batch_tokens,
            tokens_per_s=tokens_per_s,
            mfu=tokens_per_s * self._run.model.flops_per_token / self._peak_flops,
            data_wait_s=step.data_wait_s,
            checkpoint_wait_s=step.checkpoint_wait_s,
            peak_flops=self._peak_flops,
            elapsed_s=self._before_s + now - self._started,
            time_left_s=mean_step_s * (config.steps - self._step),
        )
