"""Checks of relative paths and file names that others wrote.

Sources are manifests of shared stores, indexes of checkpoints and corpora, pinned archives and DVC
trees. A path that is absolute or contains `..` would lead reads and writes out of the folder to
which it belongs. MLflow checks the paths of its own downloads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_MAX_NAME_BYTES = 255
"""Of a file name: NAME_MAX of Linux."""
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


def require_relative_path(path: str) -> str:
    """Return a path if it is relative, normalised and stays inside its folder.

    Parts are separated by `/`, and none is empty, `.` or `..`. Control characters are refused
    because digests and logs separate paths by them, `\\` and drives because of Windows.

    Raises:
        ValueError: another path.
    """
    parts = path.split("/")
    if not all(_is_name(part) for part in parts) or _DRIVE.match(path):
        raise ValueError(f"{path!r:.300} is not a relative path that stays in its folder")
    return path


def require_file_name(name: str) -> str:
    """Return a name if it names a file or folder in any folder.

    Raises:
        ValueError: a path, or no name.
    """
    if "/" in name:
        raise ValueError(f"{name!r:.300} is not a file name")
    return require_relative_path(name)


def _is_name(part: str) -> bool:
    try:
        size_bytes = len(part.encode())
    except UnicodeEncodeError:  # A lone surrogate.
        return False
    return (
        part not in ("", ".", "..")
        and "\\" not in part
        and size_bytes <= _MAX_NAME_BYTES
        and _CONTROL_CHARACTER.search(part) is None
    )


RelativePath = Annotated[str, AfterValidator(require_relative_path)]
"""A field of a config with such a path."""

FileName = Annotated[str, AfterValidator(require_file_name)]
"""A field of a config with such a name."""


def resolve_inside(folder: Path, path: str) -> Path:
    """Return a path below a folder; neither `..` nor a symbolic link leads out of the folder.

    Raises:
        ValueError: the path leaves the folder.
    """
    joined = folder / require_relative_path(path)
    if not joined.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{joined} leaves {folder} through a symbolic link")
    return joined
