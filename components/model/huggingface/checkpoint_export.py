"""Export a checkpoint to another folder, and compare our logits with those of `transformers`.

Two independent implementations agree up to rounding only if names, rows, config and weights are all
correct, so logits are compared before each registration and each export. The two models are never
in memory together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.core.errors import ArtifactError, ConfigError
from components.core.files import require_disk_space
from components.model.config import CheckpointFormat, Dtype
from components.model.huggingface.checkpoint_reader import load_checkpoint
from components.model.huggingface.checkpoint_writer import (
    MAX_SHARD_BYTES,
    TORCH_DTYPES,
    save_checkpoint,
)
from components.model.huggingface.hf_format import read_tokenizer
from components.model.transformer import CodeGen

MAX_LOGIT_DIFFERENCE = 1e-4
"""The default of the promotion gate. Assumption: fp32 rounding is below, a misplaced row above."""
_BATCH_SIZE = 2
_MAX_LENGTH = 128
"""Number and maximum length of the compared sequences."""


class LogitSample(NamedTuple):
    """The logits of a model for some random tokens."""

    tokens: Tensor
    """[B, T]."""
    logits: Tensor
    """[B, T, V]."""


def export_checkpoint(
    source: Path,
    folder: Path,
    *,
    checkpoint_format: CheckpointFormat = CheckpointFormat.codegen,
    dtype: Dtype = Dtype.fp32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> float:
    """Write the checkpoint in `source` and its tokenizer to a new folder, atomically.

    Args:
        source: a checkpoint folder with `tokenizer.json` and `tokenizer_config.json`.
        folder: must not exist, or be empty.

    Returns:
        The maximum absolute difference between our logits, with weights rounded to `dtype`, and
        those that `transformers` computes in fp32 from the new folder.

    Raises:
        ArtifactError: see `load_checkpoint`, `save_checkpoint`; or the logits differ by more than
            `MAX_LOGIT_DIFFERENCE`.
        ConfigError: `folder` is not empty; or see `save_checkpoint`.
        DiskFullError: the disk is full.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"{folder} exists",
            expected="a folder that does not exist, or an empty folder",
            fix="choose another folder, or remove this one",
        )
    read_tokenizer(source)  # Fails before minutes are spent on loading the model.
    model = load_checkpoint(source)
    torch_dtype = TORCH_DTYPES[dtype]
    require_disk_space(
        folder, model.config.num_parameters * torch_dtype.itemsize, "the exported weights"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        exported = Path(scratch) / "checkpoint"
        save_checkpoint(
            model,
            source,
            exported,
            checkpoint_format=checkpoint_format,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )
        sample = logits_of_codegen(_round_weights(model, torch_dtype))
        del model
        difference = max_logit_difference(exported, sample)
        if not difference <= MAX_LOGIT_DIFFERENCE:  # Also true for NaN.
            raise ArtifactError(
                f"logits of transformers for {source} as {checkpoint_format} in {dtype} differ "
                f"by up to {difference:.3g}",
                expected=f"at most {MAX_LOGIT_DIFFERENCE:g}; nothing was exported",
                fix="install the tested versions (`make install`); if they are installed, report a "
                "bug with this checkpoint",
            )
        exported.rename(folder)
    return difference


def logit_parity(folder: Path) -> float:
    """Return the maximum absolute difference to the logits of `transformers`, on random tokens.

    In fp32, rounding gives about 1e-6; more means that the folder is not the trained model.
    """
    return max_logit_difference(folder, logits_of_codegen(load_checkpoint(folder)))


def logits_of_codegen(model: CodeGen) -> LogitSample:
    """Return our logits for random tokens with a fixed seed, including padding rows."""
    shape = (_BATCH_SIZE, min(_MAX_LENGTH, model.config.context_length))
    tokens_BT = torch.randint(
        model.config.padded_vocab_size, shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return LogitSample(tokens_BT, model(tokens_BT))


def max_logit_difference(folder: Path, sample: LogitSample) -> float:
    """Return the maximum absolute difference to the fp32 logits of `transformers` for a folder."""
    from transformers import AutoModelForCausalLM  # Slow to import; the trainer does not need it.
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # A load takes milliseconds here.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return float((sample.logits - model(sample.tokens).logits).abs().max())


@torch.no_grad()
def _round_weights(model: CodeGen, dtype: torch.dtype) -> CodeGen:
    """Round the weights to values of `dtype` in place; the model still computes in fp32."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))
    return model
