"""Save a model as a folder for `AutoModelForCausalLM` and `AutoTokenizer`, deterministically.

Weights are written as safetensors, split like `huggingface_hub` splits them. The folder is not
written atomically; the store and `checkpoint_export` take care of that.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from components.core.errors import ArtifactError, ConfigError
from components.core.files import atomic_write_path, read_json, write_json
from components.model.config import CheckpointFormat, Dtype, ModelConfig
from components.model.huggingface.checkpoint_reader import SAFETENSORS_INDEX, all_finite
from components.model.huggingface.hf_format import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CLASSES,
    TOKENIZER_CONFIG,
    read_tokenizer,
    to_hf,
    to_hf_config,
)
from components.model.transformer import CodeGen

MAX_SHARD_BYTES = 5_000_000_000
"""The default of `huggingface_hub` (MAX_SHARD_SIZE, 5 GB)."""

TORCH_DTYPES = {Dtype.fp32: torch.float32, Dtype.fp16: torch.float16, Dtype.bf16: torch.bfloat16}

_WEIGHT_FILES = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
)


def save_checkpoint(
    model: CodeGen,
    tokenizer_folder: Path,
    folder: Path,
    *,
    checkpoint_format: CheckpointFormat = CheckpointFormat.codegen,
    dtype: Dtype = Dtype.fp32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model into `folder`; see `write_checkpoint`."""
    write_checkpoint(
        model.config,
        model.named_parameters(),
        tokenizer_folder,
        folder,
        checkpoint_format=checkpoint_format,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )


def write_checkpoint(
    config: ModelConfig,
    weights: Iterable[tuple[str, Tensor]],
    tokenizer_folder: Path,
    folder: Path,
    *,
    checkpoint_format: CheckpointFormat = CheckpointFormat.codegen,
    dtype: Dtype = Dtype.fp32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights, `config.json`, `generation_config.json` and the tokenizer into `folder`.

    A weight file is written as soon as its tensors are there, so at most about `max_shard_bytes` of
    `weights` are in memory.

    Args:
        weights: every parameter of the model in its order, by name, on any device.
        tokenizer_folder: has `tokenizer.json` and `tokenizer_config.json`.
        folder: created if needed; files of a model in it are replaced.
        max_shard_bytes: maximum size of a weight file; a larger tensor gets a file of its own.

    Raises:
        ArtifactError: the tokenizer's files are missing or have no end-of-text token; or a weight
            is NaN or infinite.
        ConfigError: the tokenizer has more ids than the model has rows, or a weight is too large
            for `dtype`.
        DiskFullError: the disk is full.
    """
    tokenizer = read_tokenizer(tokenizer_folder)
    num_rows = config.padded_vocab_size
    if tokenizer.num_ids > num_rows:
        raise ConfigError(
            f"the tokenizer in {tokenizer_folder} has {tokenizer.num_ids:,} ids",
            expected=f"at most the model's {num_rows:,} rows",
            fix="raise padded_vocab_size, or use the tokenizer that the model was trained with",
        )
    folder.mkdir(parents=True, exist_ok=True)
    torch_dtype = TORCH_DTYPES[dtype]
    _write_weights(config, weights, folder, checkpoint_format, torch_dtype, max_shard_bytes)
    write_json(
        folder / CONFIG,
        to_hf_config(config, tokenizer.eot_id, checkpoint_format, _dtype_name(torch_dtype)),
    )
    eot_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eot_id)
    padding_ids = list(range(tokenizer.num_ids, num_rows))
    suppressed = {"suppress_tokens": padding_ids} if padding_ids else {}
    write_json(folder / GENERATION_CONFIG, eot_ids | suppressed)
    _write_tokenizer(tokenizer_folder, folder, checkpoint_format)


def _write_weights(
    config: ModelConfig,
    weights: Iterable[tuple[str, Tensor]],
    folder: Path,
    checkpoint_format: CheckpointFormat,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> None:
    with torch.device("meta"):
        model = CodeGen(config)
    sizes_bytes = {
        hf_name: tensor.numel() * dtype.itemsize
        for name, parameter in model.named_parameters()
        for hf_name, tensor in to_hf(name, parameter, checkpoint_format).items()
    }
    plan = split_state_dict_into_shards_factory(
        sizes_bytes,
        get_storage_size=lambda size_bytes: size_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    files = set(plan.filename_to_tensors)
    _remove_stale_weights(folder, files | {SAFETENSORS_INDEX} if plan.is_sharded else files)
    file_of_tensor = {
        hf_name: file for file, names in plan.filename_to_tensors.items() for hf_name in names
    }
    tensors_by_file: dict[str, dict[str, Tensor]] = {file: {} for file in files}
    for name, weight in weights:
        for hf_name, tensor in to_hf(name, weight.detach(), checkpoint_format).items():
            file = file_of_tensor[hf_name]
            tensors = tensors_by_file[file]
            tensors[hf_name] = _convert(hf_name, tensor, dtype)
            if len(tensors) == len(plan.filename_to_tensors[file]):
                write_tensors(tensors_by_file.pop(file), folder / file, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / SAFETENSORS_INDEX, index)


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; raises DiskFullError if the disk is full."""
    with atomic_write_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # Its text contains the system's error number.
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
            raise


def _remove_stale_weights(folder: Path, files: set[str]) -> None:
    """Remove weight files of a previous model, which a reader would load, except `files`."""
    for path in folder.iterdir():
        if _WEIGHT_FILES.fullmatch(path.name) and path.name not in files:
            path.unlink()


def _convert(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    converted = weight.to("cpu", dtype)
    if all_finite(converted):
        return converted
    if not all_finite(weight):
        raise ArtifactError(
            f"the weights of {name} are not all finite",
            expected="a model without NaN or infinite weights",
            fix="check its training loss; use an earlier checkpoint or train it again",
        )
    raise ConfigError(
        f"{name} has the value {float(weight.abs().max()):g}, too large for {_dtype_name(dtype)}",
        expected=f"weights of at most {torch.finfo(dtype).max:g}",
        fix="choose bf16 or fp32",
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_tokenizer(source: Path, folder: Path, checkpoint_format: CheckpointFormat) -> None:
    with atomic_write_path(folder / TOKENIZER) as temporary:
        shutil.copyfile(source / TOKENIZER, temporary)
    if checkpoint_format == CheckpointFormat.codegen:
        with atomic_write_path(folder / TOKENIZER_CONFIG) as temporary:
            shutil.copyfile(source / TOKENIZER_CONFIG, temporary)
    else:
        values = read_json(source / TOKENIZER_CONFIG)
        values["tokenizer_class"] = TOKENIZER_CLASSES[checkpoint_format]
        write_json(folder / TOKENIZER_CONFIG, values)
