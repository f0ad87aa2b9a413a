"""One rank's work from start to end: lock, model, engine, loop, and the files that the stage leaves.

What is left is a plain Hugging Face CodeGen folder, `training.json`, and `observed/`. `training.json` is written after the
weights and before the work folder is removed, so a kill in between repeats at most what comes after the last checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from components.core.artifact import OBSERVED_DIR
from components.core.errors import ConfigError
from components.core.files import wrap_disk_full, write_json
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.transformer import CodeGen
from components.training.auto_micro_batch import resolve_micro_batch, resolve_precision
from components.training.batches import Batches, open_split
from components.training.checkpoint.manager import CheckpointManager, ResumePoint
from components.training.checkpoint.optimizer_state import (
    load_optimizer_state,
    save_optimizer_state,
)
from components.training.deepspeed_config import deepspeed_config
from components.training.distributed import (
    broadcast_object,
    build_engine,
    gather_full_fp32_param,
    init_process_group,
)
from components.training.hardware import chosen_device, measured_hardware
from components.training.launch.failure import wrap_os_errors
from components.training.lock import exclusive_trainer
from components.training.run_file import DEEPSPEED, RESULT, RUN, WORK, RunFile, StageRun
from components.training.sequence_parallel import SequenceSlice
from components.training.step_skipping import SkipState
from components.training.trainer import Trainer
from components.training.validation_loss import HeldOut


def run_rank(folder: Path, file: RunFile, rank: int, local_rank: int) -> None:
    """Train this rank's part of the stage and, on rank 0, leave the result in `folder`.

    Args:
        folder: the folder to fill.
        file: what is trained, and where.
        rank: among all ranks.
        local_rank: among those of this host.

    Raises:
        CodegenError: see `Trainer.train`, `Checkpoints.restore`, `only_trainer` and `open_split`.
    """
    full = wrap_disk_full(f"training stage {file.run.stage}")
    with wrap_os_errors(folder), exclusive_trainer(folder / WORK, rank), full:
        _train(folder, file, rank, local_rank)


def _train(folder: Path, file: RunFile, rank: int, local_rank: int) -> None:
    run, place = file.run, file.place
    device = chosen_device(place, local_rank)
    open_split(run, place.streaming)  # What does not fit is found before the others are waited for.
    model = _initial_model(run)
    model.activation_checkpoint_interval = place.activation_checkpoint_interval
    init_process_group(device)
    torch.set_num_threads(place.threads_per_process)
    place = place.replace(precision=broadcast_object(resolve_precision(folder, place, device)))
    hardware = measured_hardware(place, device)
    if place.sequence_parallel > 1:
        model.sequence_shard = SequenceSlice(
            place.sequence_parallel, run.model.context_length, device
        )
    on_gpu, bf16 = device.type == "cuda", hardware.precision == "bf16"
    if place.compiled or (place.compiled is None and on_gpu):
        for block in model.blocks:
            block.compile()
    place = place.replace(micro_batch=resolve_micro_batch(folder, file, hardware))
    batches = Batches.of_rank(run, place, rank)
    checkpoints = CheckpointManager(folder / WORK, run, place, hardware.precision)
    found = checkpoints.find()
    config = deepspeed_config(run.config, place, run.model.context_length, on_gpu=on_gpu, bf16=bf16)
    if rank == 0:
        write_json(folder / DEEPSPEED, config)
    engine, updates_before = _engine(model, run, config, found)
    trainer = Trainer(
        engine, run, place, hardware, batches, HeldOut(run, place), checkpoints, updates_before
    )
    after = trainer.train(folder, found)
    checkpoints.finish()
    if run.save_optimizer_state:
        save_optimizer_state(
            engine, model, folder, updates_before + run.config.steps - after.num_skipped
        )
    whole = _gather_model(model)
    if rank == 0:
        _write_result(folder, whole, run, after)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        shutil.rmtree(
            folder / WORK, ignore_errors=True
        )  # The other ranks may be letting go of their locks in it.


def _engine(
    model: CodeGen, run: StageRun, config: dict[str, Any], found: ResumePoint | None
) -> tuple[Any, int]:
    """DeepSpeed's engine as the next step finds it, and the updates that were in its moments when the stage began."""
    if found and found.is_universal:
        config = config | {"checkpoint": {"load_universal": True}}
    engine = build_engine(model, run.config.weight_decay, config)
    kept_from = run.initial if run.config.optimizer_state == "kept" else None
    updates_before = load_optimizer_state(engine, model, Path(kept_from.folder)) if kept_from else 0
    if found:
        found.restore(engine)
    return engine, updates_before


def _gather_model(model: CodeGen) -> CodeGen:
    """The trained model in fp32 on the CPU, on rank 0; all ranks call it together, since each may hold a part of it."""
    with torch.device("meta"):
        whole = CodeGen(model.config)
    if dist.get_rank() == 0:
        whole.to_empty(device="cpu")
    for (name, copy), trained in zip(whole.named_parameters(), model.parameters(), strict=True):
        value = gather_full_fp32_param(
            trained, copy.shape, num_parts=3 if name.endswith(".qkv.weight") else 1
        )
        if dist.get_rank() == 0:
            copy.data.copy_(value)
    return whole


def _initial_model(run: StageRun) -> CodeGen:
    if run.initial is None:
        return CodeGen(run.model, seed=run.seed)
    model = load_checkpoint(Path(run.initial.folder))
    if model.config != run.model:
        raise ConfigError(
            f"the checkpoint that stage {run.stage} starts from is a model of {model.config}",
            expected=f"the recipe's model, {run.model}",
            fix="start from a checkpoint of the same recipe",
        )
    return model


def _write_result(folder: Path, model: CodeGen, run: StageRun, after: SkipState) -> None:
    save_checkpoint(model, Path(run.tokenizer.folder), folder)
    result = {
        "steps": run.config.steps,
        "tokens": run.config.steps * run.config.global_batch_tokens,
        "skipped_steps": after.num_skipped,
        "final_loss": after.losses[-1] if after.losses else None,
        "num_parameters": run.model.num_parameters,
    }
    (folder / RUN).replace(folder / OBSERVED_DIR / RUN)
    write_json(folder / RESULT, {"run": run.identity(), "result": result})
