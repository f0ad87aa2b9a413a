"""Parquet files, read by row group, with only the columns of a record.

Strings are read as bytes and decoded by row, because Arrow does not check UTF-8 and a bad row must
not reject its batch. Page checksums are verified if the writer has written them. Limits: without a
checksum, a flipped bit may change a text unnoticed, and Arrow decompresses a text before its size
is known.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.sources.location import FileLocation, damaged_file_error, open_bytes
from components.data.sources.partitions import Partition
from components.data.sources.records import RawRecord, RecordParser, longest_value

_MAX_ROWS = 1024
"""Rows decoded at a time (assumption: documents of 10 kB, which then fill a batch)."""
_DECODED_BYTES = 8 << 20
"""Bytes decoded at a time, about: a batch of text (assumption)."""
_BUFFER_BYTES = 1 << 20
"""Read-ahead of a column chunk; without it, pyarrow reads the whole chunk."""
_EXPECTED = "a complete Parquet file"


def read(location: FileLocation, partition: Partition, parser: RecordParser) -> Iterator[RawRecord]:
    """All rows of the partition's row groups; offsets are row numbers in the file, from 0.

    Raises:
        ConfigError: the file has no text column, or lacks a field that the source names.
        RecordError: the file is damaged, or a row group has fewer rows than stated.
        OSError, pa.ArrowException: Arrow found damage.
    """
    with open_bytes(location) as stored:
        try:
            with pq.ParquetFile(
                stored,
                buffer_size=_BUFFER_BYTES,
                page_checksum_verification=True,
                binary_type=pa.large_binary(),
            ) as file:
                yield from _read_rows(file, partition, parser)
        except UnicodeDecodeError as error:  # In a name of the schema; values are not decoded here.
            raise damaged_file_error(partition.name, error, _EXPECTED) from error


def _read_rows(
    file: pq.ParquetFile, partition: Partition, parser: RecordParser
) -> Iterator[RawRecord]:
    metadata = file.metadata
    num_rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if sum(num_rows) != metadata.num_rows:
        cause = f"it states {metadata.num_rows} rows, its row groups have {sum(num_rows)}"
        raise damaged_file_error(partition.name, cause, _EXPECTED)
    first, last = partition.first_row_group, partition.last_row_group
    groups = range(len(num_rows)) if first is None or last is None else range(first, last + 1)
    if groups.stop > len(num_rows):
        raise damaged_file_error(partition.name, f"it has {len(num_rows)} row groups", _EXPECTED)
    columns = parser.select_columns(file.schema_arrow.names, partition.file)
    row = first_row = sum(num_rows[: groups.start])
    num_selected = sum(num_rows[group] for group in groups)
    for group in groups:
        end = row + num_rows[group]
        batches = file.iter_batches(
            _rows_of_batch(metadata.row_group(group)),
            row_groups=[group],
            columns=columns,
            use_threads=False,
        )
        for batch in batches:
            for fields in _undecoded(batch).to_pylist():
                row += 1
                # Columns are stored one after another, so a row has no position in the file.
                stored_bytes = partition.size_bytes * (row - first_row) // num_selected
                size_bytes = longest_value(fields)
                yield RawRecord(partition.file, row - 1, size_bytes, stored_bytes, fields)
        if row != end:
            cause = f"row group {group} ends {end - row} rows early"
            raise damaged_file_error(partition.name, cause, _EXPECTED)


def _rows_of_batch(group: pq.RowGroupMetaData) -> int:
    """Number of rows with about `_DECODED_BYTES` of text."""
    # Not `group.column(i)`: with damaged metadata, pyarrow 25.0.1 aborts the process (measured).
    group_bytes = max(int(group.total_byte_size), 1)
    return max(1, min(_MAX_ROWS, _DECODED_BYTES * int(group.num_rows) // group_bytes))


def _undecoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with bytes in place of strings."""
    fields = [pa.field(field.name, _binary_type(field.type)) for field in batch.schema]
    return batch.cast(pa.schema(fields))


def _binary_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _binary_type(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.large_binary()
    if types.is_map(kind):
        return pa.map_(_binary_type(kind.key_type), _binary_type(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.large_list(pa.field(kind.value_field.name, _binary_type(kind.value_type)))
    if types.is_struct(kind):
        fields = [pa.field(field.name, _binary_type(field.type)) for field in kind.fields]
        return pa.struct(fields)
    return kind
