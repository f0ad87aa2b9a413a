"""Shards round-trip, the order visits each sequence once per epoch, and damage is detected."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from fixtures.shards import write_index, write_split
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ArtifactError
from components.dataset.reader import PackedSplit, sequence_indices
from components.dataset.shards import Split, held_out_split


def write_corpus(
    folder: Path, documents: list[np.ndarray], context_length: int, shard_tokens: int
) -> tuple[Split, int]:
    """Write a corpus with one split. Returns it and the number of dropped tokens."""
    split, num_dropped = write_split(folder, "train", context_length, documents, shard_tokens)
    write_index(folder, {"train": split}, context_length=context_length)
    return split, num_dropped


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 300), max_size=20),
    context_length=st.integers(1, 64),
    shard_tokens=st.integers(1, 500),
    seed=st.integers(0, 2**32),
)
def test_the_stream_round_trips_in_full_sequences(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    context_length: int,
    shard_tokens: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(seed)
    documents = [random.integers(0, 2**16, size=length, dtype=np.uint16) for length in lengths]
    stream = np.concatenate([np.zeros(0, dtype=np.uint16), *documents])
    written, num_dropped = write_corpus(folder, documents, context_length, shard_tokens)
    split = PackedSplit(folder)
    num_sequences = len(stream) // context_length
    num_tokens = num_sequences * context_length
    assert len(split) == written.num_sequences == num_sequences
    assert num_dropped == len(stream) - num_tokens
    assert split.num_tokens == num_tokens
    assert np.array_equal(split.batch(np.arange(num_sequences)).ravel(), stream[:num_tokens])
    for shard in written.shards:
        assert shard.sha256 == hashlib.sha256((folder / shard.path).read_bytes()).hexdigest()
    assert all(
        1 <= shard.num_sequences <= max(1, shard_tokens // context_length)
        for shard in written.shards
    )
    assert sorted(path.name for path in folder.glob("train/*")) == [
        f"{i:05d}.bin" for i in range(len(written.shards))
    ]


def test_a_shard_is_little_endian_without_a_header(tmp_path: Path) -> None:
    split, num_dropped = write_corpus(
        tmp_path, [np.array([1, 258, 65_535, 4, 5], dtype=np.uint16)], 2, 4
    )
    assert (tmp_path / "train" / "00000.bin").read_bytes() == bytes([1, 0, 2, 1, 255, 255, 4, 0])
    assert (split.num_sequences, num_dropped) == (2, 1)


def test_a_batch_is_in_the_requested_order(tmp_path: Path) -> None:
    # Four shards of up to three sequences.
    write_corpus(tmp_path, [np.arange(40, dtype=np.uint16)], 4, 12)
    split = PackedSplit(tmp_path)
    assert split.batch([9, 0, 3, 3]).tolist() == [
        [36, 37, 38, 39],
        [0, 1, 2, 3],
        [12, 13, 14, 15],
        [12, 13, 14, 15],
    ]
    assert split.batch([]).shape == (0, 4)
    assert (split.context_length, split.num_ids) == (4, 65_536)
    for index in (10, -1):
        with pytest.raises(IndexError, match="sequences 0 to 9"):
            split.batch([index])


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_corpus(tmp_path, [np.arange(40, dtype=np.uint16)], 4, 12)
    with pytest.raises(ArtifactError, match="has no split 'held-out/C'"):
        PackedSplit(tmp_path, held_out_split("C"))


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    write_corpus(tmp_path, [np.arange(40, dtype=np.uint16)], 4, 12)
    shard = tmp_path / "train" / "00001.bin"
    content = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(content[:-2] if damage == "short" else content + b"\0\0")
    with pytest.raises(ArtifactError, match=r"00001\.bin has [\d,]+ bytes") as error:
        PackedSplit(tmp_path)
    assert error.value.expected == "24: 3 sequences of 4 tokens"


# -- order of training -------------------------------------------------------------------------

SEEDS = st.integers(0, 2**63)


@given(num_sequences=st.integers(1, 400), epoch=st.integers(0, 10**6), seed=SEEDS)
def test_every_sequence_occurs_once_per_epoch(num_sequences: int, epoch: int, seed: int) -> None:
    positions = np.arange(epoch * num_sequences, (epoch + 1) * num_sequences)
    assert sorted(sequence_indices(positions, num_sequences, seed)) == list(range(num_sequences))


@given(num_sequences=st.integers(1, 2**40), first=st.integers(0, 2**50), seed=SEEDS)
def test_the_order_depends_on_the_position_only(num_sequences: int, first: int, seed: int) -> None:
    """Whatever positions are requested together, in corpora of any size."""
    positions = np.arange(first, first + 20)
    together = sequence_indices(positions, num_sequences, seed)
    assert [
        int(sequence_indices([position], num_sequences, seed)[0]) for position in positions
    ] == together.tolist()
    assert ((together >= 0) & (together < num_sequences)).all()


@given(batch=st.integers(1, 8), num_ranks=st.integers(1, 4), step=st.integers(0, 50))
def test_the_batch_does_not_depend_on_the_number_of_ranks(
    batch: int, num_ranks: int, step: int
) -> None:
    """Rank r of w takes rows r::w; together they read the batch of a single rank."""
    num_positions = batch * num_ranks
    full_batch = sequence_indices(
        np.arange(step * num_positions, (step + 1) * num_positions), 37, seed=5
    )
    shares = [
        sequence_indices(
            np.arange(step * num_positions + rank, (step + 1) * num_positions, num_ranks),
            37,
            seed=5,
        )
        for rank in range(num_ranks)
    ]
    assert np.array_equal(np.stack(shares, axis=1).ravel(), full_batch)


def test_epochs_and_seeds_have_different_orders() -> None:
    positions = np.arange(1000)
    orders = [
        sequence_indices(positions + epoch * 1000, 1000, seed)
        for epoch in (0, 1, 2)
        for seed in (0, 1)
    ]
    for number, order in enumerate(orders):
        neighbours = np.abs(np.diff(order)) == 1
        assert neighbours.sum() < 15, "a random order has 2 on average"
        assert all((order == earlier).sum() < 15 for earlier in orders[:number]), (
            "two random orders agree in 1 position on average"
        )


def test_the_order_never_changes(tmp_path: Path) -> None:
    """Golden (2026-11-23, numpy 2): another order would train another model for the same recipe."""
    write_corpus(tmp_path, [np.arange(40, dtype=np.uint16)], 4, 12)
    indices = PackedSplit(tmp_path).shuffled_indices(seed=0, first=5, num_positions=10)
    assert " ".join(map(str, indices)) == "7 9 6 8 4 6 7 4 5 1"


def test_an_order_without_sequences_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sequence"):
        sequence_indices([0], 0, seed=0)
