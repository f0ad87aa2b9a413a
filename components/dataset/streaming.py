"""Reads the shards of a remote corpus through a bounded local cache.

If the split fits into the cache, whole shards are fetched, each once, and checked against their
SHA-256. Otherwise aligned ranges of a few sequences are fetched: training visits sequences in
random order, so nearly every sequence is in another shard, and a 64 MiB shard would be transferred
for 4 kB. The index has no digests of ranges, so only their size is checked.

Shapes: N requested sequences, T tokens of a sequence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.core.errors import ConfigError
from components.dataset.block_cache import Block, BlockCache
from components.dataset.config import RANGE_BYTES, StreamingCacheConfig
from components.dataset.remote_folder import RemoteFolder
from components.dataset.shards import TOKEN_DTYPE, Shard, check_shard_size


class _SequenceRange(NamedTuple):
    """Consecutive sequences of a shard, and the requests that they serve."""

    shard: Shard
    first: int
    """The first sequence, counted in the shard."""
    num_sequences: int
    request_indices: list[int]
    """Indices into the N requested sequences."""


class StreamedShards:
    """The shards of a split of a remote corpus."""

    def __init__(
        self,
        remote: RemoteFolder,
        shards: Sequence[Shard],
        context_length: int,
        corpus_digest: str,
        streaming: StreamingCacheConfig,
    ) -> None:
        """Open the cache and compare the sizes of all shards with the index.

        Args:
            remote, shards: the folder of the corpus, and the split's shards in order.
            context_length: tokens in a sequence.
            corpus_digest: identifies the content; part of the cache key, with the URI.
            streaming: the cache.

        Raises:
            ArtifactError: a shard is missing, or its size differs from the index.
            ConfigError: the cache is too small for a single range.
        """
        self._remote, self._shards = remote, shards
        self._context_length = context_length
        self._sequence_bytes = context_length * TOKEN_DTYPE.itemsize
        self._corpus_key = f"{remote.uri}\0{corpus_digest}"
        sizes = remote.sizes([shard.path for shard in shards])
        for shard, size_bytes in zip(shards, sizes, strict=True):
            check_shard_size(remote.file_uri(shard.path), size_bytes, shard, context_length)
        self._range_sequences = self._choose_range_sequences(streaming)
        largest_shard = max((shard.num_sequences for shard in shards), default=0)
        fetch_bytes = min(self._range_sequences, largest_shard) * self._sequence_bytes
        if fetch_bytes > streaming.cache_bytes:
            raise ConfigError(
                f"cache_bytes is {streaming.cache_bytes:,}",
                expected=f"at least {fetch_bytes:,}, the size of one fetch from {remote.uri}",
                fix="increase cache_bytes, or set a smaller range_bytes",
            )
        self._cache = BlockCache(Path(streaming.cache_folder), streaming.cache_bytes)

    def read(
        self, shards_N: npt.NDArray[np.int64], rows_N: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint16]:
        """The sequences `rows_N` of the shards `shards_N`, [N, T].

        Raises:
            ArtifactError: a sequence cannot be fetched, or its file differs from the index.
            DiskFullError: the disk of the cache is full.
        """
        sequences_NT = np.empty((len(rows_N), self._context_length), dtype=np.uint16)
        ranges = self._group_into_ranges(shards_N, rows_N)

        def fetch(block: Block, path: Path) -> None:
            self._fetch(ranges[block], block.size_bytes, path)

        def use(block: Block, descriptor: int) -> None:
            sequence_range = ranges[block]
            for index in sequence_range.request_indices:
                offset = (int(rows_N[index]) - sequence_range.first) * self._sequence_bytes
                content = os.pread(descriptor, self._sequence_bytes, offset)
                sequences_NT[index] = np.frombuffer(content, dtype=TOKEN_DTYPE)

        self._cache.read(list(ranges), fetch, use)
        return sequences_NT

    def _choose_range_sequences(self, streaming: StreamingCacheConfig) -> int:
        split_bytes = sum(shard.num_sequences for shard in self._shards) * self._sequence_bytes
        if streaming.range_bytes is None and split_bytes <= streaming.cache_bytes:
            return max((shard.num_sequences for shard in self._shards), default=1)
        return max(1, (streaming.range_bytes or RANGE_BYTES) // self._sequence_bytes)

    def _group_into_ranges(
        self, shards_N: npt.NDArray[np.int64], rows_N: npt.NDArray[np.int64]
    ) -> dict[Block, _SequenceRange]:
        requests: dict[tuple[int, int], list[int]] = {}
        for index, (number, row) in enumerate(zip(shards_N.tolist(), rows_N.tolist(), strict=True)):
            first = row - row % self._range_sequences
            requests.setdefault((number, first), []).append(index)
        ranges = {}
        for (number, first), request_indices in requests.items():
            shard = self._shards[number]
            num_sequences = min(self._range_sequences, shard.num_sequences - first)
            sequence_range = _SequenceRange(shard, first, num_sequences, request_indices)
            ranges[self._block(sequence_range)] = sequence_range
        return ranges

    def _block(self, sequence_range: _SequenceRange) -> Block:
        shard, first, num_sequences, _ = sequence_range
        key = f"{self._corpus_key}\0{shard.path}\0{first}\0{num_sequences}"
        return Block(hashlib.sha256(key.encode()).hexdigest(), num_sequences * self._sequence_bytes)

    def _fetch(self, sequence_range: _SequenceRange, size_bytes: int, path: Path) -> None:
        shard, first, num_sequences, _ = sequence_range
        if num_sequences == shard.num_sequences:
            self._remote.fetch_file(shard.path, path, size_bytes, shard.sha256)
        else:
            self._remote.fetch_range(shard.path, first * self._sequence_bytes, size_bytes, path)
