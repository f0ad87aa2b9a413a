"""The weights in a folder, by name, whichever way they are stored: safetensors or PyTorch's zip, in one file or in shards.

Files are mapped, so a tensor's bytes are read when they are used, and can be dropped again; nothing here takes memory for a
model. A pickle is never obeyed: `torch.load` builds tensors and refuses the rest (`weights_only`). Where a folder holds
several, the order is that of `transformers`: safetensors before PyTorch, one file before shards.
Not covered: PyTorch's format from before 1.6, which cannot be mapped.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.core.errors import ArtifactError
from components.core.files import read_json
from components.model.huggingface.hf_config import damaged
from components.model.huggingface.layout import NO_WEIGHTS

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
_PYTORCH, _PYTORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What fp32 holds exactly."""
_GIT_LFS = b"version https://git-lfs"
_MAX_NAMED_BYTES = 200
_MOST_NAME_BYTES = 255
"""Of a file's name, on Linux."""


class StoredTensor(NamedTuple):
    """A tensor as a file holds it."""

    path: Path
    tensor: Tensor


def stored_weights(folder: Path, wanted: Iterable[str]) -> dict[str, StoredTensor]:
    """Every weight of a folder, mapped; constants that old releases stored are left out.

    Args:
        wanted: the names that the model needs, in order: the first of them is named where a whole file is lost.

    Raises:
        ArtifactError: no weights, a file or shard that is missing, cut short or no such file, an index that does not fit its
            shards, a pickle that asks for more than tensors, or something that is no plain tensor in fp32, fp16 or bf16.
    """
    wanted = list(wanted)
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (_PYTORCH, _PYTORCH_INDEX)):
        if (folder / single).is_file():
            return _read(folder / single, wanted)
        if (folder / index).is_file():
            return {
                name: stored
                for shard in _shards(folder / index, wanted)
                for name, stored in shard.items()
            }
    others = f"{SAFETENSORS_INDEX}, {_PYTORCH} or {_PYTORCH_INDEX}"
    raise damaged(
        folder / SAFETENSORS, "does not exist", f"the weights of a checkpoint: this file, {others}"
    )


def all_finite(tensor: Tensor) -> bool:
    """Whether nothing in a tensor is NaN or infinite. NaN passes through both ends; `isfinite` takes seven times as long."""
    return all(bool(end.isfinite()) for end in tensor.aminmax())


def _shards(index: Path, wanted: list[str]) -> Iterator[dict[str, StoredTensor]]:
    """The weights of every shard, which has to hold what the index says and nothing else."""
    files = _weight_map(index)
    order = {name: at for at, name in enumerate(wanted)}
    for file in sorted(set(files.values())):
        names = sorted(
            (name for name in files if files[name] == file),
            key=lambda name: (order.get(name, len(order)), name),
        )
        path = index.with_name(file)
        if not path.is_file():
            lost = f"does not exist, and with it {_listed(names)}"
            raise damaged(path, lost, f"every shard that {index.name} names")
        shard = _read(path, names)
        if absent := [
            name for name in names if name not in shard and not name.endswith(NO_WEIGHTS)
        ]:
            raise damaged(
                path, f"lacks the tensor {absent[0]}", f"{_listed(names)}, as {index.name} says"
            )
        if more := sorted(set(shard) - set(names)):
            raise damaged(
                path,
                f"has also the tensor {more[0]}",
                f"what {index.name} puts in it, and nothing else",
            )
        yield shard


def _weight_map(index: Path) -> dict[str, str]:
    expected = 'a JSON object with a "weight_map" from tensors to files beside it'
    try:
        files = read_json(index)["weight_map"]
        good = all(_is_name(file) for file in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(index, f"is no index ({error!r})", expected) from error
    if not good:
        name, file = next((name, file) for name, file in files.items() if not _is_name(file))
        raise damaged(index, f"puts {name} in {file!r:.300}", expected)
    return dict(files)


def _is_name(file: object) -> bool:
    """Whether it names a file beside the index, and none elsewhere."""
    return (
        isinstance(file, str)
        and file not in ("", "..")
        and file == Path(file).name
        and len(file.encode()) <= _MOST_NAME_BYTES
    )


def _read(path: Path, names: list[str]) -> dict[str, StoredTensor]:
    """The weights of one file; `names` are those that it should hold."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_GIT_LFS))
    except OSError as error:
        raise damaged(
            path, f"cannot be read ({error.strerror})", "a file that this user may read"
        ) from error
    if start == _GIT_LFS:
        raise ArtifactError(
            f"{path} is a pointer of Git LFS, and {_listed(names)} are not here",
            expected="the weights themselves",
            fix="run `git lfs pull` in that folder",
        )
    tensors = _safetensors(path, names) if path.suffix == ".safetensors" else _pytorch(path, names)
    for name, tensor in tensors.items():
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
        ):
            raise damaged(
                path,
                f"has {name}, which is no plain tensor but a {type(tensor).__name__}",
                "tensors by name",
            )
        if tensor.dtype not in _STORED_DTYPES and not name.endswith(NO_WEIGHTS):
            got = f"has {name} in {str(tensor.dtype).removeprefix('torch.')}"
            raise damaged(path, got, "float32, float16 or bfloat16")
    return {
        name: StoredTensor(path, tensor)
        for name, tensor in tensors.items()
        if not name.endswith(NO_WEIGHTS)
    }


def _safetensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        cut = _first_cut_tensor(path)
        got = (
            f"ends inside the tensor {cut}"
            if cut
            else f"cannot be read ({error}); lost is {_listed(names)}"
        )
        raise damaged(path, got, "a whole safetensors file") from error


def _pytorch(path: Path, names: list[str]) -> dict[str, Tensor]:
    expected = "a whole file as torch.save writes it since PyTorch 1.6"
    if not zipfile.is_zipfile(path):  # Its directory is at its end.
        raise damaged(path, f"is cut short or no zip archive; lost is {_listed(names)}", expected)
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise ArtifactError(
            f"{path} asks for {asked[1]}, which was not obeyed"
            if asked
            else f"{path} holds a pickle that makes no tensors",
            expected="tensors by name, and nothing that runs",
            fix="do not trust its source if it is not damaged; take the checkpoint in safetensors",
        ) from error
    except Exception as error:  # A damaged pickle is a damaged program: it can fail in any way.
        got = f"cannot be read ({type(error).__name__}: {str(error)[:_MAX_NAMED_BYTES]}); lost is {_listed(names)}"
        raise damaged(path, got, expected) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise damaged(path, f"holds a {type(content).__name__}", "tensors by name")
    return dict(content)


def _first_cut_tensor(path: Path) -> str | None:
    """The first tensor whose bytes a safetensors file does not hold to their end; None where its header is unreadable.

    Such a file is 8 bytes with the header's length, the header in JSON, then the tensors.
    """
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(header_bytes, size_bytes)))
        ends = sorted(
            (entry["data_offsets"][1], name)
            for name, entry in header.items()
            if name != "__metadata__"
        )
    except (struct.error, ValueError, LookupError, TypeError, AttributeError):
        return None
    return next((name for end, name in ends if 8 + header_bytes + end > size_bytes), None)


def _listed(names: list[str]) -> str:
    """The first of some tensors, and how many more there are."""
    first = names[0] if names else "no tensor"
    return first if len(names) < 2 else f"{first} and {len(names) - 1} more tensors"
