"""Weights of a checkpoint inside a stage as a Hugging Face folder, while training continues.

A reader first takes a snapshot: it links the files of the checkpoint into a folder of its own, so
the trainer can prune the checkpoint at any time. The trainer never changes a file of a complete
checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from components.core.errors import TrainingError
from components.model.config import ModelConfig
from components.model.huggingface import save_checkpoint
from components.model.transformer import CodeGen
from components.training.checkpoint.retention import (
    ENGINE_FOLDER,
    VerifiedCheckpoint,
    verify_checkpoint,
)

_MODEL_FILE = "mp_rank_00_model_states.pt"
"""DeepSpeed's file with the weights if they are not partitioned (ZeRO 0)."""


def snapshot_checkpoint(checkpoint: Path, folder: Path) -> VerifiedCheckpoint | None:
    """Link the files of a checkpoint into a folder, and verify them there.

    Args:
        checkpoint: a folder `step-N`.
        folder: of the reader, on the same file system if possible; files are copied otherwise. The
            caller removes it.

    Returns:
        The checkpoint in `folder`; None if it was pruned meanwhile or is damaged.
    """
    snapshot = folder / checkpoint.name
    shutil.rmtree(snapshot, ignore_errors=True)
    try:
        shutil.copytree(checkpoint, snapshot, copy_function=_link_or_copy)
    except (FileNotFoundError, shutil.Error):
        if checkpoint.exists():
            raise
        return None
    manifest = verify_checkpoint(snapshot)
    return None if manifest is None else VerifiedCheckpoint(snapshot, manifest)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # Another file system, or one without hard links.
        shutil.copyfile(source, target)


def export_weights(
    checkpoint: VerifiedCheckpoint, model: ModelConfig, tokenizer: Path, folder: Path
) -> None:
    """Write the fp32 weights of a checkpoint as a Hugging Face folder.

    Args:
        model: the model that is trained.
        tokenizer: folder with its tokenizer.

    Raises:
        TrainingError: the checkpoint was written with tensor parallelism.
        ArtifactError: a weight is not finite.
    """
    layout = checkpoint.manifest["layout"]
    if layout["tensor_parallel"] > 1:
        raise TrainingError(
            f"{checkpoint.folder.name} was written with tensor_parallel "
            f"{layout['tensor_parallel']}",
            expected="a checkpoint without tensor parallelism: DeepSpeed cannot merge its parts",
            fix="evaluate the checkpoint of the finished stage",
        )
    if layout["zero_stage"] == 0:
        path = checkpoint.folder / ENGINE_FOLDER / _MODEL_FILE
        weights = torch.load(path, map_location="cpu", mmap=True, weights_only=False)["module"]
    else:
        weights = _merge_partitions(checkpoint.folder)
    with torch.device("meta"):
        exported = CodeGen(model)
    exported.load_state_dict(weights, assign=True)
    save_checkpoint(exported, tokenizer, folder)


def _merge_partitions(checkpoint: Path) -> dict[str, Any]:
    """Return the fp32 weights that ZeRO partitioned over the ranks."""
    # DeepSpeed logs and prints to standard output, which belongs to the command.
    logger = logging.getLogger("DeepSpeed")
    logger.disabled = True
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with (
            open(os.devnull, "w") as devnull,
            contextlib.redirect_stdout(devnull),
            contextlib.redirect_stderr(devnull),
        ):
            weights: dict[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
                str(checkpoint), tag=ENGINE_FOLDER
            )
    finally:
        logger.disabled = False
    return weights
