"""Lists the files of a folder or a glob, and resolves links.

On a local disk, a link counts as the file or folder that it points to, as in a shell. A file that
is listed under its own path is not listed again under a link (`repeated link`), so loops end. A
folder that cannot be read raises an error. Limit: two links to the same file elsewhere are two
files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from components.core.errors import ConfigError
from components.data.sources.location import FileLocation, base_folder

Kind = Literal["file", "folder", "special file", "broken link", "outside link", "repeated link"]


class Entry(NamedTuple):
    """A file, folder or link at a path."""

    location: FileLocation
    kind: Kind
    """Of the target, for a link. `broken link`: without a target, or a loop of links. `outside
    link`: leaves a confined folder. `repeated link`: its target is listed under its own path."""
    size_bytes: int = 0
    """As stored; 0 unless it is a file."""
    real_path: str = ""
    """Without links; "" on a remote file system."""
    is_linked: bool = False
    """Whether it is a link, or was reached through a link below the listed folder."""


def find_entry(location: FileLocation) -> Entry | None:
    """The file or folder at a path, also behind a link, or None."""
    fs, path = location
    if isinstance(fs, LocalFileSystem):
        if not os.path.lexists(path):
            return None
        return _local_entry(location, path, is_link=os.path.islink(path))
    return _remote_entry(fs, fs.info(path)) if fs.exists(path) else None


def walk_files(location: FileLocation, *, confined: bool = False) -> Iterator[Entry]:
    """All entries below a folder except folders, each level sorted by name, without `.git`.

    Args:
        location: the folder.
        confined: whether links that leave the folder are not followed.
    """
    fs, path = location
    if not isinstance(fs, LocalFileSystem):
        yield from _walk_remote(location)
        return
    roots = [os.path.realpath(path)]
    for entry in _walk_local(location, roots[0], roots, confined=confined):
        if entry.kind == "file" and os.path.islink(entry.location.path):
            yield _check_target(entry, roots, confined=confined)
        elif entry.kind != "folder":
            yield entry


def _check_target(link: Entry, roots: list[str], *, confined: bool) -> Entry:
    """A link to a file, as another kind if it is not followed."""
    if _is_below_any(link.real_path, roots):
        return link._replace(kind="repeated link", size_bytes=0)
    if confined and not _is_inside(link.real_path, roots[0]):
        return link._replace(kind="outside link", size_bytes=0)
    return link


def match_glob(location: FileLocation) -> list[Entry]:
    """All entries that match a glob, sorted by path. A final slash selects folders only.

    Raises:
        ConfigError: the pattern is invalid.
    """
    fs, path = location
    wants_folders = path.endswith("/")
    pattern = path.rstrip("/")
    try:
        glob_translate(pattern)
    except ValueError as error:
        raise ConfigError(
            f"the glob {path} is invalid: {error}",
            expected="`**` only as a whole part of a path, as in a/**/*.jsonl",
            fix="correct the uri of that source",
        ) from error
    if isinstance(fs, LocalFileSystem):
        folder = base_folder(pattern)
        parts = [part for part in pattern[len(folder) :].split("/") if part]
        entries = list(_glob_local(FileLocation(fs, folder), os.path.realpath(folder), parts))
    else:
        matches = fs.glob(path, detail=True)
        entries = [_remote_entry(fs, info) for info in matches.values()]
    own_paths = {entry.real_path for entry in entries if not entry.is_linked}
    selected = []
    for entry in sorted(entries, key=lambda entry: entry.location.path):
        if wants_folders and entry.kind != "folder":
            continue
        is_repeated = entry.is_linked and entry.real_path in own_paths
        selected.append(
            entry._replace(kind="repeated link", size_bytes=0) if is_repeated else entry
        )
    return selected


def _glob_local(folder: FileLocation, real_folder: str, parts: list[str]) -> Iterator[Entry]:
    """The entries below a folder that match the parts of a pattern."""
    part, *rest = parts
    if not os.path.isdir(folder.path):
        return
    if part == "**":
        pattern = re.compile(glob_translate("/".join(parts)))
        start = len(folder.path.rstrip("/")) + 1
        for entry in _walk_local(folder, real_folder, None, confined=False):
            if pattern.match(entry.location.path[start:]):
                yield entry
        return
    pattern = re.compile(glob_translate(part))
    for entry in _scan(folder, real_folder):
        if not pattern.match(entry.location.path.rpartition("/")[2]):
            continue
        if not rest:
            yield entry
        elif entry.kind == "folder":
            for child in _glob_local(entry.location, entry.real_path, rest):
                yield child._replace(is_linked=child.is_linked or entry.is_linked)


def _walk_local(
    folder: FileLocation, real_folder: str, roots: list[str] | None, *, confined: bool
) -> Iterator[Entry]:
    """All entries below a folder.

    Args:
        folder: its path.
        real_folder: the path without links.
        roots: real folders that are walked as a whole, extended here: a link to a folder that
            overlaps one of them is not followed. None: all links to folders are followed, except
            to a folder that contains the link.
        confined: whether links out of the first root are not followed.
    """
    for entry in _scan(folder, real_folder):
        if entry.kind != "folder":
            yield entry
            continue
        if entry.location.path.endswith("/.git"):
            continue
        if entry.is_linked:
            real = entry.real_path
            if _is_inside(real_folder, real) or (roots and _is_below_any(real, roots)):
                yield entry._replace(kind="repeated link")
                continue
            if confined and roots and not _is_inside(real, roots[0]):
                yield entry._replace(kind="outside link")
                continue
            if roots is not None:
                roots.append(real)
        yield entry
        for child in _walk_local(entry.location, entry.real_path, roots, confined=confined):
            yield child._replace(is_linked=child.is_linked or entry.is_linked)


def _scan(folder: FileLocation, real_folder: str) -> Iterator[Entry]:
    """The entries of a local folder, sorted by name."""
    with os.scandir(folder.path) as items:
        sorted_items = sorted(items, key=lambda item: item.name)
    for item in sorted_items:
        child = FileLocation(folder.fs, f"{folder.path.rstrip('/')}/{item.name}")
        real_path = f"{real_folder.rstrip('/')}/{item.name}"
        yield _local_entry(child, real_path, is_link=item.is_symlink())


def _local_entry(location: FileLocation, real_path: str, *, is_link: bool) -> Entry:
    """The entry at a path; in `real_path`, only the last name may be a link."""
    try:
        status = os.stat(location.path)
    except OSError:
        if is_link and not os.path.exists(location.path):
            return Entry(location, "broken link", is_linked=True)
        raise
    if is_link:
        real_path = os.path.realpath(real_path)
    if stat.S_ISDIR(status.st_mode):
        return Entry(location, "folder", 0, real_path, is_link)
    if stat.S_ISREG(status.st_mode):
        return Entry(location, "file", status.st_size, real_path, is_link)
    return Entry(location, "special file", 0, real_path, is_link)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_below_any(path: str, roots: list[str]) -> bool:
    """Whether a real path is listed, because a walk of one of the roots reaches it."""
    return any(_is_inside(path, root) and "/.git/" not in path[len(root) :] for root in roots)


def _walk_remote(location: FileLocation) -> Iterator[Entry]:
    fs, path = location
    for info in sorted(fs.ls(path, detail=True), key=lambda info: str(info["name"])):
        entry = _remote_entry(fs, info)
        if entry.location.path == path.rstrip("/"):
            continue  # Object stores list a marker for the folder itself.
        if entry.kind != "folder":
            yield entry
        elif not entry.location.path.endswith("/.git"):
            yield from _walk_remote(entry.location)


def _remote_entry(fs: Any, info: dict[str, Any]) -> Entry:
    location = FileLocation(fs, str(info["name"]).rstrip("/"))
    if info["type"] == "link":  # Listings of SFTP do not resolve links.
        info = fs.info(location.path) if fs.exists(location.path) else {"type": "broken link"}
    if info["type"] == "directory":
        return Entry(location, "folder")
    if info["type"] == "file":
        return Entry(location, "file", int(info["size"]))
    return Entry(location, "broken link" if info["type"] == "broken link" else "special file")
