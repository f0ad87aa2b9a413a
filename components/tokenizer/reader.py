"""Read packed shards, and say which sequences belong to which training step.

The order is a pure function: global position -> sequence, by a permutation that the seed and the epoch determine. So the
batch of a step is the same whatever the number of ranks that share it, and resuming needs no state but the step's number.
The permutation is computed for the positions asked for (a Feistel network), never stored: an epoch of the paper's corpora
has 10^8 sequences and more. Who reads which position is training's affair.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.core.errors import ArtifactError
from components.core.files import read_json
from components.tokenizer.shards import INDEX_JSON, TOKEN, TRAIN, Index

Positions = npt.NDArray[np.int64]

_ROUNDS = 6
"""Of the Feistel network. Four suffice in theory (Luby and Rackoff 1988); two more for small halves (assumption)."""


class PackedSplit:
    """The sequences of one split, mapped into memory."""

    def __init__(self, folder: Path, split: str = TRAIN) -> None:
        """Open a split of a prepared corpus.

        Raises:
            ArtifactError: there is no such split, or a shard has another size than the index says.
        """
        self.index = Index.parse(read_json(folder / INDEX_JSON))
        if split not in self.index.splits:
            raise ArtifactError(
                f"{folder} has no split {split!r}",
                expected=f"one of {', '.join(self.index.splits)}",
                do="name one of them, or prepare the corpus with that language",
            )
        self.split = split
        self.context_length = self.index.context_length
        self.num_ids = self.index.num_ids
        shards = self.index.splits[split].shards
        self._shards = [_map(folder / shard.path, shard.num_sequences, self.context_length) for shard in shards]
        self._ends = np.cumsum([shard.num_sequences for shard in shards], dtype=np.int64)

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
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"{self.split} has sequences 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
        sequences = np.empty((len(wanted), self.context_length), dtype=np.uint16)
        owner = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(owner):
            mine = owner == number
            start = self._ends[number] - len(self._shards[number])
            sequences[mine] = self._shards[number][wanted[mine] - start]
        return sequences

    def order(self, seed: int, first: int, num_positions: int) -> Positions:
        """Which sequences are trained on at the positions from `first` on (see `sequence_indices`), [num_positions]."""
        return sequence_indices(np.arange(first, first + num_positions, dtype=np.int64), len(self), seed)


def _map(path: Path, num_sequences: int, context_length: int) -> npt.NDArray[np.uint16]:
    size_bytes = num_sequences * context_length * TOKEN.itemsize
    found = path.stat().st_size if path.is_file() else 0
    if found != size_bytes:
        raise ArtifactError(
            f"{path} has {found:,} bytes",
            expected=f"{size_bytes:,}: {num_sequences:,} sequences of {context_length:,} tokens",
            do="remove the artifact's folder and run the same command again: it is rebuilt",
        )
    return np.memmap(path, dtype=TOKEN, mode="r", shape=(num_sequences, context_length))


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
    keys = np.frombuffer(hashlib.sha512(f"epoch order:{key}".encode()).digest(), dtype="<u8")[:_ROUNDS]
    values = offsets.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: npt.NDArray[np.uint64], half_bits: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
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
