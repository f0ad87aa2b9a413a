"""Read packed shards, and say which sequences belong to which training step.

The order is a pure function: global position -> sequence, by a permutation that the seed and the epoch determine. So the
batch of a step is the same whatever the number of ranks that share it, and resuming needs no state but the step's number.
The permutation is computed for the positions asked for (a Feistel network), never stored: an epoch of the paper's corpora
has 10^8 sequences and more. Who reads which position is training's affair.

A corpus on this machine is mapped into memory; one that lies elsewhere is streamed through a bounded cache (see
`streaming`). Both give the same sequences.

Shapes: N sequences asked for, T tokens of a sequence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.core.errors import ArtifactError, ConfigError
from components.dataset.remote_folder import open_folder
from components.dataset.shards import INDEX_JSON, TOKEN_DTYPE, TRAIN, Index, Shard, require_size
from components.dataset.streaming import StreamedShards
from components.tokenizer.config import StreamingCacheConfig

Positions = npt.NDArray[np.int64]

_ROUNDS = 6
"""Of the Feistel network. Four suffice in theory (Luby and Rackoff 1988); two more for small halves (assumption)."""


class PackedSplit:
    """The sequences of one split, mapped into memory or streamed."""

    def __init__(
        self,
        folder: str | Path,
        split: str = TRAIN,
        *,
        streaming: StreamingCacheConfig | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a split of a prepared corpus.

        Args:
            folder: of the corpus: a path, or any URI that fsspec understands.
            split: its name.
            streaming: the cache for a corpus that is not on this machine; unused for one that is.
            storage_options: how the URI is reached (endpoint, credentials); see `remote.open_folder`.

        Raises:
            ArtifactError: there is no such split, or a shard has another size than the index says.
            ConfigError: the URI cannot be opened, or no sufficient cache is given for it.
        """
        place = open_folder(folder, storage_options)
        content = (
            (place / INDEX_JSON).read_bytes() if isinstance(place, Path) else place.read(INDEX_JSON)
        )
        self.index = Index.parse(json.loads(content))
        if split not in self.index.splits:
            raise ArtifactError(
                f"{folder} has no split {split!r}",
                expected=f"one of {', '.join(self.index.splits)}",
                fix="name one of them, or prepare the corpus with that language",
            )
        self.split = split
        self.context_length = self.index.context_length
        self.num_ids = self.index.num_ids
        shards = self.index.splits[split].shards
        self._ends = np.cumsum([shard.num_sequences for shard in shards], dtype=np.int64)
        self._shards: _MappedShards | StreamedShards
        if isinstance(place, Path):
            self._shards = _MappedShards(place, shards, self.context_length)
        elif streaming is None:
            raise ConfigError(
                f"{folder} is not on this machine, and there is no cache to stream it through",
                expected="a Streaming with the folder and the size of a cache",
                fix="pass `streaming`, or fetch the corpus and pass its local folder",
            )
        else:
            identity = hashlib.sha256(content).hexdigest()
            self._shards = StreamedShards(place, shards, self.context_length, identity, streaming)

    def __len__(self) -> int:
        """The number of sequences."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_tokens(self) -> int:
        """Tokens in all sequences."""
        return len(self) * self.context_length

    def batch(self, indices: npt.ArrayLike) -> npt.NDArray[np.uint16]:
        """The sequences of these indices, [len(indices), context_length], in the order asked for.

        Raises:
            IndexError: an index is negative or not below `len(self)`.
            ArtifactError, StorageFull: of a corpus that is streamed (see `streaming.StreamedShards.read`).
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(
                f"{self.split} has sequences 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}"
            )
        owners = np.searchsorted(self._ends, wanted, side="right")
        starts = np.concatenate([np.zeros(1, dtype=np.int64), self._ends])[owners]
        return self._shards.read(owners, wanted - starts)

    def evenly_spaced(self, most: int) -> Positions:
        """At most so many sequences, the same ones every time, from the first on in equal strides."""
        count = min(most, len(self))
        return np.arange(count) * len(self) // max(1, count)

    def shuffled_indices(self, seed: int, first: int, num_positions: int) -> Positions:
        """Which sequences are trained on at the positions from `first` on (see `sequence_indices`), [num_positions]."""
        return sequence_indices(
            np.arange(first, first + num_positions, dtype=np.int64), len(self), seed
        )


class _MappedShards:
    """The shards of one split, on this machine."""

    def __init__(self, folder: Path, shards: Sequence[Shard], context_length: int) -> None:
        self._context_length = context_length
        self._maps = [_map(folder / shard.path, shard, context_length) for shard in shards]

    def read(
        self, numbers_N: npt.NDArray[np.int64], rows_N: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint16]:
        """The sequences `rows_N` of the shards `numbers_N`, [N, T]."""
        sequences_NT = np.empty((len(rows_N), self._context_length), dtype=np.uint16)
        for number in np.unique(numbers_N):
            mine = numbers_N == number
            sequences_NT[mine] = self._maps[number][rows_N[mine]]
        return sequences_NT


def _map(path: Path, shard: Shard, context_length: int) -> npt.NDArray[np.uint16]:
    require_size(str(path), path.stat().st_size if path.is_file() else 0, shard, context_length)
    return np.memmap(path, dtype=TOKEN_DTYPE, mode="r", shape=(shard.num_sequences, context_length))


def sequence_indices(positions: npt.ArrayLike, num_sequences: int, seed: int) -> Positions:
    """Which sequence is trained on at each global position (from 0, counting on over epochs).

    Within an epoch, positions `epoch * num_sequences` to `(epoch + 1) * num_sequences - 1`, every sequence comes once.
    """
    if num_sequences < 1:
        raise ValueError("there is no sequence to train on")
    epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), num_sequences)
    indices = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        mine = epochs == epoch
        indices[mine] = _permute(offsets[mine], num_sequences, f"{seed}:{epoch}")
    return indices


def _permute(offsets: Positions, size: int, key: str) -> Positions:
    """A permutation of 0 ... size - 1, by a Feistel network on the next even number of bits.

    Results beyond `size` are sent through again until they are inside ("cycle walking", Black and Rogaway 2002), which keeps
    the mapping one-to-one; the domain is less than four times `size`, so that takes few rounds.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.sha512(f"epoch order:{key}".encode()).digest(), dtype="<u8")[
        :_ROUNDS
    ]
    values = offsets.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64(2**half_bits - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the result hangs on every bit given."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
