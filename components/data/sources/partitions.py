"""Partitions, the units of work of a corpus: a file, a folder, or row groups of a large Parquet
file.

All files are listed, sorted, with their sizes before any is read, so the work is equal on every
machine and a file that changes meanwhile is noticed. Limit: JSON Lines files are not split, because
a compressed file can only be read from its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from components.core.config import Config
from components.core.errors import ConfigError, DataError
from components.core.extras import require_extra
from components.core.text import printable_name
from components.data.sources import code_files
from components.data.sources.config import Format, Source
from components.data.sources.listing import Entry, find_entry, match_glob, walk_files
from components.data.sources.location import (
    base_folder,
    compression_of,
    damaged_file_error,
    format_endings,
    format_of,
    is_glob,
    join_path,
    open_bytes,
    resolve_uri,
    wrap_file_errors,
)

SPLIT_BYTES = 256 << 20
"""Stored bytes of a Parquet partition (assumption: some seconds of work)."""
COMPRESSION_RATIO = 4
"""Bytes of text for each compressed byte (source code at zstd level 3, measured; lower for
prose)."""

_MAX_QUOTED = 5
"""Paths listed in an error; further paths are counted."""


class Partition(Config):
    """A unit of work, plain JSON."""

    source: Source
    format: Format
    """The format of `source`, with "auto" resolved."""
    file: str
    """The file or folder as in the recipe, a folder with a final `/`: equal on every machine."""
    uri: str
    """Absolute path or URI on this machine; the glob itself for a glob of the format "files"."""
    size_bytes: int
    """Stored bytes at the time of listing: of a file, of all files of a folder, or the share of row
    groups in their file."""
    first_row_group: int | None = None
    """First row group in a split Parquet file; None: the whole file."""
    last_row_group: int | None = None
    """Last row group, inclusive."""
    file_bytes: int | None = None
    """Stored bytes of the whole file, if it is split."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Read only the first records with this many uncompressed bytes in the file; None: all."""

    @property
    def name(self) -> str:
        """Label for messages: unique in a corpus and equal on every machine."""
        if self.first_row_group is None:
            return self.file
        return f"{self.file}[{self.first_row_group}:{self.last_row_group}]"

    @property
    def text_bytes(self) -> int:
        """Estimated bytes of text."""
        has_compression = compression_of(self.file) is not None
        is_compressed = has_compression or self.format in ("parquet", "archive")
        return self.size_bytes * (COMPRESSION_RATIO if is_compressed else 1)


def list_partitions(
    sources: Sequence[Source],
    *,
    storage_options: Mapping[str, Any] | None = None,
    split_bytes: int = SPLIT_BYTES,
) -> list[Partition]:
    """The partitions of all sources, sorted by file and row group.

    Args:
        sources: what to read.
        storage_options: options of remote file systems (endpoint, key, ...).
        split_bytes: stored bytes above which a Parquet file is split.

    Raises:
        ConfigError: a source contradicts its files, two sources have the same file, or the extra of
            a format is not installed.
        DataError: a source has no file, or a Parquet file to split is damaged.
        FetchError: a file system fails.
    """
    partitions: list[Partition] = []
    for source in sources:
        num_before = len(partitions)
        with wrap_file_errors(source.uri):
            for partition in _list_source(source, storage_options):
                partitions.extend(_split(partition, storage_options, split_bytes))
        if len(partitions) == num_before:
            endings = " or *".join(format_endings(source.format))
            raise DataError(
                f"{source.uri} holds no file",
                expected=f"at least one file{f' named *{endings}' if endings else ''}",
                fix="check the path; a glob matches folders only if it ends with a slash",
            )
    partitions.sort(key=lambda partition: (partition.file, partition.first_row_group or 0))
    _require_distinct(partitions)
    return partitions


def _require_distinct(partitions: list[Partition]) -> None:
    seen: dict[tuple[str, int | None], Partition] = {}
    for partition in partitions:
        key = (partition.uri, partition.first_row_group)
        if key in seen:
            raise ConfigError(
                f"{partition.file} is in the sources {seen[key].source.uri} and "
                f"{partition.source.uri}",
                expected="each file in a single source",
                fix="remove the file from one of the sources",
            )
        seen[key] = partition


class _Match(NamedTuple):
    """A file or folder that the URI of a source matches."""

    entry: Entry
    label: str
    """As in the recipe, as valid UTF-8."""


def _match_uri(source: Source, storage_options: Mapping[str, Any] | None) -> list[_Match]:
    """The file or folder at the URI of a source, or the matches of its glob.

    A glob matches folders only with a final slash; a folder with the name of a data file is kept,
    so that it is not ignored silently.
    """
    location = resolve_uri(source.uri, storage_options)
    entry = find_entry(location)
    if entry is not None:
        return [_Match(entry, source.uri.rstrip("/") or "/")]
    if not is_glob(source.uri):
        return []
    slash = "/" if source.uri.endswith("/") else ""
    folder = base_folder(source.uri)
    root = resolve_uri(folder or ".", storage_options).path
    matches = []
    for entry in match_glob(location._replace(path=location.path.rstrip("/") + slash)):
        path = entry.location.path.removeprefix(root).strip("/")
        if entry.kind != "folder" or slash or format_of(path):
            matches.append(_Match(entry, printable_name(join_path(folder, path))))
    return matches


def _list_source(source: Source, storage_options: Mapping[str, Any] | None) -> Iterator[Partition]:
    matches = _match_uri(source, storage_options)
    is_file_glob = bool(matches) and matches[0].label != source.uri and source.uri[-1] != "/"
    if source.format == "files" and is_file_glob:
        location = resolve_uri(source.uri, storage_options)
        yield _code_partition(source, _Match(Entry(location, "file"), source.uri))
        return
    data_files: list[_Match] = []
    for match in matches:
        is_folder = match.entry.kind == "folder" and not is_file_glob
        if source.format == "files" or (source.format == "auto" and is_folder):
            yield _code_partition(source, match)
        elif is_folder:
            endings = format_endings(source.format)
            for entry in walk_files(match.entry.location):
                path = entry.location.path.removeprefix(match.entry.location.path).lstrip("/")
                if path.lower().endswith(endings):
                    label = printable_name(join_path(match.label, path))
                    data_files.append(_Match(entry, label))
        else:
            data_files.append(match)
    _require_files(source, data_files)
    for match in data_files:
        if match.entry.kind == "file":
            yield _file_partition(source, match)


def _require_files(source: Source, matches: Sequence[_Match]) -> None:
    """Check that each data file can be read, or is a link to a file that is read anyway."""
    invalid = [match for match in matches if match.entry.kind not in ("file", "repeated link")]
    if not invalid:
        return
    quoted = ", ".join(f"{match.label} ({match.entry.kind})" for match in invalid[:_MAX_QUOTED])
    num_more = len(invalid) - _MAX_QUOTED
    more = f" and {num_more} more" if num_more > 0 else ""
    raise DataError(
        f"{source.uri} matches {len(invalid)} paths that are no files: {quoted}{more}",
        expected="files, or links to files",
        fix="restore the target of the links (`dvc checkout`, or download again), or remove those "
        "paths, or narrow the glob",
    )


def _file_partition(source: Source, match: _Match) -> Partition:
    format_by_name = format_of(match.label)
    if source.format == "archive" and format_by_name != "archive":
        raise ConfigError(
            f"{match.label} is to be read as an archive",
            expected=f"a name that ends with {', '.join(format_endings('archive'))}",
            fix="rename it, or narrow the glob of that source",
        )
    file_format = format_by_name if source.format == "auto" else source.format
    if file_format is None:
        raise ConfigError(
            f"{match.label} has an unknown format",
            expected="a file name with an ending of docs/sources.md, or a source with a format",
            fix=f"set the format of the source {source.uri}, or narrow its glob",
        )
    if file_format == "avro":
        require_extra("avro", f"{match.label}, an Avro file,")
    return Partition(
        source=source,
        format=file_format,
        file=match.label,
        uri=match.entry.location.uri,
        size_bytes=match.entry.size_bytes,
    )


def _code_partition(source: Source, match: _Match) -> Partition:
    size_bytes = 0
    for code_file in code_files.list_files(match.entry.location)[1]:
        size_bytes += code_file.entry.size_bytes
        path = code_file.path
        if source.format == "auto" and "/" not in path and _is_data_file(path):
            raise ConfigError(
                f"the folder {match.label} holds {path}, and its source has no format",
                expected="a folder of code files, or a source with the format of its data files",
                fix="write a glob of its data files, or set the format of that source (`files` for "
                "a checkout)",
            )
    is_folder = match.entry.kind == "folder"
    return Partition(
        source=source,
        format="files",
        file=match.label.rstrip("/") + "/" if is_folder else match.label,
        uri=match.entry.location.uri,
        size_bytes=size_bytes,
    )


def _is_data_file(name: str) -> bool:
    """Whether a file indicates a folder of data; a checkout may have .json files and archives."""
    is_data = format_of(name) in ("jsonl", "parquet", "avro")
    return is_data and not name.lower().endswith(".json")


def _split(
    partition: Partition, storage_options: Mapping[str, Any] | None, split_bytes: int
) -> Iterator[Partition]:
    """The partition, or a large Parquet file as row groups of about `split_bytes` each."""
    if partition.format != "parquet" or partition.size_bytes <= split_bytes:
        yield partition
        return
    try:
        with open_bytes(resolve_uri(partition.uri, storage_options)) as file:
            metadata = pq.read_metadata(file)
    except pa.ArrowException as error:
        raise damaged_file_error(partition.name, error, "a complete Parquet file") from error
    # Not the compressed sizes of columns: with damaged metadata, pyarrow aborts the process
    # (measured).
    num_groups = metadata.num_row_groups
    group_bytes = [max(0, metadata.row_group(i).total_byte_size) for i in range(num_groups)]
    total_bytes = max(1, sum(group_bytes))
    end_bytes = 0
    first_group = start_bytes = 0
    for group, uncompressed_bytes in enumerate(group_bytes):
        end_bytes += uncompressed_bytes
        size_bytes = partition.size_bytes * end_bytes // total_bytes - start_bytes
        if size_bytes >= split_bytes or group == num_groups - 1:
            yield partition.replace(
                first_row_group=first_group,
                last_row_group=group,
                size_bytes=size_bytes,
                file_bytes=partition.size_bytes,
            )
            first_group = group + 1
            start_bytes += size_bytes
