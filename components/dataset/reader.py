"""Reads packed shards and defines the order of training.

The order is a pure function of seed and global position: a pseudo-random permutation per epoch. So
the batch of a step does not depend on the number of ranks, and resuming needs only the step number.
The permutation (a Feistel network) is computed for the requested positions and never stored: an
epoch of the paper's corpora has more than 10^8 sequences.

A local corpus is mapped into memory, a remote corpus is streamed through a bounded cache.

Shapes: N requested sequences, T tokens of a sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.core.errors import ArtifactError, ConfigError
from components.core.files import parse_json
from components.dataset.config import StreamingCacheConfig
from components.dataset.remote_folder import open_folder
from components.dataset.shards import (
    INDEX_JSON,
    TOKEN_DTYPE,
    TRAIN,
    Index,
    Shard,
    check_shard_size,
)
from components.dataset.streaming import StreamedShards

Positions = npt.NDArray[np.int64]

_ROUNDS = 6
"""Of the Feistel network: four (Luby and Rackoff 1988), two more for small halves (assumption)."""


class PackedSplit:
    """The sequences of a split, mapped into memory or streamed."""

    def __init__(
        self,
        folder: str | Path,
        split: str = TRAIN,
        *,
        streaming: StreamingCacheConfig | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a split of a packed corpus.

        Args:
            folder: of the corpus: a path or an fsspec URI.
            split: its name.
            streaming: the cache for a remote corpus; ignored for a local corpus.
            storage_options: endpoint and credentials for the URI; see `remote_folder.open_folder`.

        Raises:
            ArtifactError: the split does not exist, or a shard's size differs from the index.
            ConfigError: the URI cannot be opened, or its cache is missing or too small.
        """
        corpus = open_folder(folder, storage_options)
        if isinstance(corpus, Path):
            index_json = (corpus / INDEX_JSON).read_bytes()
        else:
            index_json = corpus.read(INDEX_JSON)
        self.index = Index.parse(parse_json(index_json))
        if split not in self.index.splits:
            raise ArtifactError(
                f"{folder} has no split {split!r}",
                expected=f"one of {', '.join(self.index.splits)}",
                fix="choose one of these splits, or prepare the corpus with that language",
            )
        self.split = split
        self.context_length = self.index.context_length
        self.num_ids = self.index.num_ids
        shards = self.index.splits[split].shards
        self._ends = np.cumsum([shard.num_sequences for shard in shards], dtype=np.int64)
        self._shards: _MappedShards | StreamedShards
        if isinstance(corpus, Path):
            self._shards = _MappedShards(corpus, shards, self.context_length)
        elif streaming is None:
            raise ConfigError(
                f"{folder} is not on this machine, and no streaming cache is configured",
                expected="a StreamingCacheConfig with a folder and a size",
                fix="pass `streaming`, or fetch the corpus and pass its local folder",
            )
        else:
            digest = hashlib.sha256(index_json).hexdigest()
            self._shards = StreamedShards(corpus, shards, self.context_length, digest, streaming)

    def __len__(self) -> int:
        """The number of sequences."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_tokens(self) -> int:
        """Tokens in all sequences."""
        return len(self) * self.context_length

    def batch(self, indices: npt.ArrayLike) -> npt.NDArray[np.uint16]:
        """Read sequences, [len(indices), context_length], in the order of `indices`.

        Raises:
            IndexError: an index is negative or not below `len(self)`.
            ArtifactError, DiskFullError: a remote sequence cannot be fetched or cached.
        """
        indices_N = np.asarray(indices, dtype=np.int64)
        if indices_N.size and (indices_N.min() < 0 or indices_N.max() >= len(self)):
            raise IndexError(
                f"{self.split} has sequences 0 to {len(self) - 1}, "
                f"got {indices_N.min()} to {indices_N.max()}"
            )
        shards_N = np.searchsorted(self._ends, indices_N, side="right")
        starts_N = np.concatenate([np.zeros(1, dtype=np.int64), self._ends])[shards_N]
        return self._shards.read(shards_N, indices_N - starts_N)

    def evenly_spaced(self, max_sequences: int) -> Positions:
        """Indices of up to `max_sequences` sequences, at equal strides from the first."""
        num_sequences = min(max_sequences, len(self))
        return np.arange(num_sequences) * len(self) // max(1, num_sequences)

    def shuffled_indices(self, seed: int, first: int, num_positions: int) -> Positions:
        """Sequences at training positions `first` on (see `sequence_indices`), [num_positions]."""
        positions = np.arange(first, first + num_positions, dtype=np.int64)
        return sequence_indices(positions, len(self), seed)


class _MappedShards:
    """The shards of a split, mapped into memory."""

    def __init__(self, folder: Path, shards: Sequence[Shard], context_length: int) -> None:
        self._context_length = context_length
        self._maps = [_map_shard(folder / shard.path, shard, context_length) for shard in shards]

    def read(
        self, shards_N: npt.NDArray[np.int64], rows_N: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint16]:
        """The sequences `rows_N` of the shards `shards_N`, [N, T]."""
        sequences_NT = np.empty((len(rows_N), self._context_length), dtype=np.uint16)
        for shard in np.unique(shards_N):
            in_shard_N = shards_N == shard
            sequences_NT[in_shard_N] = self._maps[shard][rows_N[in_shard_N]]
        return sequences_NT


def _map_shard(path: Path, shard: Shard, context_length: int) -> npt.NDArray[np.uint16]:
    size_bytes = path.stat().st_size if path.is_file() else 0
    check_shard_size(str(path), size_bytes, shard, context_length)
    return np.memmap(path, dtype=TOKEN_DTYPE, mode="r", shape=(shard.num_sequences, context_length))


def sequence_indices(positions: npt.ArrayLike, num_sequences: int, seed: int) -> Positions:
    """The sequence to train on at each global position; positions count from 0 over all epochs.

    Within an epoch, positions `epoch * num_sequences` to `(epoch + 1) * num_sequences - 1`, every
    sequence occurs once.
    """
    if num_sequences < 1:
        raise ValueError("there is no sequence to train on")
    epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), num_sequences)
    indices = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        in_epoch = epochs == epoch
        indices[in_epoch] = _permute(offsets[in_epoch], num_sequences, f"{seed}:{epoch}")
    return indices


def _permute(offsets: Positions, size: int, key: str) -> Positions:
    """A permutation of 0 ... size - 1: a Feistel network on the next even number of bits.

    Results beyond `size` pass through again until they are inside ("cycle walking", Black and
    Rogaway 2002), which keeps the mapping bijective. The domain is less than four times `size`, so
    this takes few rounds.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    digest = hashlib.sha512(f"epoch order:{key}".encode()).digest()
    keys = np.frombuffer(digest, dtype="<u8")[:_ROUNDS]
    values = offsets.astype(np.uint64)
    is_outside = np.ones(len(values), dtype=bool)
    while is_outside.any():
        values[is_outside] = _feistel(values[is_outside], half_bits, keys)
        is_outside = values >= size
    return values.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    shift = np.uint64(half_bits)
    mask = np.uint64(2**half_bits - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
