"""A rank's work for a stage: lock, model, engine, training, and the files of the result.

The result is a plain Hugging Face CodeGen folder, `training.json` and `observed/`. `training.json`
is written after the weights and before the work folder is removed, so an interrupted stage repeats
at most the steps after its last checkpoint.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.core.artifact import OBSERVED_DIR
from components.core.errors import StageLockedError
from components.core.files import wrap_disk_full, write_json
from components.core.locks import exclusive_lock
from components.model.huggingface import write_checkpoint
from components.model.transformer import CodeGen
from components.training.auto_micro_batch import resolve_micro_batch, resolve_precision
from components.training.batches import Batches, open_split
from components.training.budget import StageClock
from components.training.checkpoint.manager import CheckpointManager, ResumePoint
from components.training.checkpoint.optimizer_state import (
    load_optimizer_state,
    save_optimizer_state,
)
from components.training.config import TrainingExecution
from components.training.deepspeed_config import (
    check_fp16_support,
    deepspeed_config,
    num_sequences_per_step,
)
from components.training.distributed import (
    SequenceSlice,
    broadcast_object,
    build_engine,
    check_config,
    gather_full_fp32_param,
    init_process_group,
)
from components.training.hardware import Hardware, measure_hardware, select_device
from components.training.launch.failure import wrap_os_errors
from components.training.launch.heartbeat import HeartbeatWriter
from components.training.metrics import read_metrics, read_usage
from components.training.model_build import build_model, open_weights
from components.training.monitors import (
    close_monitors,
    rewind_monitors,
    set_wandb_variables,
    with_log_paths,
)
from components.training.run_file import (
    DEEPSPEED_FILE,
    METRICS_FILE,
    MONITOR_FOLDER,
    RESULT_FILE,
    RUN_FILE,
    USAGE_FILE,
    WORK_FOLDER,
    RunFile,
    StageRun,
)
from components.training.step_skipping import SkipState
from components.training.trainer import Trainer
from components.training.validation_loss import HeldOutEvaluator

_LOCK_TIMEOUT_S = 30.0
"""A cancelled trainer ends within this time (cancelling takes at most 20 s)."""


def run_rank(folder: Path, file: RunFile, rank: int, local_rank: int) -> None:
    """Run a rank of a stage and, on rank 0, write the result to `folder`.

    Args:
        rank: among all ranks.
        local_rank: among the ranks of this host.

    Raises:
        CodegenError: see `Trainer.train`, `CheckpointManager.find_resume_point`,
            `exclusive_trainer` and `open_split`.
    """
    with (
        wrap_os_errors(folder),
        exclusive_trainer(folder / WORK_FOLDER, rank),
        wrap_disk_full(f"training stage {file.run.stage}"),
        HeartbeatWriter(folder / WORK_FOLDER, rank) as heartbeat,
    ):
        _train(folder, file, heartbeat, rank, local_rank)


@contextmanager
def exclusive_trainer(work: Path, rank: int, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold this rank's lock on a work folder, so two trainers never write to the same stage.

    Raises:
        StageLockedError: another trainer still holds the lock after `timeout_s`.
    """
    with ExitStack() as stack:
        try:
            lock = exclusive_lock(work / f"rank-{rank}.lock", f"training {work.parent}", timeout_s)
            stack.enter_context(lock)
        except TimeoutError:
            raise StageLockedError(
                f"another trainer is running in {work.parent}",
                expected="one trainer per folder",
                fix="wait until it is finished, or end it",
            ) from None
        yield


def _train(
    folder: Path, file: RunFile, heartbeat: HeartbeatWriter, rank: int, local_rank: int
) -> None:
    run = file.run
    device = select_device(file.execution, local_rank)
    # These fail before the rendezvous, in which the other ranks would wait.
    check_fp16_support(file.execution)
    open_split(run, file.execution.streaming)
    weights = open_weights(run)
    heartbeat.report("joining the other ranks")
    init_process_group(device)
    execution, hardware = _resolve_execution(folder, file, device)
    heartbeat.report("loading a checkpoint")
    checkpoints = CheckpointManager(folder / WORK_FOLDER, run, execution, hardware.precision)
    resume_point = checkpoints.find_resume_point()
    config = deepspeed_config(
        run.config,
        execution,
        run.model.context_length,
        on_gpu=device.type == "cuda",
        precision=hardware.precision,
    )
    monitor_folder = Path(file.monitor_folder or folder / MONITOR_FOLDER)
    config = with_log_paths(config, folder, monitor_folder)
    if rank == 0:
        write_json(folder / DEEPSPEED_FILE, config)
        set_wandb_variables(config, monitor_folder, folder / WORK_FOLDER)
    check_config(config)
    heartbeat.report("loading the model")
    model = build_model(run.model, weights, device, hardware.precision, config)
    apply_execution(model, execution, device)
    engine, inherited_updates = _build_engine(model, run, config, resume_point)
    num_samples = num_sequences_per_step(run.config, run.model.context_length)
    # DeepSpeed multiplies by ranks instead of replicas, and its monitors count these samples.
    engine._config.train_batch_size = num_samples
    if rank == 0:
        rewind_monitors(engine.monitor, num_samples * (resume_point.step if resume_point else 0))
    clock = None
    if rank == 0:
        steps = read_metrics(folder / METRICS_FILE)  # With those after the checkpoint.
        earlier_attempts = read_usage(folder / USAGE_FILE, steps)
        clock = StageClock(
            execution.budget, execution.world_size, earlier_attempts, file.earlier_stages
        )
        # The trainer drops the steps after the checkpoint, and may end before the next step.
        write_json(folder / USAGE_FILE, clock.usage.model_dump())
    trainer = Trainer(
        engine=engine,
        run=run,
        execution=execution,
        hardware=hardware,
        batches=Batches.for_rank(run, execution, rank),
        held_out=HeldOutEvaluator(run, execution),
        checkpoints=checkpoints,
        heartbeat=heartbeat,
        inherited_updates=inherited_updates,
        clock=clock,
    )
    skip_state = trainer.train(folder, resume_point)
    heartbeat.report("writing the result", run.config.steps)
    close_monitors(engine.monitor)
    checkpoints.finish()
    if run.save_optimizer_state:
        num_updates = inherited_updates + run.config.steps - skip_state.num_without_update
        save_optimizer_state(engine, model, folder, num_updates)
    weights_by_name = _gathered_weights(model)
    if clock:
        write_json(folder / USAGE_FILE, clock.usage.model_dump())
        _write_result(folder, weights_by_name, run, skip_state)
    else:
        deque(weights_by_name, maxlen=0)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        # Other ranks may be releasing their locks in the folder.
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)


def _resolve_execution(
    folder: Path, file: RunFile, device: torch.device
) -> tuple[TrainingExecution, Hardware]:
    """Measure the hardware and resolve precision and micro-batch; equal on all ranks."""
    execution = file.execution
    torch.set_num_threads(execution.threads_per_process)
    precision = broadcast_object(resolve_precision(folder, execution, device))
    execution = execution.replace(precision=precision)
    hardware = measure_hardware(execution, device)
    micro_batch = resolve_micro_batch(folder, file, hardware)
    return execution.replace(micro_batch=micro_batch), hardware


def apply_execution(model: CodeGen, execution: TrainingExecution, device: torch.device) -> None:
    """Set activation checkpointing and sequence parallelism, and compile the blocks."""
    model.activation_checkpoint_interval = execution.activation_checkpoint_interval
    if execution.sequence_parallel > 1:
        model.sequence_shard = SequenceSlice(
            execution.sequence_parallel, model.config.context_length, device
        )
    if execution.compiled or (execution.compiled is None and device.type == "cuda"):
        for block in model.blocks:
            block.compile()


def _build_engine(
    model: CodeGen, run: StageRun, config: dict[str, Any], resume_point: ResumePoint | None
) -> tuple[Any, int]:
    """DeepSpeed's engine with the state to start from, and the inherited number of updates."""
    if resume_point and resume_point.is_universal:
        config = config | {"checkpoint": {"load_universal": True}}
    engine = build_engine(model, run.config.weight_decay, config)
    inherited_updates = 0
    if run.config.optimizer_state == "inherit" and run.init_from:
        inherited_updates = load_optimizer_state(engine, model, Path(run.init_from.folder))
    if resume_point:
        resume_point.restore(engine)
    return engine, inherited_updates


def _gathered_weights(model: CodeGen) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained weights in fp32, gathered one at a time. All ranks iterate together."""
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in CodeGen(model.config).parameters()]
    for (name, trained), shape in zip(model.named_parameters(), shapes, strict=True):
        num_parts = 3 if name.endswith(".qkv.weight") else 1
        yield name, gather_full_fp32_param(trained, shape, num_parts=num_parts)


def _write_result(
    folder: Path, weights: Iterable[tuple[str, Tensor]], run: StageRun, skip_state: SkipState
) -> None:
    write_checkpoint(run.model, weights, Path(run.tokenizer.folder), folder)
    result = {
        "steps": run.config.steps,
        "tokens": run.config.steps * run.config.global_batch_tokens,
        "skipped_steps": skip_state.num_without_update,
        "final_loss": skip_state.losses[-1] if skip_state.losses else None,
        "num_parameters": run.model.num_parameters,
    }
    (folder / RUN_FILE).replace(folder / OBSERVED_DIR / RUN_FILE)
    write_json(folder / RESULT_FILE, {"run": run.identity(), "result": result})
