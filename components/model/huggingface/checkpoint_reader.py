"""Load a checkpoint folder into a model: weights in safetensors or PyTorch files, sharded or not.

Files are memory-mapped, so the bytes of a tensor are read when they are copied, a chunk at a time.
A pickle is never executed: `torch.load` builds tensors only (`weights_only`). If a folder has
several kinds of weight files, the order is that of `transformers`: safetensors before PyTorch,
unsharded before sharded. PyTorch's format from before 1.6 is not supported; it cannot be mapped.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.core.errors import ArtifactError
from components.core.files import parse_json
from components.core.paths import require_file_name
from components.model.huggingface.hf_format import (
    CONSTANT_SUFFIXES,
    codegen_name,
    from_codegen,
    invalid_file,
    load_config,
)
from components.model.transformer import CodeGen
from components.model.weights import fill_parameters, overlap, split_range

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
_PYTORCH = "pytorch_model.bin"
_PYTORCH_INDEX = "pytorch_model.bin.index.json"

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types whose values fp32 represents exactly."""
_GIT_LFS = b"version https://git-lfs"
_MAX_QUOTED_CHARS = 200


class StoredTensor(NamedTuple):
    """A tensor and the file that contains it."""

    path: Path
    tensor: Tensor


class StoredWeights:
    """The weights of a checkpoint folder, a `WeightSource`; read from the files when written."""

    def __init__(self, folder: Path) -> None:
        """Open the files, and check names, shapes and types.

        Args:
            folder: a checkpoint of `save_checkpoint`, or a released CodeGen checkpoint.

        Raises:
            ArtifactError: a file is missing, truncated, damaged or no CodeGen model; or a tensor is
                missing, unexpected, or of another shape or type.
        """
        self.config = load_config(folder)
        with torch.device("meta"):
            parameters = dict(CodeGen(self.config).named_parameters())
        shapes = {codegen_name(name): parameter.shape for name, parameter in parameters.items()}
        self._stored = stored_weights(folder, shapes)
        _check_names_and_shapes(folder, self._stored, shapes)

    def write(self, name: str, values_N: Tensor, positions: range) -> None:
        """See `WeightSource`.

        Raises:
            ArtifactError: a value at these positions is NaN or infinite.
        """
        stored = self._stored.pop(codegen_name(name))
        start = 0
        for block in from_codegen(name, stored.tensor):
            part = overlap(range(start, start + block.numel()), positions)
            block_N = block.reshape(-1)
            for chunk in split_range(len(part)):
                first = part.start + chunk.start
                chunk_N = block_N[first - start : first - start + len(chunk)].float()
                _require_finite(name, chunk_N, stored)
                values_N[first : first + len(chunk)] = chunk_N
            start += block.numel()


def _require_finite(name: str, chunk_N: Tensor, stored: StoredTensor) -> None:
    if len(chunk_N) and not all_finite(chunk_N):
        num_values = stored.tensor.numel()
        num_bad = int((~stored.tensor.isfinite()).sum())
        raise invalid_file(
            stored.path,
            f"has {codegen_name(name)} with {num_bad:,} of {num_values:,} values NaN or infinite",
            "finite weights",
        )


def load_checkpoint(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> CodeGen:
    """Load a checkpoint, without a copy in host memory if `device` is a GPU.

    Raises:
        ArtifactError: see `StoredWeights`; or a value is NaN or infinite.
    """
    weights = StoredWeights(folder)
    with torch.device("meta"):
        model = CodeGen(weights.config).to(dtype)
    fill_parameters(model, weights, device)
    return model


def _check_names_and_shapes(
    folder: Path, stored: dict[str, StoredTensor], shapes: dict[str, torch.Size]
) -> None:
    if missing := [name for name in shapes if name not in stored]:
        files = {entry.path for entry in stored.values()}
        raise invalid_file(
            files.pop() if len(files) == 1 else folder,
            f"lacks the tensor {missing[0]}",
            "every tensor of the model in config.json",
        )
    if unexpected := sorted(set(stored) - set(shapes)):
        raise invalid_file(
            stored[unexpected[0]].path,
            f"has also the tensor {unexpected[0]}",
            "only the tensors of the model in config.json",
        )
    for name, shape in shapes.items():
        path, tensor = stored[name]
        if tensor.shape != shape:
            raise invalid_file(
                path, f"has {name} of shape {list(tensor.shape)}", f"{list(shape)}, by config.json"
            )


def stored_weights(folder: Path, names: Iterable[str]) -> dict[str, StoredTensor]:
    """Return every weight of a folder, memory-mapped, without constants of old releases.

    `names` are the tensors of the model, in order; an error about a whole file names the first.
    """
    names = list(names)
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (_PYTORCH, _PYTORCH_INDEX)):
        if (folder / single).is_file():
            return _read_file(folder / single, names)
        if (folder / index).is_file():
            return _read_shards(folder / index, names)
    raise invalid_file(
        folder / SAFETENSORS,
        "does not exist",
        f"weights: this file, {SAFETENSORS_INDEX}, {_PYTORCH} or {_PYTORCH_INDEX}",
    )


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; `isfinite` on all values would take 7 times as long."""
    minimum, maximum = tensor.aminmax()  # Both are NaN if any value is.
    return bool(minimum.isfinite()) and bool(maximum.isfinite())


def _read_shards(index: Path, model_names: list[str]) -> dict[str, StoredTensor]:
    """Return the weights of all shards; each must contain exactly the tensors of the index."""
    files = _read_index(index)
    order = {name: number for number, name in enumerate(model_names)}
    weights: dict[str, StoredTensor] = {}
    for file in sorted(set(files.values())):
        names = [name for name in files if files[name] == file]
        names.sort(key=lambda name: (order.get(name, len(order)), name))
        path = index.with_name(file)
        if not path.is_file():
            raise invalid_file(
                path,
                f"does not exist, and with it {_summary(names)}",
                f"every shard of {index.name}",
            )
        shard = _read_file(path, names)
        for name in names:
            if name not in shard and not name.endswith(CONSTANT_SUFFIXES):
                raise invalid_file(
                    path, f"lacks the tensor {name}", f"{_summary(names)}, by {index.name}"
                )
        if unexpected := sorted(set(shard) - set(names)):
            raise invalid_file(
                path,
                f"has also the tensor {unexpected[0]}",
                f"only the tensors that {index.name} assigns to it",
            )
        weights |= shard
    return weights


def _read_index(index: Path) -> dict[str, str]:
    expected = 'a JSON object with a "weight_map" from tensors to files beside it'
    try:
        files = dict(parse_json(index.read_bytes())["weight_map"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise invalid_file(index, f"is no index ({error!r})", expected) from error
    for name, file in files.items():
        try:
            require_file_name(file)
        except (ValueError, TypeError, AttributeError) as error:
            raise invalid_file(index, f"puts {name} in {file!r:.300}", expected) from error
    return files


def _read_file(path: Path, names: list[str]) -> dict[str, StoredTensor]:
    """Return the weights of a file; `names` are the expected tensors, for error messages."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_GIT_LFS))
    except OSError as error:
        raise invalid_file(
            path, f"cannot be read ({error.strerror})", "a file that this user may read"
        ) from error
    if head == _GIT_LFS:
        raise ArtifactError(
            f"{path} is a Git LFS pointer; missing: {_summary(names)}",
            expected="the weights",
            fix="run `git lfs pull` in that folder",
        )
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pytorch
    weights = {}
    for name, tensor in read(path, names).items():
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
        ):
            kind = type(tensor).__name__
            raise invalid_file(
                path, f"has {name}, which is not a plain tensor but a {kind}", "tensors by name"
            )
        if name.endswith(CONSTANT_SUFFIXES):
            continue
        if tensor.dtype not in _DTYPES:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise invalid_file(path, f"has {name} in {dtype}", "float32, float16 or bfloat16")
        weights[name] = StoredTensor(path, tensor)
    return weights


def _read_safetensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        truncated = _first_truncated_tensor(path)
        if truncated:
            problem = f"ends inside the tensor {truncated}"
        else:
            problem = f"cannot be read ({error}); missing: {_summary(names)}"
        raise invalid_file(path, problem, "a complete safetensors file") from error


def _read_pytorch(path: Path, names: list[str]) -> dict[str, Tensor]:
    expected = "a complete file of torch.save since PyTorch 1.6"
    if not zipfile.is_zipfile(path):  # The directory of a zip file is at its end.
        raise invalid_file(
            path, f"is truncated or no zip archive; missing: {_summary(names)}", expected
        )
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        function = re.search(r"GLOBAL (\S+)", str(error))
        if function:
            problem = f"{path} contains a pickle that calls {function[1]}; it was not executed"
        else:
            problem = f"{path} contains a pickle that is not tensors"
        raise ArtifactError(
            problem,
            expected="tensors by name, without code",
            fix="do not trust the source of this file; download the checkpoint in safetensors",
        ) from error
    except Exception as error:  # A damaged pickle can fail in any way.
        reason = f"{type(error).__name__}: {str(error)[:_MAX_QUOTED_CHARS]}"
        raise invalid_file(
            path, f"cannot be read ({reason}); missing: {_summary(names)}", expected
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise invalid_file(path, f"holds a {type(content).__name__}", "tensors by name")
    return dict(content)


def _first_truncated_tensor(path: Path) -> str | None:
    """Return the first tensor of a safetensors file that is incomplete; None if not determined.

    The file is 8 bytes with the length of the header, the header in JSON, then the tensors.
    """
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(min(header_bytes, size_bytes)))
        header.pop("__metadata__", None)
        ends = sorted((entry["data_offsets"][1], name) for name, entry in header.items())
    except (struct.error, ValueError, LookupError, TypeError, AttributeError):
        return None
    for end, name in ends:
        if 8 + header_bytes + end > size_bytes:
            return str(name)
    return None


def _summary(names: list[str]) -> str:
    """Return the first name and the number of further names."""
    if not names:
        return "no tensor"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensors"
