"""Packed token shards: what is in the files, and the writer.

A split is a stream of tokens cut into sequences of equal length; a shard is a file of sequences back to back, little-endian
uint16, without any header. `index.json` says how many sequences each shard holds, so a reader needs no other bookkeeping
and a shard can be mapped into memory as it is. How the stream is made is `prepare`'s affair, reading it `reader`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from pydantic import Field

from components.core.config import Config, Items
from components.core.errors import ArtifactError

INDEX_JSON = "index.json"
TRAIN = "train"

TOKEN = np.dtype("<u2")
"""A token as it lies in a shard."""

SHARD_TOKENS = 2**25
"""Tokens in a full shard, 64 MiB (assumption: large enough to read fast, small enough to copy one by one)."""
_WRITTEN_AT_ONCE = 2**20
"""Tokens that are gathered before they are written."""


def held_out(language: str) -> str:
    """The name of the split that is kept out of training for a language."""
    return f"held-out/{language}"


class Shard(Config):
    """One file of a split."""

    path: str
    """Relative to the artifact's folder."""
    num_sequences: int
    sha256: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of the file's bytes. Left out of the index where it is not known, so that an index without has the bytes it had."""

    def size_bytes(self, context_length: int) -> int:
        """How large the file is."""
        return self.num_sequences * context_length * TOKEN.itemsize


class Split(Config):
    """The shards of a split, in order."""

    shards: Items[Shard]
    num_sequences: int


class Index(Config):
    """`index.json`: what a prepared corpus holds."""

    corpus: str
    context_length: int
    """Tokens in every sequence."""
    eot_id: int
    """The token that ends every document."""
    num_ids: int
    """Every token is below this."""
    splits: dict[str, Split]


def require_size(name: str, found_bytes: int, shard: Shard, context_length: int) -> None:
    """Compare a shard's file with the index.

    Raises:
        ArtifactError: it has another size (0: it is absent).
    """
    if found_bytes != shard.size_bytes(context_length):
        raise ArtifactError(
            f"{name} has {found_bytes:,} bytes",
            expected=f"{shard.size_bytes(context_length):,}: {shard.num_sequences:,} sequences of {context_length:,} tokens",
            do="remove the artifact's folder and run the same command again: it is rebuilt",
        )


class SplitWriter:
    """Cuts a stream of tokens into sequences and writes them as shards. `close` tells what was written."""

    def __init__(self, folder: Path, name: str, context_length: int, *, shard_tokens: int = SHARD_TOKENS) -> None:
        """Shards go to `folder/name/00000.bin` and on; none is made before there is a full sequence."""
        self._folder, self._name, self._context_length = folder, name, context_length
        self._shard_sequences = max(1, shard_tokens // context_length)
        self._pending: list[npt.NDArray[np.uint16]] = []
        self._num_pending = 0
        self._file: IO[bytes] | None = None
        self._shards: list[Shard] = []

    def add(self, ids: npt.NDArray[np.uint16]) -> None:
        """Append tokens to the stream."""
        self._pending.append(ids)
        self._num_pending += len(ids)
        if self._num_pending >= max(_WRITTEN_AT_ONCE, self._context_length):
            self._write_sequences()

    def close(self) -> tuple[Split, int]:
        """Write what is left. Returns the split, and how many tokens of a last partial sequence were dropped."""
        self._write_sequences()
        if self._file:
            self._file.close()
        num_sequences = sum(shard.num_sequences for shard in self._shards)
        return Split(shards=tuple(self._shards), num_sequences=num_sequences), self._num_pending

    def _write_sequences(self) -> None:
        stream = np.concatenate([np.zeros(0, dtype=TOKEN), *self._pending])
        num_sequences = len(stream) // self._context_length
        rest = num_sequences * self._context_length
        sequences = stream[:rest].reshape(num_sequences, self._context_length)
        while len(sequences):
            room = self._room()
            self._append(sequences[:room])
            sequences = sequences[room:]
        self._pending, self._num_pending = [stream[rest:]], len(stream) - rest

    def _room(self) -> int:
        """Sequences that still fit the open shard; opens the next one when it is full."""
        if self._file is None or self._shards[-1].num_sequences == self._shard_sequences:
            if self._file:
                self._file.close()
            shard = Shard(path=f"{self._name}/{len(self._shards):05d}.bin", num_sequences=0)
            path = self._folder / shard.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
            self._shards.append(shard)
        return self._shard_sequences - self._shards[-1].num_sequences

    def _append(self, sequences: npt.NDArray[np.uint16]) -> None:
        if self._file:
            self._file.write(sequences.astype(TOKEN, copy=False).tobytes())
            num_sequences = self._shards[-1].num_sequences + len(sequences)
            self._shards[-1] = self._shards[-1].replace(num_sequences=num_sequences)
