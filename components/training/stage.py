"""One rank's work from start to end: lock, model, engine, loop, and the files that the stage leaves.

What is left is a plain Hugging Face CodeGen folder, `training.json`, and `observed/`. `training.json` is written after the
weights and before the work folder is removed, so a kill in between repeats at most what comes after the last checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed as dist

from components.core.artifact import OBSERVED
from components.core.errors import ConfigError
from components.core.files import storage_full_explained, write_json
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.transformer import CodeGen
from components.training.batches import Batches
from components.training.checkpoints import Checkpoints
from components.training.distributed import build_engine, join_group
from components.training.lock import only_trainer
from components.training.loop import Trainer
from components.training.run import RESULT, RUN, WORK, RunFile, StageRun


def run_rank(folder: Path, file: RunFile, rank: int) -> None:
    """Train this rank's part of the stage and, on rank 0, leave the result in `folder`.

    Raises:
        CodegenError: see `Trainer.train`, `Checkpoints.restore`, `only_trainer` and `open_split`.
    """
    with only_trainer(folder / WORK, rank), storage_full_explained(f"training stage {file.run.stage}"):
        _train(folder, file, rank)


def _train(folder: Path, file: RunFile, rank: int) -> None:
    run, place = file.run, file.place
    batches = Batches.of_rank(run, place, rank)
    model = _initial_model(run)
    join_group()
    torch.set_num_threads(place.threads_per_process)
    engine = build_engine(model, run.config, place, run.model.context_length)
    loss = Trainer(engine, run, place, batches, Checkpoints(folder / WORK, run, place)).train(folder)
    if rank == 0:
        _leave_result(folder, model, run, loss)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        shutil.rmtree(folder / WORK, ignore_errors=True)  # The other ranks may be letting go of their locks in it.


def _initial_model(run: StageRun) -> CodeGen:
    if run.initial is None:
        return CodeGen(run.model, seed=run.seed)
    model = load_checkpoint(Path(run.initial.folder))
    if model.config != run.model:
        raise ConfigError(
            f"the checkpoint that stage {run.stage} starts from is a model of {model.config}",
            expected=f"the recipe's model, {run.model}",
            do="start from a checkpoint of the same recipe",
        )
    return model


def _leave_result(folder: Path, model: CodeGen, run: StageRun, loss: float) -> None:
    save_checkpoint(model, Path(run.tokenizer.folder), folder)
    result = {
        "steps": run.config.steps,
        "tokens": run.config.steps * run.config.batch_tokens,
        "final_loss": loss,
        "num_parameters": run.model.num_parameters,
    }
    (folder / RUN).replace(folder / OBSERVED / RUN)
    write_json(folder / RESULT, {"run": run.identity(), "result": result})
