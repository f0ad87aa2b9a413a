"""The units of work of a corpus: one file each, one folder, or some row groups of a big Parquet file.

Design decision: everything is listed before anything is read, sorted, with the size of each file, so that the work is the
same on every machine and a file that changed in between is noticed. What is not covered: splitting JSON Lines, whose
compressed files have no place to begin at but the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from components.core.config import Config
from components.core.errors import ConfigError, DataError
from components.data.sources import code_files
from components.data.sources.config import Format, Source
from components.data.sources.file_types import (
    compression_of,
    folder_of,
    format_of,
    is_glob,
    join,
    known_endings,
)
from components.data.sources.location import (
    FileLocation,
    damaged_file_error,
    open_bytes,
    resolve_uri,
    walk,
    wrap_read_errors,
)

SPLIT_BYTES = 256 << 20
"""Stored bytes above which a Parquet file becomes several partitions (assumption: some seconds of work each)."""


COMPRESSION_RATIO = 4
"""Bytes of text in a byte of a compressed file (source code at zstd level 3, measured; prose has fewer)."""


class Partition(Config):
    """A unit of work, plain JSON."""

    source: Source
    format: Format
    """What `source.format` came to."""
    file: str
    """The file or folder as the recipe writes it, with `/` behind a folder: the same on every machine."""
    uri: str
    """Where it lies on this machine: an absolute path or a URI. For a glob of the format "files", the glob."""
    size_bytes: int
    """As stored, when it was listed; of a folder, all its files; of row groups, about their share of the file."""
    first_row_group: int | None = None
    """The first row group of a Parquet file that was split; None is the whole file."""
    last_row_group: int | None = None
    """The last one, inclusive."""
    file_bytes: int | None = None
    """Of the whole of a file that was split."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Only the beginning: records until they come to so many bytes, as they lie uncompressed in their file; None is all."""

    @property
    def name(self) -> str:
        """What to call it in messages; unique in a corpus and the same on every machine."""
        return (
            self.file
            if self.first_row_group is None
            else f"{self.file}[{self.first_row_group}:{self.last_row_group}]"
        )

    @property
    def text_bytes(self) -> int:
        """About how much text it holds."""
        is_compressed = (
            self.format in ("parquet", "archive") or compression_of(self.file) is not None
        )
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
        storage_options: for the file systems of remote sources (endpoint, key, ...).
        split_bytes: stored bytes above which a Parquet file is split.

    Raises:
        ConfigError: a source cannot be what it says, or two sources hold the same file.
        DataError: a source has no file, or a Parquet file to be split is damaged.
        FetchError: a file system does not answer.
    """
    found: list[Partition] = []
    for source in sources:
        with wrap_read_errors(source.uri):
            listed = [
                part
                for whole in _list(source, storage_options)
                for part in _split(whole, storage_options, split_bytes)
            ]
        if not listed:
            endings = " or *".join(known_endings(source.format))
            raise DataError(
                f"{source.uri} holds no file",
                expected=f"at least one file{f' named *{endings}' if endings else ''}",
                fix="check the path; a glob matches files, and folders only where it ends with a slash",
            )
        found += listed
    found.sort(key=lambda one: (one.file, one.first_row_group or 0))
    _require_distinct(found)
    return found


def _require_distinct(partitions: list[Partition]) -> None:
    seen: dict[tuple[str, int | None], Partition] = {}
    for one in partitions:
        if (other := seen.setdefault((one.uri, one.first_row_group), one)) is not one:
            raise ConfigError(
                f"{one.file} is in the sources {other.source.uri} and {one.source.uri}",
                expected="each file in one source",
                fix="take it out of one of them",
            )


class _Match(NamedTuple):
    """What the URI of a source names."""

    place: FileLocation
    info: dict[str, Any]
    label: str
    """As the recipe writes it."""


def _matches(source: Source, storage_options: Mapping[str, Any] | None) -> list[_Match]:
    uri, place = source.uri, resolve_uri(source.uri, storage_options)
    if place.fs.exists(place.path):
        return [_Match(place, place.fs.info(place.path), uri.rstrip("/") or "/")]
    if not is_glob(uri):
        return []
    folder = folder_of(uri)
    root = resolve_uri(folder or ".", storage_options).path
    found = place.fs.glob(place.path.rstrip("/") + ("/" if uri.endswith("/") else ""), detail=True)
    found = {path.rstrip("/"): info for path, info in found.items()}
    return [
        _Match(FileLocation(place.fs, path), info, join(folder, path.removeprefix(root).strip("/")))
        for path, info in sorted(found.items())
        if (info["type"] == "directory") == uri.endswith("/")
    ]


def _list(source: Source, storage_options: Mapping[str, Any] | None) -> Iterator[Partition]:
    matches = _matches(source, storage_options)
    if (
        source.format == "files"
        and matches
        and matches[0].label != source.uri
        and not source.uri.endswith("/")
    ):
        matches = [_Match(resolve_uri(source.uri, storage_options), {"type": "glob"}, source.uri)]
    for match in matches:
        is_folder = match.info["type"] == "directory"
        if source.format == "files" or (source.format == "auto" and is_folder):
            yield _of_files(source, match, is_folder)
        elif is_folder:
            endings = known_endings(source.format)
            for below, info in walk(match.place):
                if info["type"] == "file" and below.path.lower().endswith(endings):
                    label = join(match.label, below.path.removeprefix(match.place.path).lstrip("/"))
                    yield _of_file(source, _Match(below, info, label))
        elif match.info["type"] == "file":
            yield _of_file(source, match)


def _of_file(source: Source, match: _Match) -> Partition:
    by_name = format_of(match.label)
    if source.format == "archive" and by_name != "archive":
        raise ConfigError(
            f"{match.label} is to be read as an archive",
            expected=f"a name that ends with {', '.join(known_endings('archive'))}",
            fix="rename it, or narrow the glob of that source",
        )
    file_format = by_name if source.format == "auto" else source.format
    if file_format is None:
        raise ConfigError(
            f"the name of {match.label} says no format",
            expected="a name that ends as docs/sources.md lists, or a source with a format",
            fix=f"set the format of the source {source.uri}, or narrow its glob",
        )
    size_bytes = match.info["size"]
    return Partition(
        source=source,
        format=file_format,
        file=match.label,
        uri=match.place.uri,
        size_bytes=size_bytes,
    )


def _of_files(source: Source, match: _Match, is_folder: bool) -> Partition:
    size_bytes = 0
    for entry in code_files.entries(match.place)[1]:
        size_bytes += entry.size_bytes
        if source.format == "auto" and "/" not in entry.path and _is_data(entry.path):
            raise ConfigError(
                f"the folder {match.label} holds {entry.path}, and its format is left open",
                expected="a folder or checkout of source files, or a source that says what its files are",
                fix="write a glob of its data files, or set the format of that source (to files, if it is a checkout)",
            )
    file = match.label.rstrip("/") + "/" if is_folder else match.label
    return Partition(
        source=source, format="files", file=file, uri=match.place.uri, size_bytes=size_bytes
    )


def _is_data(name: str) -> bool:
    """Whether a file in a folder speaks against a checkout; package.json and archives do not."""
    return format_of(name) in ("jsonl", "parquet", "avro") and not name.lower().endswith(".json")


def _split(
    whole: Partition, storage_options: Mapping[str, Any] | None, split_bytes: int
) -> Iterator[Partition]:
    """The partition, or the parts of a big Parquet file: consecutive row groups of about `split_bytes` each."""
    if whole.format != "parquet" or whole.size_bytes <= split_bytes:
        yield whole
        return
    try:
        with open_bytes(resolve_uri(whole.uri, storage_options)) as file:
            metadata = pq.read_metadata(file)
    except pa.ArrowException as error:
        raise damaged_file_error(whole.name, error, "a whole Parquet file") from error
    # Not the compressed sizes of columns: where their metadata is damaged, pyarrow ends the whole process there (measured).
    sizes = [
        max(0, metadata.row_group(group).total_byte_size)
        for group in range(metadata.num_row_groups)
    ]
    total, until = max(1, sum(sizes)), 0
    first = start = 0
    for group, uncompressed in enumerate(sizes):
        until += uncompressed
        size_bytes = whole.size_bytes * until // total - start
        if size_bytes >= split_bytes or group == len(sizes) - 1:
            yield whole.replace(
                first_row_group=first,
                last_row_group=group,
                size_bytes=size_bytes,
                file_bytes=whole.size_bytes,
            )
            first, start = group + 1, start + size_bytes
