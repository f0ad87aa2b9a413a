"""Packed token shards: what is in the files, and how they are written.

A split is a stream of tokens cut into sequences of equal length; a shard is a file of sequences back to back, little-endian
uint16, without any header. `index.json` says how many sequences each shard holds, so a reader needs no other bookkeeping
and a shard can be mapped into memory as it is. One decision: where every shard begins and ends is known before any is
written, so each is copied by itself, in any order and on any machine. Making the stream is `prepare`'s affair, reading the
shards `reader`'s.
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

INDEX_JSON = "index.json"
TRAIN = "train"

TOKEN_DTYPE = np.dtype("<u2")
"""A token as it lies in a shard."""

SHARD_TOKENS = 2**25
"""Tokens in a full shard, 64 MiB (assumption: large enough to read fast, small enough to copy one by one)."""
_COPIED_AT_ONCE = 2**24
"""Bytes."""
HELD_OUT = "held-out/"
"""What the names of held-out splits begin with; the language follows."""


def held_out(language: str) -> str:
    """The name of the split that is kept out of training for a language."""
    return f"{HELD_OUT}{language}"


class Shard(Config):
    """One file of a split."""

    path: str
    """Relative to the artifact's folder."""
    num_sequences: int
    sha256: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of the file's bytes. Left out of the index where it is not known, so that an index without has the bytes it had."""

    def size_bytes(self, context_length: int) -> int:
        """How large the file is."""
        return self.num_sequences * context_length * TOKEN_DTYPE.itemsize


class Split(Config):
    """The shards of a split, in order."""

    shards: ListOrTuple[Shard]
    num_sequences: int

    def with_digests(self, digests: Mapping[str, str]) -> Split:
        """The same split, its shards with their SHA-256, by path."""
        shards = tuple(shard.replace(sha256=digests[shard.path]) for shard in self.shards)
        return Split(shards=shards, num_sequences=self.num_sequences)


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
            fix="remove the artifact's folder and run the same command again: it is rebuilt",
        )


class TokenSlice(NamedTuple):
    """A part of a file of tokens."""

    path: str
    first: int
    """The first token of it that is meant."""
    num_tokens: int


def cut_into_shards(
    name: str, num_tokens: int, context_length: int, shard_tokens: int = SHARD_TOKENS
) -> Split:
    """The shards of a split that has so many tokens; a last partial sequence is dropped. Digests are yet to come."""
    num_sequences, in_shard = num_tokens // context_length, max(1, shard_tokens // context_length)
    sizes = [min(in_shard, num_sequences - first) for first in range(0, num_sequences, in_shard)]
    shards = (
        Shard(path=f"{name}/{number:05d}.bin", num_sequences=size)
        for number, size in enumerate(sizes)
    )
    return Split(shards=tuple(shards), num_sequences=num_sequences)


def pieces_of(first: int, num_tokens: int, streams: Sequence[tuple[str, int]]) -> list[TokenSlice]:
    """Where tokens `first` to `first + num_tokens` lie, if the streams (file, number of tokens) follow one another."""
    pieces, start = [], 0
    for path, length in streams:
        low, high = max(first, start), min(first + num_tokens, start + length)
        if low < high:
            pieces.append(TokenSlice(path, low - start, high - low))
        start += length
    return pieces


def write_shard(path: Path, pieces: Iterable[TokenSlice]) -> str:
    """Write a shard from parts of other files, atomically; one that is there is whole and stays. Returns its SHA-256."""
    if path.exists():
        return sha256_file(path)
    digest = hashlib.sha256()
    with atomic_write_path(path) as temporary, temporary.open("wb") as file:
        for piece in pieces:
            with Path(piece.path).open("rb") as source:
                source.seek(piece.first * TOKEN_DTYPE.itemsize)
                left = piece.num_tokens * TOKEN_DTYPE.itemsize
                while left and (content := source.read(min(left, _COPIED_AT_ONCE))):
                    digest.update(content)
                    file.write(content)
                    left -= len(content)
    return digest.hexdigest()
