"""Atomic writes to local files, JSON and JSON Lines, and one error for a full disk."""

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

from components.core.errors import DiskFullError, JsonError

_TEMPORARY_SUFFIX = ".writing"
"""A file with this suffix is being written, or was left by a process that was killed."""

MAX_JSON_DEPTH = 100
"""Of JSON from outside. Python's recursion limit of 1,000 must also suffice for the caller, and for
code that validates or writes the value (assumption); our own files have fewer than 20 levels."""


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed processes anywhere below `folder`."""
    for path in folder.rglob(f".*{_TEMPORARY_SUFFIX}"):
        path.unlink()


@contextmanager
def wrap_disk_full(activity: str) -> Iterator[None]:
    """Raise `DiskFullError` in place of an OSError for a full disk or an exhausted quota."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"the disk filled up while {activity} ({error.filename or 'no file named'})",
            expected="enough space for the files being written",
            fix="free space or set --exec workspace=FOLDER on a larger disk, then run the same "
            "command again to resume",
        ) from error


def require_disk_space(folder: Path, size_bytes: int, purpose: str) -> None:
    """Check for free disk space before work starts.

    Raises:
        DiskFullError: fewer than `size_bytes` are free on the disk of `folder`, which need not
            exist.
    """
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size_bytes:
        raise DiskFullError(
            f"{free / 1e6:,.0f} MB are free at {existing}",
            expected=f"{size_bytes / 1e6:,.0f} MB for {purpose}",
            fix="free space or set --exec workspace=FOLDER on a larger disk, then run the same "
            "command again",
        )


def write_atomic(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Write a file so that readers see the old or the new bytes, even after a crash; see
    `atomic_write_path`."""
    with atomic_write_path(path, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_write_path(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush and rename it on success, remove it on an
    error.

    Args:
        path: the file.
        mode: its permissions; None: those of a new file. Until the rename only this user can open
            the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_TEMPORARY_SUFFIX, dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        with wrap_disk_full(f"writing {path.name}"):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask() if mode is None else mode)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Bytes are UTF-8, with or without a byte order mark.

    Raises:
        ValueError: not UTF-8, not JSON, or more than `MAX_JSON_DEPTH` levels.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    # Most texts have few brackets, so that the value need not be walked.
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _is_deeper(value, MAX_JSON_DEPTH):
        raise _too_deep()
    return value


def _too_deep() -> ValueError:
    return ValueError(f"JSON is nested more than {MAX_JSON_DEPTH} levels deep")


def _is_deeper(value: Any, max_depth: int) -> bool:
    """Return whether containers are nested more than `max_depth` levels deep."""
    level = [value]
    for _ in range(max_depth):
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children += item.values()
            elif isinstance(item, list):
                children += item
        level = children
    return any(isinstance(item, dict | list) for item in level)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        JsonError: see `parse_json`.
    """
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise _invalid_json(str(path), error) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: sorted keys, two spaces, a final newline."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(path, f"{text}\n")


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the records of a JSON Lines file.

    Raises:
        JsonError: see `parse_json`.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = parse_json(line)
            except ValueError as error:
                raise _invalid_json(f"{path}:{number}", error) from error
            yield record


def _invalid_json(place: str, error: ValueError) -> JsonError:
    return JsonError(
        f"{place} is not valid JSON: {error!s:.300}",
        expected=f"JSON in UTF-8 with at most {MAX_JSON_DEPTH} levels",
        fix="correct the file, or restore it from its origin",
    )


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write a JSON Lines file atomically."""
    with (
        atomic_write_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for record in records:
            line = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)
            file.write(f"{line}\n")
