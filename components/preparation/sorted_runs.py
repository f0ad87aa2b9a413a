"""Sorted runs: the sorted files of an external merge sort of tokenized documents.

A run is an Arrow file of documents in training order. The column `order` is the key of this order:
a hash of the content and the seed (see `components.data.filters.documents`). Runs are mapped into
memory: locating a range of keys is a binary search, and reading it touches only that range. Rows
hold no full text: tokens of accepted documents, excerpts of rejected documents.
"""

from __future__ import annotations

from bisect import bisect_left
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
        ("occurrence", pa.int16()),
        ("origin", pa.large_string()),
        ("language", pa.large_string()),
        ("license", pa.large_string()),
        ("source", pa.large_string()),
        ("path", pa.large_string()),
        ("num_bytes", pa.int64()),
        ("excerpt", pa.large_string()),
        ("tokens", pa.large_binary()),
        ("bands", pa.list_(pa.uint64())),
    ]
)
"""`occurrence`: see `DEDUP_SORT_KEYS`. `origin` is the name of the source in statistics.
`num_bytes` is of the raw text. `excerpt` is null for accepted documents, `tokens` (little-endian
uint16, separator last) for rejected documents. `bands`, the MinHash signature, is null unless
near-duplicate detection is enabled."""


class OrderRange(NamedTuple):
    """A range of the training order: keys whose first 64 bits are between `first` and `last`."""

    first: int
    last: int
    """Inclusive."""


def order_ranges(num_ranges: int) -> list[OrderRange]:
    """Divide the training order into equal ranges of keys."""
    bounds = [number * 2**64 // num_ranges for number in range(num_ranges + 1)]
    return [OrderRange(first, stop - 1) for first, stop in pairwise(bounds)]


class SortedRunWriter:
    """Collects rows and writes a run when they reach `run_bytes`; `flush` writes the rest."""

    def __init__(self, folder: Path, run_bytes: int) -> None:
        self._folder = folder
        self._run_bytes = run_bytes
        self._rows: list[pa.RecordBatch] = []
        self._num_bytes = 0
        self.num_runs = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Add rows of `ROW_SCHEMA`, in any order."""
        self._rows.append(rows)
        self._num_bytes += rows.nbytes
        if self._num_bytes >= self._run_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the collected rows as a run; does nothing if there are none."""
        if not self._rows:
            return
        # A single chunk, so a range is a slice of it.
        rows = pa.Table.from_batches(self._rows, schema=ROW_SCHEMA).combine_chunks()
        self._rows = []
        self._num_bytes = 0
        rows = rows.take(pc.sort_indices(rows, sort_keys=DEDUP_SORT_KEYS)).combine_chunks()
        write_arrow(self._folder / f"{self.num_runs:05d}.arrow", rows)
        self.num_runs += 1


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow file into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def read_range(runs: Sequence[Path], order_range: OrderRange) -> pa.Table:
    """The rows of a range from every run, run after run, mapped into memory."""
    slices = [_slice_run(path, order_range) for path in runs]
    return pa.concat_tables([ROW_SCHEMA.empty_table(), *slices])


def _slice_run(path: Path, order_range: OrderRange) -> pa.Table:
    table = read_arrow(path)
    if not table.num_rows:
        return table
    order = table["order"].chunk(0)
    start = _lower_bound(order, order_range.first)
    stop = _lower_bound(order, order_range.last + 1)
    return table.slice(start, stop - start)


def _lower_bound(order: pa.Array, bound: int) -> int:
    """The first row whose key has first 64 bits of at least `bound`; reads few rows."""
    return bisect_left(
        range(len(order)), bound, key=lambda row: int(hash_prefix_u64(order.slice(row, 1))[0])
    )


def write_tokens(tokens: pa.ChunkedArray, rows: npt.NDArray[np.int64], file: BinaryIO) -> int:
    """Write the tokens of some rows back to back, without a copy; returns their number."""
    chunk_starts = np.cumsum([0, *(len(chunk) for chunk in tokens.chunks)])
    buffers = [_offsets_and_data(chunk) for chunk in tokens.chunks]
    chunk_numbers = np.searchsorted(chunk_starts, rows, side="right") - 1
    num_bytes = 0
    for row, chunk_number in zip(rows.tolist(), chunk_numbers.tolist(), strict=True):
        offsets, data = buffers[chunk_number]
        index = row - chunk_starts[chunk_number]
        num_bytes += file.write(data[offsets[index] : offsets[index + 1]])
    return num_bytes // TOKEN_DTYPE.itemsize


def _offsets_and_data(tokens: pa.LargeBinaryArray) -> tuple[npt.NDArray[np.int64], memoryview]:
    _, offsets, data = tokens.buffers()
    return np.frombuffer(offsets, dtype=np.int64)[tokens.offset :], memoryview(data or b"")
