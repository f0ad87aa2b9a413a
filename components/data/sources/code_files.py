"""Folders, git checkouts and globs: each file of a known language is a record.

`.git` is skipped, and a link counts as the file that it points to, unless that file is read under
its own path. A link that leaves a git checkout is not followed, because anybody may have committed
it; other folders may consist of links, like a snapshot of a Hub cache. The record's source is the
folder's name. Limit: `.gitignore` has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from components.core.text import printable_name
from components.data.sources.listing import Entry, find_entry, match_glob, walk_files
from components.data.sources.location import FileLocation, base_folder, join_path, open_bytes
from components.data.sources.records import (
    BROKEN_LINK,
    LANGUAGE,
    LINK,
    NOT_REGULAR,
    OUTSIDE_LINK,
    TOO_LONG,
    RawRecord,
    RecordParser,
    Reject,
    without_bom,
)


class CodeFile(NamedTuple):
    """A file, link or special file in a folder."""

    entry: Entry
    path: str
    """Relative to the folder, or to the part of a glob before its first special character."""


def list_files(location: FileLocation) -> tuple[str, Iterator[CodeFile]]:
    """The folder that paths are relative to, and its files in a fixed order."""
    fs, path = location
    entry = find_entry(location)
    entries: Iterator[Entry]
    if entry is None:
        root = base_folder(path)
        entries = (match for match in match_glob(location) if match.kind != "folder")
    elif entry.kind == "folder":
        root = path.rstrip("/")
        entries = walk_files(location, confined=fs.exists(f"{root}/.git"))
    else:
        root = path.rpartition("/")[0]
        entries = iter([entry])
    start = len(root.rstrip("/")) + 1 if root else 0
    return root, (CodeFile(item, printable_name(item.location.path[start:])) for item in entries)


def read(
    location: FileLocation, file: str, parser: RecordParser, max_record_bytes: int
) -> Iterator[RawRecord]:
    """All files of a folder or a glob, or a single file.

    Raises:
        OSError: a file cannot be read, or no longer exists.
    """
    root, code_files = list_files(location)
    source = printable_name(root.rstrip("/").rpartition("/")[2])
    label = file if file.endswith("/") else base_folder(file)
    stored_bytes = 0
    for code_file in code_files:
        value = _read_file(code_file, source, parser, max_record_bytes)
        size_bytes = code_file.entry.size_bytes
        stored_bytes += size_bytes
        yield RawRecord(join_path(label, code_file.path), 0, size_bytes, stored_bytes, value)


def _read_file(code_file: CodeFile, source: str, parser: RecordParser, max_bytes: int) -> Any:
    entry = code_file.entry
    if entry.kind == "repeated link":
        return Reject(LINK, is_quarantined=False)
    if entry.kind == "special file":
        return Reject(NOT_REGULAR, is_quarantined=False)
    if parser.language_of(code_file.path) is None:
        return Reject(LANGUAGE, is_quarantined=False)
    if entry.kind != "file":
        return Reject(BROKEN_LINK if entry.kind == "broken link" else OUTSIDE_LINK)
    if entry.size_bytes > max_bytes:
        return Reject(f"{TOO_LONG}: a file of {entry.size_bytes} bytes")
    with open_bytes(entry.location) as file:
        return {"path": code_file.path, "source": source, "text": without_bom(file.read())}
