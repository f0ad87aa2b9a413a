"""A folder, a git checkout or a glob of files: every file of a known language is a record.

Design decision: links are not followed and `.git` is not entered, so that nothing outside the folder and nothing twice is
read. The record's source is the folder's own name. What is not covered: `.gitignore`; what it names is read like the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from components.data.archives.archive_reader import readable_name
from components.data.sources.file_types import folder_of, join
from components.data.sources.location import FileLocation, open_bytes, walk
from components.data.sources.record_batches import RawRecord
from components.data.sources.records import (
    LANGUAGE,
    LINK,
    NOT_REGULAR,
    TOO_LONG,
    RecordMaker,
    Reject,
)


class Entry(NamedTuple):
    """Something in a folder that is no folder."""

    place: FileLocation
    path: str
    """Relative to the folder, or to the part of a glob before its first special character."""
    info: dict[str, Any]
    """What fsspec knows of it."""

    @property
    def size_bytes(self) -> int:
        """As stored; 0 for what is not read."""
        return (
            int(self.info["size"])
            if self.info["type"] == "file" and not self.info.get("islink")
            else 0
        )


def entries(place: FileLocation) -> tuple[str, Iterator[Entry]]:
    """The folder that paths are relative to, and everything in it in a fixed order; nothing where nothing is there."""
    if place.fs.isdir(place.path):
        root, found = place.path.rstrip("/"), walk(place)
    elif place.fs.exists(place.path):
        root, found = place.path.rpartition("/")[0], iter([(place, place.fs.info(place.path))])
    else:
        matches = sorted(place.fs.glob(place.path, detail=True).items())
        root = folder_of(place.path)
        found = (
            (FileLocation(place.fs, path), info)
            for path, info in matches
            if info["type"] != "directory"
        )
    start = len(root.rstrip("/")) + 1 if root else 0
    return root, (Entry(one, one.path[start:], info) for one, info in found)


def read(
    place: FileLocation, file: str, maker: RecordMaker, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Every entry of a folder, a glob or a single file.

    Raises:
        OSError: a file cannot be read, or went away.
    """
    root, found = entries(place)
    source = root.rstrip("/").rpartition("/")[2]
    stored_bytes = 0
    shown = file if file.endswith("/") else folder_of(file)
    for entry in found:
        value = _content(entry, source, maker, max_record_bytes)
        stored_bytes += entry.size_bytes
        yield RawRecord(
            readable_name(join(shown, entry.path)), 0, entry.size_bytes, stored_bytes, value
        )


def _content(entry: Entry, source: str, maker: RecordMaker, limit: int) -> Any:
    if entry.info.get("islink"):
        return Reject(LINK, is_bad=False)
    if entry.info["type"] != "file":
        return Reject(NOT_REGULAR, is_bad=False)
    if maker.language_of(entry.path) is None:
        return Reject(LANGUAGE, is_bad=False)
    if entry.size_bytes > limit:
        return Reject(f"{TOO_LONG}: a file of {entry.size_bytes} bytes")
    with open_bytes(entry.place) as file:
        return {"path": readable_name(entry.path), "source": source, "text": file.read()}
