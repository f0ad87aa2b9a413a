"""File format and writer of packed token shards.

A split is a stream of tokens divided into sequences of equal length. A shard is a file of
consecutive sequences: little-endian uint16, no header, so it can be mapped into memory.
`index.json` lists the shards and their number of sequences. Shard boundaries are fixed before any
shard is written, so shards can be written independently, in any order and on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from components.core.config import Config, ListOrTuple
from components.core.errors import ArtifactError
from components.core.files import atomic_write_path
from components.core.fingerprint import sha256_file
from components.core.paths import RelativePath

INDEX_JSON = "index.json"
TRAIN = "train"
HELD_OUT_PREFIX = "held-out/"
"""A held-out split is named by this prefix and its language."""

TOKEN_DTYPE = np.dtype("<u2")
"""Type of a token in a shard."""
SHARD_TOKENS = 2**25
"""Tokens in a full shard, 64 MiB (assumption: large enough for fast reads)."""
_COPY_BUFFER_BYTES = 2**24


def held_out_split(language: str) -> str:
    """The name of a language's held-out split."""
    return f"{HELD_OUT_PREFIX}{language}"


class Shard(Config):
    """A file of a split."""

    path: RelativePath
    """Relative to the artifact's folder."""
    num_sequences: int
    sha256: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of the file. Omitted if unknown, so indices without digests keep their bytes."""

    def size_bytes(self, context_length: int) -> int:
        """Size of the file."""
        return self.num_sequences * context_length * TOKEN_DTYPE.itemsize


class Split(Config):
    """The shards of a split, in order."""

    shards: ListOrTuple[Shard]
    num_sequences: int

    def with_digests(self, digests: Mapping[str, str]) -> Split:
        """A copy whose shards have their SHA-256, given by path."""
        shards = tuple(shard.replace(sha256=digests[shard.path]) for shard in self.shards)
        return Split(shards=shards, num_sequences=self.num_sequences)


class Index(Config):
    """`index.json`: the content of a packed corpus."""

    corpus: str
    context_length: int
    """Tokens in every sequence."""
    eot_id: int
    """The token that ends every document."""
    num_ids: int
    """Exclusive upper bound of the tokens."""
    splits: dict[str, Split]


def check_shard_size(name: str, size_bytes: int, shard: Shard, context_length: int) -> None:
    """Compare the size of a shard's file with the index.

    Raises:
        ArtifactError: the size differs; a missing file has size 0.
    """
    expected_bytes = shard.size_bytes(context_length)
    if size_bytes != expected_bytes:
        raise ArtifactError(
            f"{name} has {size_bytes:,} bytes",
            expected=f"{expected_bytes:,}: {shard.num_sequences:,} sequences of "
            f"{context_length:,} tokens",
            fix="remove the artifact's folder and run the same command again to rebuild it",
        )


class TokenSlice(NamedTuple):
    """A range of tokens in a file."""

    path: str
    first: int
    """Index of the first token."""
    num_tokens: int


def plan_shards(
    name: str, num_tokens: int, context_length: int, shard_tokens: int = SHARD_TOKENS
) -> Split:
    """The shards, without digests, of a split of `num_tokens`; drops a partial last sequence."""
    num_sequences = num_tokens // context_length
    shard_sequences = max(1, shard_tokens // context_length)
    shards = tuple(
        Shard(
            path=f"{name}/{number:05d}.bin",
            num_sequences=min(shard_sequences, num_sequences - first),
        )
        for number, first in enumerate(range(0, num_sequences, shard_sequences))
    )
    return Split(shards=shards, num_sequences=num_sequences)


def token_slices(
    first: int, num_tokens: int, streams: Sequence[tuple[str, int]]
) -> list[TokenSlice]:
    """Locate `num_tokens` tokens from `first` on in concatenated streams (file, length)."""
    slices = []
    stream_start = 0
    for path, length in streams:
        start = max(first, stream_start)
        stop = min(first + num_tokens, stream_start + length)
        if start < stop:
            slices.append(TokenSlice(path, start - stream_start, stop - start))
        stream_start += length
    return slices


def write_shard(path: Path, slices: Iterable[TokenSlice]) -> str:
    """Copy slices of files into a shard, atomically, unless it exists. Returns its SHA-256."""
    if path.exists():
        return sha256_file(path)
    digest = hashlib.sha256()
    with atomic_write_path(path) as temporary, temporary.open("wb") as file:
        for token_slice in slices:
            with Path(token_slice.path).open("rb") as source:
                source.seek(token_slice.first * TOKEN_DTYPE.itemsize)
                remaining = token_slice.num_tokens * TOKEN_DTYPE.itemsize
                while content := source.read(min(remaining, _COPY_BUFFER_BYTES)):
                    digest.update(content)
                    file.write(content)
                    remaining -= len(content)
    return digest.hexdigest()
