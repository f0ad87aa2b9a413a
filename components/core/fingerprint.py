"""SHA-256 of descriptions (`fingerprint`) and of files (`digest_of_files`).

A description is hashed in a canonical JSON form. A value without such a form is refused, never
converted to a string. A config in a description is hashed by its `identity`, which omits defaults.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.core.config import Config
from components.core.paths import RelativePath


class FileEntry(NamedTuple):
    """A file of an artifact: path relative to the folder of the artifact, size and SHA-256."""

    path: RelativePath
    size_bytes: int
    sha256: str


def canonical(value: Any) -> Any:
    """Return the JSON value that `canonical_json` writes: configs by their `identity`, tuples as
    lists.

    Raises:
        TypeError: see `canonical_json`.
    """
    return _plain(value, "$")


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, the same text for the same value on every
    machine.

    Raises:
        TypeError: JSON cannot express the value exactly (a set, a path, an object, NaN).
    """
    return json.dumps(
        canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Config):
        return _plain(value.identity(), path)
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"cannot fingerprint {path}: the key {bad[0]!r} is not a string")
        return {key: _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise TypeError(
        f"cannot fingerprint {path}: {value!r} of type {type(value).__name__} has no canonical "
        "JSON form"
    )


def sha256_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Return every file below `folder` with size and SHA-256, sorted by path."""
    paths = sorted(
        (path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()
    )
    return tuple(FileEntry(name, path.stat().st_size, sha256_file(path)) for name, path in paths)


def digest_of_files(files: tuple[FileEntry, ...]) -> str:
    """Return the SHA-256 (hex) over `path NUL size NUL sha256` lines; it does not depend on the
    location of the files."""
    lines = "".join(f"{path}\0{size}\0{sha256}\n" for path, size, sha256 in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()
