"""Parquet, one row group at a time, and of it only the columns that a record needs.

Design decision: strings are read as bytes and decoded row by row, since Arrow does not check UTF-8 and one bad row must not
take its batch with it. Checksums of pages are checked where the writer has written them. What is not covered: a flipped
bit in a page without one may change a text unseen, and a text is decompressed by Arrow as a whole before its size is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.sources.location import FileLocation, damaged_file_error, open_bytes
from components.data.sources.partitions import Partition
from components.data.sources.record_batches import BATCH_BYTES, RawRecord
from components.data.sources.records import RecordMaker

_MAX_ROWS = 1024
"""Rows decoded at a time, at most (assumption: 10 kB documents, which fill a batch)."""
_BUFFER_BYTES = 1 << 20
"""Read ahead of a column chunk, instead of the whole of it."""
_EXPECTED = "a whole Parquet file"


def read(place: FileLocation, partition: Partition, maker: RecordMaker) -> Iterator[RawRecord]:
    """Every row of the partition's row groups; offsets are numbers of rows in the file, from 0.

    Raises:
        ConfigError: there is no column for the text, or for a field that the source names.
        RecordError: the file is damaged, or a row group has fewer rows than it states.
        OSError, pa.ArrowException: what Arrow says of a damaged file.
    """
    with open_bytes(place) as stored:
        try:
            with pq.ParquetFile(
                stored,
                buffer_size=_BUFFER_BYTES,
                page_checksum_verification=True,
                binary_type=pa.large_binary(),
            ) as file:
                yield from _rows(file, partition, maker)
        except UnicodeDecodeError as error:  # Of a name in the schema; values are not decoded here.
            raise damaged_file_error(partition.name, error, _EXPECTED) from error


def _rows(file: pq.ParquetFile, partition: Partition, maker: RecordMaker) -> Iterator[RawRecord]:
    num_rows = [
        file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)
    ]
    if sum(num_rows) != file.metadata.num_rows:
        raise damaged_file_error(
            partition.name,
            f"it states {file.metadata.num_rows} rows, and {sum(num_rows)} in its groups",
            _EXPECTED,
        )
    first, last = partition.first_row_group, partition.last_row_group
    groups = range(len(num_rows)) if first is None or last is None else range(first, last + 1)
    if groups.stop > len(num_rows):
        raise damaged_file_error(partition.name, f"it has {len(num_rows)} row groups", _EXPECTED)
    columns = maker.columns(file.schema_arrow.names, partition.file)
    row = start = sum(num_rows[: groups.start])
    num_here = sum(num_rows[group] for group in groups)
    for group in groups:
        end = row + num_rows[group]
        at_once = _rows_at_once(file.metadata.row_group(group))
        for batch in file.iter_batches(
            at_once, row_groups=[group], columns=columns, use_threads=False
        ):
            for fields in _undecoded(batch).to_pylist():
                row += 1
                # Columns lie side by side, so the position in the file says nothing.
                stored_bytes = partition.size_bytes * (row - start) // num_here
                yield RawRecord(partition.file, row - 1, _size(fields), stored_bytes, fields)
        if row != end:
            raise damaged_file_error(
                partition.name, f"row group {group} ends {end - row} rows early", _EXPECTED
            )


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """As many rows as hold about a batch of text."""
    # Not `group.column(i)`: where a column's metadata is damaged, pyarrow 25.0.1 ends the whole process there (measured).
    return max(
        1, min(_MAX_ROWS, BATCH_BYTES * int(group.num_rows) // max(int(group.total_byte_size), 1))
    )


def _size(fields: dict[str, Any]) -> int:
    return max((len(value) for value in fields.values() if isinstance(value, bytes)), default=0)


def _undecoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with every string as bytes."""
    schema = pa.schema([pa.field(field.name, _binary(field.type)) for field in batch.schema])
    return batch.cast(schema)


def _binary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _binary(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(pa.field(kind.value_field.name, _binary(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _binary(field.type)) for field in kind.fields])
    return kind
