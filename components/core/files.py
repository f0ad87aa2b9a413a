"""Files that are either whole or absent, and a full disk that is said in words.

Covers local folders only; the store adds remote roots. It does not cover locking between machines.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core.errors import DiskFullError

_TEMPORARY = ".writing"
"""Suffix of a file that is being written; one that a killed process left is junk."""


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed in `writing` left anywhere below `folder`."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        path.unlink()


@contextmanager
def wrap_disk_full(doing: str) -> Iterator[None]:
    """Turn "no space left" (or a quota) raised inside into a `StorageFull` that says what was being done."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"the disk filled up while {doing} ({error.filename or 'no file named'})",
            expected="room for the files being written",
            fix="free space or point the workspace at a larger disk, then run the same command again: it continues",
        ) from error


def require_disk_space(folder: Path, size_bytes: int, doing: str) -> None:
    """Check for room before the work starts.

    Raises:
        StorageFull: fewer than `size_bytes` are free where `folder` lies, or will lie.
    """
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size_bytes:
        raise DiskFullError(
            f"{free / 1e6:,.0f} MB are free at {existing}",
            expected=f"{size_bytes / 1e6:,.0f} MB for {doing}",
            fix="free space or point the workspace at a larger disk, then run the same command again",
        )


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, also after a crash."""
    with atomic_write_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_write_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes its place, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with wrap_disk_full(f"writing {path.name}"):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: sorted keys, two spaces, a final newline."""
    write_atomic(
        path,
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
    )


def read_jsonl(path: Path) -> Iterator[Any]:
    """The records of a JSON Lines file, one at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write a JSON Lines file atomically."""
    with (
        atomic_write_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for record in records:
            file.write(
                json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
            )
