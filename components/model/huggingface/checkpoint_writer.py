"""A model becomes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load; the same weights give the same bytes.

What is large is split as Hugging Face's own library splits it. One shard is converted at a time, so writing takes the
memory of the model and at most one shard. Only safetensors is written. Not covered: appearing whole or not at all, which is
the caller's business (the store publishes folders, `exporting` renames one).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from components.core.errors import ArtifactError, ConfigError
from components.core.files import atomic_write_path, read_json, write_json
from components.model.formats import CheckpointFormat, Dtype
from components.model.huggingface.hf_config import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CLASSES,
    TOKENIZER_CONFIG,
    read_tokenizer,
    settings_of,
)
from components.model.huggingface.layout import to_hf
from components.model.huggingface.weights import SAFETENSORS_INDEX, all_finite
from components.model.transformer import CodeGen

MAX_SHARD_BYTES = 5_000_000_000
"""As `huggingface_hub` splits by default (its MAX_SHARD_SIZE, 5 GB)."""

TORCH_DTYPES = {Dtype.fp32: torch.float32, Dtype.fp16: torch.float16, Dtype.bf16: torch.bfloat16}

_WEIGHT_FILES = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
)


def save_checkpoint(
    model: CodeGen,
    tokenizer_folder: Path,
    folder: Path,
    *,
    layout: CheckpointFormat = CheckpointFormat.codegen,
    dtype: Dtype = Dtype.fp32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the weights, `config.json`, `generation_config.json` and the tokenizer's two files into `folder`.

    Args:
        tokenizer_folder: holds `tokenizer.json` and `tokenizer_config.json`, whose end-of-text ends generation.
        folder: made if it does not exist; a model that was in it is replaced, file by file.
        max_shard_bytes: weights that take more are split over several files; a larger tensor has a file of its own.

    Raises:
        ArtifactError: the tokenizer's files are missing, or name no end-of-text; or a weight is NaN or infinite.
        ConfigError: the tokenizer has more ids than the model has rows, or a weight is too large for `dtype`.
        StorageFull: no room is left.
    """
    tokenizer = read_tokenizer(tokenizer_folder)
    rows = model.config.padded_vocab_size
    if tokenizer.num_ids > rows:
        raise ConfigError(
            f"the tokenizer in {tokenizer_folder} has {tokenizer.num_ids:,} ids",
            expected=f"at most as many as the model has rows, {rows:,}",
            fix="raise padded_vocab_size, or use the tokenizer that the model was trained with",
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(model, folder, layout, TORCH_DTYPES[dtype], max_shard_bytes)
    torch_name = str(TORCH_DTYPES[dtype]).removeprefix("torch.")
    write_json(folder / CONFIG, settings_of(model.config, tokenizer.eot_id, layout, torch_name))
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eot_id)
    padding_rows = list(range(tokenizer.num_ids, rows))
    write_json(
        folder / GENERATION_CONFIG,
        ends | ({"suppress_tokens": padding_rows} if padding_rows else {}),
    )
    _write_tokenizer(tokenizer_folder, folder, layout)


def _write_weights(
    model: CodeGen, folder: Path, layout: CheckpointFormat, dtype: torch.dtype, max_shard_bytes: int
) -> None:
    parameters = dict(model.named_parameters())
    owners: dict[str, str] = {}
    sizes_bytes: dict[str, int] = {}
    for ours, parameter in parameters.items():
        for theirs, shape in to_hf(ours, parameter.detach().to("meta"), layout).items():
            owners[theirs], sizes_bytes[theirs] = ours, shape.numel() * dtype.itemsize
    plan = split_state_dict_into_shards_factory(
        sizes_bytes,
        get_storage_size=lambda size_bytes: size_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    _remove_weights(
        folder, keep={*plan.filename_to_tensors, *([SAFETENSORS_INDEX] if plan.is_sharded else [])}
    )
    for file, names in plan.filename_to_tensors.items():
        tensors = {
            name: _stored(
                name, to_hf(owners[name], parameters[owners[name]].detach(), layout)[name], dtype
            )
            for name in names
        }
        write_tensors(tensors, folder / file, {"format": "pt"})
    if plan.is_sharded:
        write_json(
            folder / SAFETENSORS_INDEX,
            {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename},
        )


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file that is whole or absent.

    Raises:
        StorageFull: there is no room for it. The library says so in words of its own, with the system's number.
    """
    with atomic_write_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
            raise


def _remove_weights(folder: Path, keep: set[str]) -> None:
    """Remove what a reader would take for the weights: those of a model that was here, split in another way."""
    for path in folder.iterdir():
        if _WEIGHT_FILES.fullmatch(path.name) and path.name not in keep:
            path.unlink()


def _stored(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    stored = weight.to("cpu", dtype)
    if all_finite(stored):
        return stored
    if not all_finite(weight):
        raise ArtifactError(
            f"the weights of {name} are not all finite",
            expected="a model without NaN and infinity in it",
            fix="look at the loss of its training; take an earlier checkpoint, or train it again",
        )
    raise ConfigError(
        f"{name} holds {float(weight.abs().max()):g}, too large for {str(dtype).removeprefix('torch.')}",
        expected=f"weights of at most {torch.finfo(dtype).max:g}",
        fix="choose bf16 or fp32",
    )


def _write_tokenizer(source: Path, folder: Path, layout: CheckpointFormat) -> None:
    with atomic_write_path(folder / TOKENIZER) as temporary:
        shutil.copyfile(source / TOKENIZER, temporary)
    if layout == CheckpointFormat.codegen:
        with atomic_write_path(folder / TOKENIZER_CONFIG) as temporary:
            shutil.copyfile(source / TOKENIZER_CONFIG, temporary)
    else:
        settings = read_json(source / TOKENIZER_CONFIG)
        write_json(
            folder / TOKENIZER_CONFIG, settings | {"tokenizer_class": TOKENIZER_CLASSES[layout]}
        )
