"""Reads a partition as Arrow batches of bounded size, each with a list of its quarantined records.

A record that cannot be read does not stop a run: it is returned with its position and reason, and
the checks of `quarantine` bound their number. A damaged, truncated or changed file is an error,
because the number of lost records is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from components.core.errors import FetchError, RecordError
from components.core.extras import require_extra
from components.data.sources import archive, code_files, jsonl, parquet
from components.data.sources.config import EXTENSIONS, QuarantineConfig
from components.data.sources.location import (
    FileLocation,
    open_bytes,
    resolve_uri,
    wrap_file_errors,
)
from components.data.sources.partitions import Partition
from components.data.sources.quarantine import QuarantinedRecord
from components.data.sources.records import (
    MAX_POINTER_BYTES,
    SCHEMA,
    RawRecord,
    RecordParser,
    Reject,
    is_lfs_pointer,
)

BATCH_BYTES = 8 << 20
"""A batch ends with the record that reaches this size, in uncompressed bytes (assumption: large
enough to hide the cost of a batch)."""
_NUM_CHECKED_RECORDS = 100
"""First records of a JSON Lines file in which the fields of its source are searched (assumption:
each field is in one of them)."""
_MAX_QUARANTINED = 1000
"""A batch also ends after this many quarantined records, which bounds the memory for a file without
good records (assumption)."""
_EXCERPT_CHARACTERS = 200


class Batch(NamedTuple):
    """Consecutive records of a partition."""

    records: pa.RecordBatch
    """With `records.SCHEMA`; may be empty. The record that reaches `BATCH_BYTES` is the last."""
    quarantined: list[QuarantinedRecord]
    num_skipped: dict[str, int]
    """Number of skipped records by reason of `SKIP_REASONS`."""
    stored_bytes: int
    """Stored bytes of the partition up to the end of this batch. Equal to the partition's size for
    the last batch of a complete partition."""


def read_partition(
    partition: Partition,
    languages: Sequence[str],
    extensions: Mapping[str, str] = EXTENSIONS,
    quarantine: QuarantineConfig | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Batch]:
    """Stream the records of a partition.

    Args:
        partition: from `list_partitions`.
        languages: languages of the corpus. Records of other languages are skipped and counted.
        extensions: languages by file extension, for records that do not state a language.
        quarantine: limit of a record's length; None: the default. The caller checks the number of
            quarantined records over all partitions with `check_quarantine_limit`.
        storage_options: options of a remote file system.

    Raises:
        ConfigError: the source names a field that the file lacks, or a language of another corpus.
        FetchError: a file does not exist or cannot be read, or its store fails.
        RecordError: a file is damaged or truncated, or has changed since it was listed.
    """
    max_record_bytes = (quarantine or QuarantineConfig()).max_record_bytes
    parser = RecordParser(partition.source, languages, extensions, max_record_bytes)
    builder = _BatchBuilder(parser)
    with wrap_file_errors(partition.name):
        location = resolve_uri(partition.uri, storage_options)
        _require_unchanged(partition, location)
        _require_no_pointer(partition, location)
        num_bytes = 0
        for record in _raw_records(partition, location, parser, max_record_bytes):
            is_end = partition.max_bytes is not None and num_bytes >= partition.max_bytes
            if is_end or builder.is_full:
                yield builder.flush()
            if is_end:
                return
            builder.add(record)
            num_bytes += record.size_bytes
    if not builder.is_empty:
        yield builder.flush()._replace(stored_bytes=partition.size_bytes)


def _raw_records(
    partition: Partition, location: FileLocation, parser: RecordParser, max_record_bytes: int
) -> Iterator[RawRecord]:
    match partition.format:
        case "jsonl":
            records = jsonl.read(location, partition.file, max_record_bytes)
            return _check_first_objects(records, partition.file, parser)
        case "parquet":
            return parquet.read(location, partition, parser)
        case "avro":
            require_extra("avro", f"{partition.file}, an Avro file,")
            from components.data.sources import avro

            return avro.read(location, partition.file, parser)
        case "archive":
            return archive.read(location, partition.file, parser, max_record_bytes)
        case "files":
            return code_files.read(location, partition.file, parser, max_record_bytes)


def _check_first_objects(
    records: Iterator[RawRecord], file: str, parser: RecordParser
) -> Iterator[RawRecord]:
    """Yield all records of a JSON Lines file, after a check of the fields of its first objects."""
    first: list[RawRecord] = []
    num_bytes = 0
    for record in records:
        first.append(record)
        num_bytes += record.size_bytes
        if len(first) == _NUM_CHECKED_RECORDS or num_bytes >= BATCH_BYTES:
            break
    objects = [record.value for record in first if not isinstance(record.value, Reject)]
    if objects:
        parser.require_fields(objects, file)
    yield from first
    yield from records


def _require_unchanged(partition: Partition, location: FileLocation) -> None:
    """Compare the size with the listing, because some formats do not reveal a missing end."""
    if partition.format == "files":
        size_bytes = sum(file.entry.size_bytes for file in code_files.list_files(location)[1])
    else:
        size_bytes = location.fs.size(location.path)
    listed = partition.size_bytes if partition.file_bytes is None else partition.file_bytes
    if size_bytes != listed:
        raise RecordError(
            f"{partition.name} has {size_bytes:,} bytes",
            expected=f"{listed:,} bytes, as when it was listed",
            fix="do not change a source while it is read, and run the same command again",
        )


def _require_no_pointer(partition: Partition, location: FileLocation) -> None:
    """Check that a data file is not a pointer of Git LFS; code files are checked one by one."""
    if partition.format == "files" or partition.size_bytes > MAX_POINTER_BYTES:
        return
    with open_bytes(location) as file:
        if is_lfs_pointer(file.read(MAX_POINTER_BYTES)):
            raise FetchError(
                f"{partition.name} is a pointer of Git LFS, not the file itself",
                expected="the data file",
                fix="run `git lfs pull` in its checkout, then run the same command again",
            )


class _BatchBuilder:
    """Collects raw records into batches."""

    def __init__(self, parser: RecordParser) -> None:
        self._parser = parser
        self._clear()

    def _clear(self) -> None:
        self._columns: tuple[list[str], ...] = tuple([] for _ in SCHEMA.names)
        self._quarantined: list[QuarantinedRecord] = []
        self._num_skipped: Counter[str] = Counter()
        self._num_bytes = 0
        self._stored_bytes = 0

    @property
    def is_full(self) -> bool:
        return self._num_bytes >= BATCH_BYTES or len(self._quarantined) >= _MAX_QUARANTINED

    @property
    def is_empty(self) -> bool:
        return not (self._columns[0] or self._quarantined or self._num_skipped)

    def add(self, raw: RawRecord) -> None:
        """Add a good, quarantined or skipped record."""
        self._stored_bytes = raw.stored_bytes
        record = raw.value if isinstance(raw.value, Reject) else self._parser.parse(raw.value)
        if not isinstance(record, Reject):
            for column, value in zip(self._columns, record, strict=True):
                column.append(value)
            self._num_bytes += raw.size_bytes
        elif record.is_quarantined:
            excerpt = _excerpt(raw.head_bytes or _head_of(raw.value))
            quarantined = QuarantinedRecord(raw.file, raw.offset, record.reason, excerpt)
            self._quarantined.append(quarantined)
        else:
            self._num_skipped[record.reason] += 1

    def flush(self) -> Batch:
        """The batch of all added records; the builder is empty afterwards."""
        arrays = [pa.array(column, type=pa.large_string()) for column in self._columns]
        records = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
        batch = Batch(records, self._quarantined, dict(self._num_skipped), self._stored_bytes)
        self._clear()
        return batch


def _head_of(value: Mapping[str, Any] | Reject) -> bytes:
    """The start of each field of a row."""
    if isinstance(value, Reject):
        return b""
    fields = ", ".join(f"{name}={_head_of_field(field)}" for name, field in value.items())
    return fields.encode("utf-8", "backslashreplace")


def _head_of_field(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:_EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return value[:_EXCERPT_CHARACTERS] if isinstance(value, str) else repr(value)


def _excerpt(head: bytes) -> str:
    text = head[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    printable = [
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:_EXCERPT_CHARACTERS]
    ]
    return "".join(printable)[:_EXCERPT_CHARACTERS]
