"""A checkpoint becomes another folder, for others to load: compared with `transformers` before it appears.

Built beside its place and renamed, so that a folder with this name is whole and has passed the comparison.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from components.core.errors import ArtifactError, ConfigError
from components.core.files import require_disk_space
from components.model.formats import CheckpointFormat, Dtype
from components.model.huggingface.checkpoint_reader import load_checkpoint
from components.model.huggingface.checkpoint_writer import (
    MAX_SHARD_BYTES,
    TORCH_DTYPES,
    save_checkpoint,
)
from components.model.huggingface.hf_config import read_tokenizer
from components.model.huggingface.parity import difference, logits_of_codegen
from components.model.transformer import CodeGen

MAX_LOGIT_DIFFERENCE = 1e-4
"""As the gate of promotion allows by default (assumption): rounding in fp32 stays below, a misplaced row does not."""


def export_checkpoint(
    source: Path,
    folder: Path,
    *,
    layout: CheckpointFormat = CheckpointFormat.codegen,
    dtype: Dtype = Dtype.fp32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> float:
    """Write the checkpoint in `source`, tokenizer included, as a new folder.

    Args:
        source: what `load_checkpoint` reads, with `tokenizer.json` and `tokenizer_config.json`.
        folder: does not exist yet, or is empty.

    Returns:
        The largest absolute difference between our logits, from weights rounded to `dtype`, and those that `transformers`
        computes in fp32 from the new folder.

    Raises:
        ArtifactError: see `load_checkpoint`, `save_checkpoint`; or the logits differ by more than `MAX_LOGIT_DIFFERENCE`.
        ConfigError: something is in `folder`; or see `save_checkpoint`.
        StorageFull: no room for the files.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"{folder} exists",
            expected="a folder that does not, or an empty one",
            fix="name another, or remove this one",
        )
    read_tokenizer(
        source
    )  # Without one nothing can be written, and a model may take minutes to load.
    model = load_checkpoint(source)
    require_disk_space(
        folder, model.config.num_parameters * TORCH_DTYPES[dtype].itemsize, "the exported weights"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        built = Path(scratch) / "checkpoint"
        save_checkpoint(
            model, source, built, layout=layout, dtype=dtype, max_shard_bytes=max_shard_bytes
        )
        ours = logits_of_codegen(_rounded(model, TORCH_DTYPES[dtype]))
        del model
        found = difference(built, ours)
        if not found <= MAX_LOGIT_DIFFERENCE:  # NaN, too.
            raise ArtifactError(
                f"transformers computes other logits from {source} as {layout} in {dtype}, by up to {found:.3g}",
                expected=f"at most {MAX_LOGIT_DIFFERENCE:g}; nothing was exported",
                fix="install the versions of constraints.txt; if they are, keep the checkpoint and report it",
            )
        built.rename(folder)
    return found


@torch.no_grad()
def _rounded(model: CodeGen, dtype: torch.dtype) -> CodeGen:
    """The model with its weights as `dtype` holds them, in place; it still computes in fp32."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))
    return model
