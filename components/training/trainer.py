"""The training loop of a rank: batches, optimizer steps, metrics, evaluation, checkpoints.

Step s depends only on s, the run and the checkpointed state: the learning rate and the batch are
pure functions of s, and the model has no dropout. Therefore a resumed stage ends with the same bits
as an uninterrupted stage (with the same execution config), and batches are prefetched.

Shapes: B sequences, T tokens of a sequence.
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

from components.core.errors import BudgetError, TrainingError
from components.core.progress import ProgressSnapshot, ThroughputEstimator
from components.dataset.manifests import documents_in_sequences
from components.dataset.prefetch import Prefetcher
from components.training.batches import Batches
from components.training.budget import StageClock
from components.training.checkpoint.manager import CheckpointManager, ResumePoint
from components.training.config import TrainingExecution
from components.training.distributed import broadcast_object, gather_values
from components.training.hardware import Hardware, peak_memory_bytes
from components.training.launch.heartbeat import HeartbeatWriter
from components.training.launch.rank_process import is_preemption_requested, preemption_error
from components.training.metrics import MetricsFile, StepMetrics, record_restart
from components.training.monitors import log_step
from components.training.run_file import METRICS_FILE, RESTARTS_FILE, StageRun
from components.training.schedule import learning_rate
from components.training.step_skipping import SkipState, StepSkipper
from components.training.validation_loss import HeldOutEvaluator

logger = logging.getLogger(__name__)

_LOWEST_LOSS_SCALE_MESSAGE = "loss scale already at minimum"
"""Part of DeepSpeed's message; its error has no class of its own."""
_MAX_NAMED_DOCUMENTS = 8
"""Documents in a message."""


class _BatchStats(NamedTuple):
    """Statistics of a batch, equal on all ranks."""

    losses_by_micro_batch: list[tuple[float, ...]]
    """A tuple per micro-batch with the loss of each rank."""
    is_preempted: bool
    """A rank has received SIGTERM."""
    is_budget_spent: bool
    """The next step would exceed the budget, by the clock of rank 0."""
    peak_memory_bytes: int
    """The maximum over the ranks."""
    num_bytes: float
    """Bytes of text of the batch's predicted tokens."""

    @property
    def losses(self) -> list[float]:
        """The losses of all micro-batches and ranks."""
        return [loss for losses in self.losses_by_micro_batch for loss in losses]


class _StepResult(NamedTuple):
    """The result of an optimizer step."""

    loss: float | None
    grad_norm: float | None
    is_skipped: bool
    loss_scale: float | None
    bits_per_byte: float | None
    peak_memory_bytes: int
    is_preempted: bool
    is_budget_spent: bool


class _TimedStep(NamedTuple):
    """A step with the times spent around it."""

    result: _StepResult
    data_wait_s: float
    checkpoint_wait_s: float
    """For the checkpoint before this step."""
    held_out: dict[str, float | None] | None
    evaluation_s: float


@dataclass(frozen=True)
class Trainer:
    """A rank of a stage."""

    engine: Any
    run: StageRun
    execution: TrainingExecution
    hardware: Hardware
    batches: Batches
    held_out: HeldOutEvaluator
    checkpoints: CheckpointManager
    heartbeat: HeartbeatWriter
    inherited_updates: int
    """Updates in the optimizer's moments when the stage started."""
    clock: StageClock | None
    """On rank 0: the usage of the stage, and its budget."""

    def train(self, folder: Path, resume_point: ResumePoint | None) -> SkipState:
        """Train from the checkpoint to the last step. All ranks call this together.

        Returns:
            Skipped batches and last losses.

        Raises:
            TrainingError: more batches were skipped than allowed, or the stage was preempted.
            BudgetError: another step would exceed the budget; a checkpoint is saved first.
            DiskFullError: no space for a checkpoint.
        """
        steps_done = resume_point.step if resume_point else 0
        logger.info(
            "stage %s resumes after step %d; %s, %s, measured peak %.1f GFLOP/s",
            self.run.stage,
            steps_done,
            self.hardware.device,
            self.hardware.precision,
            self.hardware.peak_flops / 1e9,
        )
        skipper = StepSkipper(
            self.run.config.max_skipped_steps,
            self.run.config.loss_spike_num_std,
            resume_point.skip_state if resume_point else SkipState(),
        )
        self.heartbeat.report("reading a batch", steps_done)
        if self.clock:
            damaged_steps = resume_point.damaged_steps if resume_point else ()
            record_restart(folder / RESTARTS_FILE, folder / METRICS_FILE, steps_done, damaged_steps)
            with MetricsFile(folder / METRICS_FILE, after_step=steps_done) as metrics:
                timer = _StepTimer(self.run, self.hardware.peak_flops, steps_done, self.clock)
                for step in self._train_steps(steps_done, skipper):
                    line = timer.measure(step)
                    metrics.append(line)
                    log_step(self.engine.monitor, line, line.step * self.batches.num_per_step)
        else:
            for _ in self._train_steps(steps_done, skipper):
                pass
        return skipper.state

    def _train_steps(self, steps_done: int, skipper: StepSkipper) -> Iterator[_TimedStep]:
        """Train the steps after `steps_done`, evaluate and save checkpoints when due.

        Raises:
            TrainingError: see `train`. A stage that is preempted or has spent its budget saves a
                checkpoint first.
        """
        last_step = self.run.config.steps
        steps = range(steps_done + 1, last_step + 1)
        total_wait_s = 0.0
        checkpoint_wait_s = 0.0
        with Prefetcher(self.batches.read_step, steps) as batches:
            for step, micro_batches in zip(steps, batches, strict=True):
                data_wait_s = batches.wait_s - total_wait_s
                total_wait_s = batches.wait_s
                result = self._train_step(step, micro_batches, skipper)
                evaluation_start_s = time.monotonic()
                held_out = self._evaluate_if_due(step)
                yield _TimedStep(
                    result=result,
                    data_wait_s=data_wait_s,
                    checkpoint_wait_s=checkpoint_wait_s,
                    held_out=held_out,
                    evaluation_s=time.monotonic() - evaluation_start_s,
                )
                self.heartbeat.report("reading a batch", step)
                checkpoint_wait_s = 0.0
                is_due = step % self.execution.checkpoint_every_steps == 0
                is_stopped = result.is_preempted or result.is_budget_spent
                if step < last_step and (is_due or is_stopped):
                    checkpoint_wait_s = self._save(step, skipper, held_out)
                    self.heartbeat.report("reading a batch")
                if step < last_step and is_stopped:
                    self.heartbeat.report("saving a checkpoint")
                    self.checkpoints.finish()
                    if result.is_preempted:
                        raise preemption_error(self.run.stage, step)
                    raise self._budget_error(step)

    def _budget_error(self, step: int) -> BudgetError:
        """The error of a spent budget, equal on all ranks; all of them call this together."""
        error = (
            self.clock.error(self.run.stage, step, self.run.config.steps) if self.clock else None
        )
        shared: BudgetError = broadcast_object(error)
        return shared

    def _save(
        self, step: int, skipper: StepSkipper, held_out: dict[str, float | None] | None
    ) -> float:
        self.heartbeat.report("saving a checkpoint", step)
        num_updates = self.inherited_updates + step - skipper.state.num_without_update
        score = _mean_score(held_out or {})
        return self.checkpoints.save(self.engine, step, num_updates, score, skipper.state)

    def _evaluate_if_due(self, step: int) -> dict[str, float | None] | None:
        interval = self.execution.eval_interval
        if not interval or (step % interval and step < self.run.config.steps):
            return None
        self.heartbeat.report("evaluating", step)
        scores = self.held_out.bits_per_byte(self.engine, self.hardware.device)
        failed = [language for language, score in scores.items() if score is None]
        if failed and dist.get_rank() == 0:
            logger.warning(
                "step %d: the loss on held-out documents is not finite: %s",
                step,
                ", ".join(failed),
            )
        return scores

    def _train_step(
        self, step: int, micro_batches: list[Tensor], skipper: StepSkipper
    ) -> _StepResult:
        self.heartbeat.report("computing the loss")
        self._set_learning_rate(step)
        losses: list[Tensor] = []
        for tokens_BT in micro_batches[:-1]:
            loss = self._forward(tokens_BT)
            losses.append(loss.detach())
            self.engine.backward(loss)
            self.engine.step()
        loss = self._forward(micro_batches[-1])
        losses.append(loss.detach())
        self.heartbeat.report("updating the weights")
        stats = self._gather_batch_stats(losses, micro_batches)
        skip_reason = skipper.skip_reason(stats.losses)
        if skip_reason:
            self._skip_batch(step, skip_reason, self._suspect_sequences(step, stats), skipper)
            loss = loss * math.nan  # DeepSpeed makes no update if the gradient is not finite.
        self.engine.backward(loss)
        grad_norm = self._grad_norm_without_zero()
        self._update_weights(step)
        if not skip_reason:
            if grad_norm is None:
                grad_norm = float(self.engine.get_global_grad_norm())
            if not math.isfinite(grad_norm):
                skip_reason = f"the gradient norm is {grad_norm}"
                if self._is_loss_scale_dynamic:
                    skipper.record_overflow()  # DeepSpeed logs it and lowers the loss scale.
                else:
                    self._skip_batch(step, skip_reason, self.batches.step_sequences(step), skipper)
        mean_loss = math.fsum(stats.losses) / len(stats.losses)
        if not skip_reason:
            skipper.record(mean_loss)
        return _StepResult(
            loss=mean_loss if math.isfinite(mean_loss) else None,
            grad_norm=None if skip_reason else grad_norm,
            is_skipped=bool(skip_reason),
            loss_scale=self._loss_scale,
            bits_per_byte=self._bits_per_byte(mean_loss, stats.num_bytes),
            peak_memory_bytes=stats.peak_memory_bytes,
            is_preempted=stats.is_preempted,
            is_budget_spent=stats.is_budget_spent,
        )

    def _update_weights(self, step: int) -> None:
        """Update the weights, unless the gradient is not finite.

        Raises:
            TrainingError: the gradient overflows fp16 at the lowest loss scale.
        """
        try:
            self.engine.step()
        except Exception as error:
            if _LOWEST_LOSS_SCALE_MESSAGE not in str(error):
                raise
            raise TrainingError(
                f"stage {self.run.stage}, step {step}: the gradient overflows fp16 at the lowest "
                "loss scale",
                expected="a finite gradient at fp16.min_loss_scale",
                fix="set --exec training.precision=bf16 or fp32, or lower learning_rate",
            ) from error

    @property
    def _is_loss_scale_dynamic(self) -> bool:
        is_fp16 = self.hardware.precision == "fp16"
        return is_fp16 and bool(self.engine.dynamic_loss_scale())

    @property
    def _loss_scale(self) -> float | None:
        is_fp16 = self.hardware.precision == "fp16"
        return float(self.engine.optimizer.loss_scale) if is_fp16 else None

    def _set_learning_rate(self, step: int) -> None:
        rate = learning_rate(step, self.run.config)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    def _forward(self, tokens_BT: Tensor) -> Tensor:
        """The loss of a micro-batch."""
        config = self.run.config
        eot_id = self.batches.split.index.eot_id if config.mask_documents else None
        tokens_BT = tokens_BT.to(self.hardware.device, non_blocking=True)
        loss: Tensor = self.engine(tokens_BT, config.z_loss, eot_id)
        return loss

    def _gather_batch_stats(self, losses: list[Tensor], micro_batches: list[Tensor]) -> _BatchStats:
        device = self.hardware.device
        num_bytes = sum(self.held_out.num_bytes(tokens_BT) for tokens_BT in micro_batches)
        other_values = torch.tensor(
            [
                is_preemption_requested(),
                self.clock is not None and self.clock.is_last_step(),
                peak_memory_bytes(device),
                num_bytes,
            ],
            dtype=torch.float64,
            device=device,
        )
        values = torch.cat([torch.stack(losses).double(), other_values])
        *losses_by_micro_batch, preempted, budget_spent, memory, num_bytes_by_rank = zip(
            *gather_values(values), strict=True
        )
        return _BatchStats(
            losses_by_micro_batch=losses_by_micro_batch,
            is_preempted=bool(max(preempted)),
            is_budget_spent=bool(max(budget_spent)),
            peak_memory_bytes=int(max(memory)),
            # The ranks of a replica read the same sequences.
            num_bytes=sum(num_bytes_by_rank) / self.execution.ranks_per_replica,
        )

    def _bits_per_byte(self, mean_loss: float, num_bytes: float) -> float | None:
        if not math.isfinite(mean_loss) or not num_bytes:
            return None
        num_predicted = self.run.config.global_batch_tokens - self.batches.num_per_step
        return mean_loss * num_predicted / math.log(2) / num_bytes

    def _grad_norm_without_zero(self) -> float | None:
        """The gradient norm without ZeRO in fp32, which DeepSpeed does not compute; else None.

        DeepSpeed does not check there whether the norm is finite either. `found_inf` makes the
        optimizer skip its update, as a gradient scaler would.
        """
        if self.execution.zero_stage or self.hardware.precision != "fp32":
            return None
        parameters = self.engine.module.parameters()
        norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters)
        self.engine.optimizer.found_inf = (~norm.isfinite()).float()
        return float(norm)

    def _suspect_sequences(self, step: int, stats: _BatchStats) -> list[int]:
        """The sequences of micro-batches without a finite loss; all of the batch if there are none.

        The order is that of micro-batches, then ranks.
        """
        sequences = []
        for index, losses in enumerate(stats.losses_by_micro_batch):
            for rank, loss in enumerate(losses):
                if not math.isfinite(loss):
                    sequences += self.batches.micro_batch_sequences(step, rank, index)
        return sequences or self.batches.step_sequences(step)

    def _skip_batch(
        self, step: int, reason: str, sequences: list[int], skipper: StepSkipper
    ) -> None:
        """Record a skipped batch, and log it on rank 0.

        Raises:
            TrainingError: the limit of skipped batches is exceeded.
        """
        skipper.record(None)
        if not (skipper.is_limit_exceeded or dist.get_rank() == 0):
            return
        limit = self.run.config.max_skipped_steps
        documents = self._describe_documents(sequences)
        message = f"stage {self.run.stage}, step {step}: {reason} on {documents}"
        if not skipper.is_limit_exceeded:
            logger.warning("%s; batch skipped (%d of %d)", message, skipper.num_skipped, limit)
            return
        raise TrainingError(
            message,
            expected=f"at most {limit} such batches in a stage (max_skipped_steps)",
            fix="lower learning_rate, lengthen warmup_steps, or inspect those documents",
        )

    def _describe_documents(self, sequences: list[int]) -> str:
        corpus = Path(self.run.data.folder)
        documents = documents_in_sequences(corpus, sequences, self.run.model.context_length)
        indices = f"the sequences {', '.join(map(str, sequences))} of the train split"
        if not documents:
            return indices
        names = ", ".join(documents[:_MAX_NAMED_DOCUMENTS])
        if len(documents) > _MAX_NAMED_DOCUMENTS:
            names += f" and {len(documents) - _MAX_NAMED_DOCUMENTS} more"
        return f"the documents {names} ({indices})"


def _mean_score(scores: dict[str, float | None]) -> float | None:
    """The mean over languages; None without scores or if a score is not finite."""
    finite = [score for score in scores.values() if score is not None]
    return statistics.fmean(finite) if finite and len(finite) == len(scores) else None


class _StepTimer:
    """Combines a step's result with its time into a line of metrics."""

    def __init__(
        self, run: StageRun, peak_flops: float, steps_done: int, clock: StageClock
    ) -> None:
        self._run = run
        self._peak_flops = peak_flops
        self._step = steps_done
        self._clock = clock
        self._last_s = time.monotonic()
        self._throughput = ThroughputEstimator()
        self._throughput.add(self._last_s, ProgressSnapshot(steps_done, steps_done))

    def measure(self, step: _TimedStep) -> StepMetrics:
        """The metrics of the step that has just ended."""
        now_s = time.monotonic()
        step_s = now_s - self._last_s - step.evaluation_s
        self._last_s = now_s
        self._step += 1
        self._throughput.add(now_s, ProgressSnapshot(self._step, self._step))
        config, result, usage = self._run.config, step.result, self._clock.usage
        tokens_per_s = config.global_batch_tokens / step_s
        flops = tokens_per_s * self._run.model.flops_per_token
        self._peak_flops = max(self._peak_flops, flops)
        return StepMetrics(
            step=self._step,
            tokens=self._step * config.global_batch_tokens,
            loss=result.loss,
            learning_rate=learning_rate(self._step, config),
            grad_norm=result.grad_norm,
            skipped=result.is_skipped,
            loss_scale=result.loss_scale,
            bits_per_byte=result.bits_per_byte,
            held_out=step.held_out,
            tokens_per_s=tokens_per_s,
            mfu=flops / self._peak_flops,
            peak_flops=self._peak_flops,
            data_wait_s=step.data_wait_s,
            checkpoint_wait_s=step.checkpoint_wait_s,
            evaluation_s=step.evaluation_s,
            peak_memory_bytes=result.peak_memory_bytes,
            elapsed_s=usage.elapsed_s,
            device_s=usage.device_s,
            time_left_s=self._throughput.eta_s(config.steps) or 0.0,
        )
