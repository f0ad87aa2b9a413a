"""Folders, git checkouts and globs: each file of a known language is a record.

Links are not followed and `.git` is skipped, so no file outside the folder is read, and no file
twice. The record's source is the folder's name. Limit: `.gitignore` has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from components.data.sources.location import (
    FileLocation,
    base_folder,
    join_path,
    open_bytes,
    printable_name,
    walk_files,
)
from components.data.sources.records import (
    LANGUAGE,
    LINK,
    NOT_REGULAR,
    TOO_LONG,
    RawRecord,
    RecordParser,
    Reject,
)


class CodeFile(NamedTuple):
    """A file, link or special file in a folder."""

    location: FileLocation
    path: str
    """Relative to the folder, or to the part of a glob before its first special character."""
    info: dict[str, Any]
    """fsspec's information."""

    @property
    def size_bytes(self) -> int:
        """As stored; 0 for a link or special file, which is not read."""
        is_regular = self.info["type"] == "file" and not self.info.get("islink")
        return int(self.info["size"]) if is_regular else 0


def list_files(location: FileLocation) -> tuple[str, Iterator[CodeFile]]:
    """The folder that paths are relative to, and its files in a fixed order."""
    fs, path = location
    if fs.isdir(path):
        root = path.rstrip("/")
        entries = walk_files(location)
    elif fs.exists(path):
        root = path.rpartition("/")[0]
        entries = iter([(location, fs.info(path))])
    else:
        root = base_folder(path)
        matches = sorted(fs.glob(path, detail=True).items())
        entries = (
            (FileLocation(fs, match), info)
            for match, info in matches
            if info["type"] != "directory"
        )
    start = len(root.rstrip("/")) + 1 if root else 0
    return root, (CodeFile(file, file.path[start:], info) for file, info in entries)


def read(
    location: FileLocation, file: str, parser: RecordParser, max_record_bytes: int
) -> Iterator[RawRecord]:
    """All files of a folder or a glob, or a single file.

    Raises:
        OSError: a file cannot be read, or no longer exists.
    """
    root, code_files = list_files(location)
    source = root.rstrip("/").rpartition("/")[2]
    label = file if file.endswith("/") else base_folder(file)
    stored_bytes = 0
    for code_file in code_files:
        value = _read_file(code_file, source, parser, max_record_bytes)
        size_bytes = code_file.size_bytes
        stored_bytes += size_bytes
        name = printable_name(join_path(label, code_file.path))
        yield RawRecord(name, 0, size_bytes, stored_bytes, value)


def _read_file(code_file: CodeFile, source: str, parser: RecordParser, max_bytes: int) -> Any:
    if code_file.info.get("islink"):
        return Reject(LINK, is_bad=False)
    if code_file.info["type"] != "file":
        return Reject(NOT_REGULAR, is_bad=False)
    if parser.language_of(code_file.path) is None:
        return Reject(LANGUAGE, is_bad=False)
    if code_file.size_bytes > max_bytes:
        return Reject(f"{TOO_LONG}: a file of {code_file.size_bytes} bytes")
    with open_bytes(code_file.location) as file:
        return {"path": printable_name(code_file.path), "source": source, "text": file.read()}
