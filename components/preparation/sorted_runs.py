"""Runs: judged and tokenised documents, sorted by their place in the training order, so that a range of it can be cut out.

A run is an Arrow file that is mapped into memory: finding a range is a binary search, and reading it touches that range
alone. The rows hold no text, only what the rounds to come need: an excerpt of what was rejected, the tokens of what was
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.data.filters.documents import DEDUP_SORT_KEYS, DOCUMENT_SCHEMA, hash_prefix_u64
from components.dataset.shards import TOKEN_DTYPE

ROW_SCHEMA = pa.schema(
    [
        *DOCUMENT_SCHEMA,
        ("language", pa.large_string()),
        ("source", pa.large_string()),
        ("path", pa.large_string()),
        ("num_bytes", pa.int64()),
        ("excerpt", pa.large_string()),
        ("tokens", pa.large_binary()),
        ("bands", pa.list_(pa.uint64())),
    ]
)
"""`num_bytes` is of the raw text. `excerpt` is null for what is kept, `tokens` (little-endian uint16, the separator last)
for what is not; `bands`, the signature, is null unless near-duplicates are sought."""


class HashRange(NamedTuple):
    """A part of the training order: places whose first 64 bits are at least `first` and at most `last`."""

    first: int
    last: int


def ranges(num_ranges: int) -> list[HashRange]:
    """The whole order, cut into equal parts."""
    bounds = [number * 2**64 // num_ranges for number in range(num_ranges + 1)]
    return [HashRange(first, stop - 1) for first, stop in pairwise(bounds)]


class RunWriter:
    """Gathers rows, and writes a sorted run whenever they are enough. `close` writes the rest."""

    def __init__(self, folder: Path, run_bytes: int) -> None:
        self._folder, self._run_bytes = folder, run_bytes
        self._rows: list[pa.RecordBatch] = []
        self._num_bytes = self.num_runs = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows of `ROW`, in any order."""
        self._rows.append(rows)
        self._num_bytes += rows.nbytes
        if self._num_bytes >= self._run_bytes:
            self.close()

    def close(self) -> None:
        """Write what is held as a run."""
        if not self._rows:
            return
        # One chunk: a range is then one slice of it.
        rows = pa.Table.from_batches(self._rows, schema=ROW_SCHEMA).combine_chunks()
        self._rows, self._num_bytes = [], 0
        rows = rows.take(pc.sort_indices(rows, sort_keys=DEDUP_SORT_KEYS)).combine_chunks()
        write_arrow(self._folder / f"{self.num_runs:05d}.arrow", rows)
        self.num_runs += 1


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file, which can be mapped into memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_range(runs: Sequence[Path], part: HashRange) -> pa.Table:
    """The rows of a range out of every run, run after run. They lie in memory mappings as long as they are held."""
    return pa.concat_tables([ROW_SCHEMA.empty_table(), *(_cut(path, part) for path in runs)])


def _cut(path: Path, part: HashRange) -> pa.Table:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if not table.num_rows:
        return table
    order = table["order"].chunk(0)
    start = _first_at_least(order, part.first)
    stop = _first_at_least(order, part.last + 1)
    return table.slice(start, stop - start)


def _first_at_least(order: pa.Array, bound: int) -> int:
    """The first row whose place is not below a bound; looked for without reading the whole column."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if int(hash_prefix_u64(order.slice(middle, 1))[0]) < bound:
            low = middle + 1
        else:
            high = middle
    return low


def write_tokens(tokens: pa.ChunkedArray, rows: npt.NDArray[np.int64], file: BinaryIO) -> int:
    """Write the tokens of some rows back to back, straight from where they lie; returns how many there are."""
    firsts = np.cumsum([0, *(len(chunk) for chunk in tokens.chunks)])
    data = [_offsets_and_data(chunk) for chunk in tokens.chunks]
    num_bytes = 0
    for row, at in zip(
        rows.tolist(), (np.searchsorted(firsts, rows, side="right") - 1).tolist(), strict=True
    ):
        offsets, values = data[at]
        start, end = offsets[row - firsts[at] : row - firsts[at] + 2]
        num_bytes += file.write(values[start:end])
    return num_bytes // TOKEN_DTYPE.itemsize


def _offsets_and_data(tokens: pa.LargeBinaryArray) -> tuple[npt.NDArray[np.int64], memoryview]:
    _, offsets, data = tokens.buffers()
    return np.frombuffer(offsets, dtype=np.int64)[tokens.offset :], memoryview(data or b"")
