"""The loop of one rank: batches in, optimizer steps, one line of metrics each, a checkpoint now and then.

What happens in step s depends on s, the run and the state that a checkpoint holds, and on nothing else: the learning rate
and the batch are pure functions of s, and the model has no dropout. So a stage that was killed and resumed ends with the
same bits as one that was not (on the same place), and the next steps' batches can be read while this one is computed.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.core.errors import TrainingError
from components.dataset.manifests import documents_in_sequences
from components.dataset.prefetch import Prefetcher
from components.training.batches import Batches
from components.training.checkpoint.manager import CheckpointManager, ResumePoint
from components.training.config import TrainingExecution
from components.training.distributed import broadcast_object, gather_values
from components.training.hardware import Hardware, peak_memory_bytes
from components.training.metrics import MetricsFile, StepMetrics, read_metrics
from components.training.preemption import preempted_error, preemption_requested
from components.training.run_file import METRICS, StageRun
from components.training.schedule import learning_rate
from components.training.step_skipping import SkipState, StepSkipper
from components.training.validation_loss import HeldOut

logger = logging.getLogger(__name__)

_MOST_NAMED = 8
"""Documents in a message."""


class _StepResult(NamedTuple):
    """What came of a step by itself."""

    loss: float | None
    grad_norm: float | None
    skipped: bool
    bits_per_byte: float | None
    peak_memory_bytes: int
    is_last: bool
    """A rank was told to end after it."""


class _Step(NamedTuple):
    """What came of a step, with what was done around it; times in s."""

    taken: _StepResult
    data_wait_s: float
    checkpoint_wait_s: float
    """Of the checkpoint before it."""
    held_out: dict[str, float | None] | None
    evaluation_s: float


@dataclass(frozen=True)
class Trainer:
    """One rank's part of a stage."""

    engine: Any
    run: StageRun
    place: TrainingExecution
    hardware: Hardware
    batches: Batches
    held_out: HeldOut
    checkpoints: CheckpointManager
    updates_before: int = 0
    """That were in the optimizer's moments when the stage began."""

    def train(self, folder: Path, found: ResumePoint | None) -> SkipState:
        """Take every step after the checkpoint; what is known of all steps then. All ranks call it together.

        Raises:
            TrainingError: more batches than may be had to be left out.
            StorageFull: no room for a checkpoint.
        """
        device, precision, peak_flops = self.hardware
        done = found.step if found else 0
        logger.info(
            "stage %s goes on after step %d; %s, %s, measured peak %.1f GFLOP/s",
            *(self.run.stage, done, device, precision, peak_flops / 1e9),
        )
        config, is_first = self.run.config, dist.get_rank() == 0
        before = found.before if found else SkipState()
        if before is None:
            lines = (
                [line for line in read_metrics(folder / METRICS) if line.step <= done]
                if is_first
                else []
            )
            before = broadcast_object(SkipState.of((line.loss, line.skipped) for line in lines))
        skips = StepSkipper(config.max_skipped_steps, config.loss_spike_num_std, before)
        if not is_first:
            for _ in self._steps(done, skips):
                pass
            return skips.state
        with MetricsFile(folder / METRICS, after_step=done) as metrics:
            clock = _StepTimer(self.run, peak_flops, done, metrics.elapsed_s)
            for step in self._steps(done, skips):
                metrics.append(clock.tick(step))
        return skips.state

    def _steps(self, done: int, skips: StepSkipper) -> Iterator[_Step]:
        """What came of each step after `done`; a due checkpoint follows.

        Raises:
            TrainingError: besides what a step raises, a rank was told to end; the step is saved by then.
        """
        steps, last, waited_s, checkpoint_s = (
            range(done + 1, self.run.config.steps + 1),
            self.run.config.steps,
            0.0,
            0.0,
        )
        with Prefetcher(self.batches.of_step, steps) as batches:
            for step, micro_batches in zip(steps, batches, strict=True):
                data_wait_s, waited_s = batches.wait_s - waited_s, batches.wait_s
                taken = self._step(step, micro_batches, skips)
                started = time.monotonic()
                held_out = self._evaluated(step)
                yield _Step(taken, data_wait_s, checkpoint_s, held_out, time.monotonic() - started)
                checkpoint_s = 0.0
                if step < last and (taken.is_last or step % self.place.checkpoint_every_steps == 0):
                    checkpoint_s = self._save(step, skips, held_out)
                if step < last and taken.is_last:
                    self.checkpoints.finish()
                    raise preempted_error(self.run.stage, step)

    def _save(
        self, step: int, skips: StepSkipper, held_out: dict[str, float | None] | None
    ) -> float:
        scores = [score for score in (held_out or {}).values() if score is not None]
        score = statistics.fmean(scores) if scores and len(scores) == len(held_out or {}) else None
        return self.checkpoints.save(
            self.engine, step, self.updates_before + step - skips.count, score, skips.state
        )

    def _evaluated(self, step: int) -> dict[str, float | None] | None:
        every = self.place.eval_interval
        if not every or (step % every and step < self.run.config.steps):
            return None
        measured = self.held_out.bits_per_byte(self.engine, self.hardware.device)
        unfit = [language for language, score in measured.items() if score is None]
        if unfit and dist.get_rank() == 0:
            logger.warning(
                "step %d: the loss on held-out documents is not finite: %s", step, ", ".join(unfit)
            )
        return measured

    def _step(self, step: int, micro_batches: list[Tensor], skips: StepSkipper) -> _StepResult:
        config = self.run.config
        rate, eot_id = (
            learning_rate(step, config),
            self.batches.split.index.eot_id if config.mask_documents else None,
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        own_losses: list[Tensor] = []
        for tokens_BT in micro_batches:
            loss = self.engine(
                tokens_BT.to(self.hardware.device, non_blocking=True), config.z_loss, eot_id
            )
            own_losses.append(loss.detach())
            if len(own_losses) == len(micro_batches):
                by_micro, told, memory, num_bytes = self._gather_step_stats(
                    own_losses, micro_batches
                )
                losses = [value for values in by_micro for value in values]
                reason = skips.reason(losses)
                if reason:
                    self._skip_batch(
                        step, reason, self._non_finite_sequences(step, by_micro), skips
                    )
                    loss = (
                        loss * math.nan
                    )  # DeepSpeed takes no step with a gradient that is not finite.
            self.engine.backward(loss)
            own_norm = (
                self._grad_norm_without_zero() if len(own_losses) == len(micro_batches) else None
            )
            self.engine.step()
        grad_norm = (
            None
            if reason
            else float(self.engine.get_global_grad_norm() if own_norm is None else own_norm)
        )
        if grad_norm is not None and not math.isfinite(grad_norm):
            reason, grad_norm = f"the gradient's norm is {grad_norm}", None
            self._skip_batch(step, reason, self.batches.sequences_of_step(step), skips)
        mean = math.fsum(losses) / len(losses)
        if not reason:
            skips.note(mean)
        finite = mean if math.isfinite(mean) else None
        predicted = config.global_batch_tokens - self.batches.num_per_step
        per_byte = finite and num_bytes and finite * predicted / math.log(2) / num_bytes
        return _StepResult(
            finite, grad_norm, bool(reason), per_byte or None, int(memory), bool(told)
        )

    def _gather_step_stats(
        self, losses: list[Tensor], micro_batches: list[Tensor]
    ) -> tuple[list[tuple[float, ...]], float, float, float]:
        """Of all ranks: the losses by micro-batch, whether one was told to end, the most memory, the batch's bytes."""
        device = self.hardware.device
        num_bytes = sum(self.held_out.num_bytes(tokens_BT) for tokens_BT in micro_batches)
        others = torch.tensor(
            [preemption_requested(), peak_memory_bytes(device), num_bytes],
            dtype=torch.float64,
            device=device,
        )
        own = torch.cat([torch.stack(losses).double(), others])
        *by_micro, told, memory, every_num_bytes = zip(*gather_values(own), strict=True)
        return (
            by_micro,
            max(told),
            max(memory),
            sum(every_num_bytes) / self.place.ranks_per_replica,
        )  # They read the same.

    def _grad_norm_without_zero(self) -> float | None:
        """The gradient's norm where DeepSpeed does not tell it: without ZeRO, in fp32. Every rank has all of it by now.

        Nor does DeepSpeed look there whether it is finite, so the optimizer is told, as a gradient scaler would tell it.
        """
        if self.place.zero_stage or self.hardware.precision != "fp32":
            return None
        norm = nn.utils.get_total_norm(one.grad for one in self.engine.module.parameters())
        self.engine.optimizer.found_inf = (~norm.isfinite()).float()
        return float(norm)

    def _non_finite_sequences(self, step: int, by_micro: list[tuple[float, ...]]) -> list[int]:
        """The sequences of the micro-batches that are not finite; where all are, of the whole batch."""
        values = {
            (rank, micro): value
            for micro, row in enumerate(by_micro)
            for rank, value in enumerate(row)
        }
        bad = [where for where, value in values.items() if not math.isfinite(value)]
        if not bad:
            return self.batches.sequences_of_step(step)
        return [
            number for rank, micro in bad for number in self.batches.sequences_of(step, rank, micro)
        ]

    def _skip_batch(self, step: int, reason: str, sequences: list[int], skips: StepSkipper) -> None:
        """Count a batch that is left out, and say so.

        Raises:
            TrainingError: it is one too many.
        """
        skips.note(None)
        if not (skips.limit_exceeded or dist.get_rank() == 0):
            return
        what = f"stage {self.run.stage}, step {step}: {reason} on {self._named(sequences)}"
        if skips.limit_exceeded:
            limit = self.run.config.max_skipped_steps
            raise TrainingError(
                what,
                expected=f"at most {limit} such batches in a stage (max_skipped_steps)"
                if limit
                else "a finite number",
                fix="lower learning_rate, lengthen warmup_steps, or look at those documents",
            )
        logger.warning(
            "%s; no step is taken (%d of %d)", what, skips.count, self.run.config.max_skipped_steps
        )

    def _named(self, sequences: list[int]) -> str:
        corpus = Path(self.run.data.folder)
        documents = documents_in_sequences(corpus, sequences, self.run.model.context_length)
        numbers = f"the sequences {', '.join(map(str, sequences))} of the train split"
        if not documents:
            return numbers
        more = f" and {len(documents) - _MOST_NAMED} more" if len(documents) > _MOST_NAMED else ""
        return f"the documents {', '.join(documents[:_MOST_NAMED])}{more} ({numbers})"


class _StepTimer:
    """Turns a step's results and the time it took into its line of metrics."""

    def __init__(self, run: StageRun, peak_flops: float, done: int, elapsed_s: float) -> None:
        self._run, self._peak_flops, self._done, self._step = run, peak_flops, done, done
        self._before_s = elapsed_s
        self._started = self._last = time.monotonic()

    def tick(self, step: _Step) -> StepMetrics:
        """The metrics of the step that has just been taken."""
        now = time.monotonic()
        step_s, self._last = now - self._last - step.evaluation_s, now
        self._step += 1
        config, taken = self._run.config, step.taken
        tokens_per_s = config.global_batch_tokens / step_s
        mean_step_s = (now - self._started) / (self._step - self._done)
        return StepMetrics(
            step=self._step,
            tokens=self._step * config.global_batch_tokens,
            loss=taken.loss,
            learning_rate=learning_rate(self._step, config),
            grad_norm=taken.grad_norm,
            skipped=taken.skipped,
            bits_per_byte=taken.bits_per_byte,
            held_out=step.held_out,
            tokens_per_s=tokens_per_s,
            mfu=tokens_per_s * self._run.model.flops_per_token / self._peak_flops,
            peak_flops=self._peak_flops,
            data_wait_s=step.data_wait_s,
            checkpoint_wait_s=step.checkpoint_wait_s,
            evaluation_s=step.evaluation_s,
            peak_memory_bytes=taken.peak_memory_bytes,
            elapsed_s=self._before_s + now - self._started,
            time_left_s=mean_step_s * (config.steps - self._step),
        )
