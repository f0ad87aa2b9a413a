"""Read members of an archive in memory: nothing is unpacked to disk, no name in an archive becomes a path on disk.

Design decision: one walk for tar and zip that yields regular files in the order of their paths. What is not covered: links,
which are yielded without content so that the caller can say that they were left out.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from components.core.errors import FetchError


class Member(NamedTuple):
    """A file inside an archive."""

    path: str
    """Without the archive's top folder."""
    content: bytes | None
    """None for a link."""


def read_members(archive: Path, is_wanted: Callable[[str], bool]) -> list[Member]:
    """The members whose path is wanted, sorted by path. Of two with one path the last counts, as when unpacking.

    Raises:
        FetchError: the file is no archive, or a damaged one.
    """
    walk = _walk_zip if archive.suffix in (".zip", ".whl") else _walk_tar
    try:
        found = {member.path: member for member in walk(archive, is_wanted)}
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        raise FetchError(
            f"{archive} cannot be read: {error}",
            expected="a whole .tar.gz, .zip or .whl archive",
            fix="remove the file and run the command again; if it stays so, its pin is wrong: pin another release",
        ) from error
    return [found[path] for path in sorted(found)]


def _walk_tar(archive: Path, is_wanted: Callable[[str], bool]) -> Iterator[Member]:
    with tarfile.open(archive, "r:gz") as tar:
        for info in tar:
            path = _without_top(info.name)
            if not is_wanted(path):
                continue
            if info.isreg():
                with tar.extractfile(info) as file:  # type: ignore[union-attr]  # never None for a regular file
                    yield Member(path, file.read())
            elif not info.isdir():
                yield Member(path, None)


def _walk_zip(archive: Path, is_wanted: Callable[[str], bool]) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            # A wheel is laid out as it is installed, without a top folder (PEP 427).
            path = info.filename if archive.suffix == ".whl" else _without_top(info.filename)
            if not info.is_dir() and is_wanted(path):
                yield Member(
                    path, None if stat.S_ISLNK(info.external_attr >> 16) else file.read(info)
                )


def _without_top(name: str) -> str:
    return readable_name(name).partition("/")[2]


def readable_name(name: str) -> str:
    """The name as text that can be written: Python gives bytes of a name that are not UTF-8 as surrogates, which cannot."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
