"""Shards that lie elsewhere, read through a bounded cache on this machine.

Design decision: what is fetched depends on whether the split fits into the cache. Where it does, whole shards are: each
travels once and is checked against its SHA-256. Where it does not, aligned ranges of a few sequences are: training visits
sequences in a random order over the whole corpus, so nearly every sequence lies in another shard, and a shard of 64 MiB
would have to travel for 4 kB. Ranges are checked by their size alone: the index has no digests of parts.

The order of a step's sequences is the reader's; nothing here can change a batch, only how soon it comes.

Shapes: N sequences asked for, T tokens of a sequence.
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
from components.dataset.remote_folder import RemoteFolder
from components.dataset.shards import TOKEN_DTYPE, Shard, require_size
from components.tokenizer.config import RANGE_BYTES, StreamingCacheConfig


class _Piece(NamedTuple):
    """A run of sequences of one shard, and which of the rows asked for lie in it."""

    shard: Shard
    first: int
    """The first sequence of the run, counted in the shard."""
    num_sequences: int
    wanted: list[int]
    """Positions in what was asked for."""


class StreamedShards:
    """The shards of one split."""

    def __init__(
        self,
        remote: RemoteFolder,
        shards: Sequence[Shard],
        context_length: int,
        identity: str,
        streaming: StreamingCacheConfig,
    ) -> None:
        """Open the cache, and compare the sizes of all shards with the index.

        Args:
            remote, shards: where they lie, and which.
            context_length: tokens in a sequence.
            identity: of the corpus: another content has another one, wherever it lies.
            streaming: the cache.

        Raises:
            ArtifactError: a shard is absent or has another size than the index says.
            ConfigError: the cache is too small for a single range.
        """
        self._remote, self._shards, self._context_length = remote, shards, context_length
        self._sequence_bytes = context_length * TOKEN_DTYPE.itemsize
        self._identity = f"{remote.uri}\0{identity}"
        for shard, found in zip(
            shards, remote.sizes([shard.path for shard in shards]), strict=True
        ):
            require_size(remote.name(shard.path), found, shard, context_length)
        self._run = self._sequences_in_a_run(streaming)
        largest = (
            min(self._run, max((shard.num_sequences for shard in shards), default=0))
            * self._sequence_bytes
        )
        if largest > streaming.cache_bytes:
            raise ConfigError(
                f"cache_bytes is {streaming.cache_bytes:,}",
                expected=f"at least {largest:,}, what is fetched at once of {remote.uri}",
                fix="give the cache more room, or set range_bytes lower",
            )
        self._cache = BlockCache(Path(streaming.cache_folder), streaming.cache_bytes)

    def read(
        self, numbers_N: npt.NDArray[np.int64], rows_N: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint16]:
        """The sequences `rows_N` of the shards `numbers_N`, [N, T].

        Raises:
            ArtifactError: one cannot be had, or is not what the index says.
            StorageFull: no room on the disk of the cache.
        """
        sequences_NT = np.empty((len(rows_N), self._context_length), dtype=np.uint16)
        pieces = self._pieces(numbers_N, rows_N)

        def fetch(block: Block, to: Path) -> None:
            self._fetch(pieces[block], block.size_bytes, to)

        def use(block: Block, descriptor: int) -> None:
            piece = pieces[block]
            for position in piece.wanted:
                offset = (int(rows_N[position]) - piece.first) * self._sequence_bytes
                sequences_NT[position] = np.frombuffer(
                    os.pread(descriptor, self._sequence_bytes, offset), dtype=TOKEN_DTYPE
                )

        self._cache.read(list(pieces), fetch, use)
        return sequences_NT

    def _sequences_in_a_run(self, streaming: StreamingCacheConfig) -> int:
        split_bytes = sum(shard.num_sequences for shard in self._shards) * self._sequence_bytes
        if streaming.range_bytes is None and split_bytes <= streaming.cache_bytes:
            return max((shard.num_sequences for shard in self._shards), default=1)
        return max(1, (streaming.range_bytes or RANGE_BYTES) // self._sequence_bytes)

    def _pieces(
        self, numbers_N: npt.NDArray[np.int64], rows_N: npt.NDArray[np.int64]
    ) -> dict[Block, _Piece]:
        runs: dict[tuple[int, int], list[int]] = {}
        for position, (number, row) in enumerate(
            zip(numbers_N.tolist(), rows_N.tolist(), strict=True)
        ):
            runs.setdefault((number, row - row % self._run), []).append(position)
        pieces = {}
        for (number, first), wanted in runs.items():
            shard = self._shards[number]
            piece = _Piece(shard, first, min(self._run, shard.num_sequences - first), wanted)
            pieces[self._block(piece)] = piece
        return pieces

    def _block(self, piece: _Piece) -> Block:
        content = f"{self._identity}\0{piece.shard.path}\0{piece.first}\0{piece.num_sequences}"
        return Block(
            hashlib.sha256(content.encode()).hexdigest(), piece.num_sequences * self._sequence_bytes
        )

    def _fetch(self, piece: _Piece, size_bytes: int, to: Path) -> None:
        if piece.num_sequences == piece.shard.num_sequences:
            self._remote.fetch_whole(piece.shard.path, to, size_bytes, piece.shard.sha256)
        else:
            self._remote.fetch_range(
                piece.shard.path, piece.first * self._sequence_bytes, size_bytes, to
            )
