"""Read one partition: records in the order of its file, in batches of bounded size, and what was bad beside them.

Design decision: a bad record is data, a bad file is an error. What one record holds never ends a run here, it is handed on
with its place and reason (`quarantine` bounds how many); but a file that is damaged, truncated or changed since it was
listed raises, since nobody knows how many records it lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.core.errors import RecordError
from components.data.sources import archive, avro, code_files, jsonl, parquet
from components.data.sources.config import EXTENSIONS, QuarantineConfig
from components.data.sources.corpus_files import SCHEMA
from components.data.sources.location import FileLocation, resolve_uri, wrap_read_errors
from components.data.sources.partitions import Partition
from components.data.sources.record_batches import Batch, BatchBuilder, QuarantinedRecord, RawRecord
from components.data.sources.records import RecordMaker

__all__ = ["SCHEMA", "Batch", "QuarantinedRecord", "read_partition"]


def read_partition(
    partition: Partition,
    languages: Sequence[str],
    extensions: Mapping[str, str] = EXTENSIONS,
    quarantine: QuarantineConfig | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Batch]:
    """The records of a partition, streamed.

    Args:
        partition: from `list_partitions`.
        languages: of the corpus. A record of another language, or of none, is left out and counted.
        extensions: the language of an extension, for records that do not state theirs.
        quarantine: how long a record may be; None is the default. How many may be bad is for the caller to check, over
            all partitions, with `quarantine.require_tolerable`.
        storage_options: for the file system of a remote partition.

    Raises:
        ConfigError: the source names a field that its tables do not have, or a language that is not of the corpus.
        FetchError: a file is not there, not allowed, or its store does not answer.
        RecordError: a file is damaged, truncated, or not the one that was listed.
    """
    limit = (quarantine or QuarantineConfig()).max_record_bytes
    maker = RecordMaker(partition.source, languages, extensions, limit)
    collector = BatchBuilder(maker)
    with wrap_read_errors(partition.name):
        place = resolve_uri(partition.uri, storage_options)
        _require_unchanged(partition, place)
        num_bytes = 0
        for item in _items(partition, place, maker, limit):
            is_over = partition.max_bytes is not None and num_bytes >= partition.max_bytes
            if is_over or collector.is_full:
                yield collector.flush()
            if is_over:
                return
            collector.add(item)
            num_bytes += item.size_bytes
    if not collector.is_empty:
        yield collector.flush()._replace(stored_bytes=partition.size_bytes)


def _items(
    partition: Partition, place: FileLocation, maker: RecordMaker, limit: int
) -> Iterator[RawRecord]:
    match partition.format:
        case "jsonl":
            return jsonl.read(place, partition.file, limit)
        case "parquet":
            return parquet.read(place, partition, maker)
        case "avro":
            return avro.read(place, partition.file, maker)
        case "archive":
            return archive.read(place, partition.file, maker, limit)
        case "files":
            return code_files.read(place, partition.file, maker, limit)


def _require_unchanged(partition: Partition, place: FileLocation) -> None:
    """Compare the size with that of the listing: some formats do not show that their end was cut off."""
    if partition.format == "files":
        found = sum(entry.size_bytes for entry in code_files.entries(place)[1])
    else:
        found = place.fs.size(place.path)
    listed = partition.file_bytes if partition.file_bytes is not None else partition.size_bytes
    if found != listed:
        raise RecordError(
            f"{partition.name} has {found:,} bytes",
            expected=f"{listed:,} bytes, as when it was listed",
            fix="let nothing write to a source while it is read, then run the same command again",
        )
