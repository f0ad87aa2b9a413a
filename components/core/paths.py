"""Checks of relative paths and file names that others wrote, and folders that only this user can
change.

Such paths come from manifests of shared stores, indexes of checkpoints and corpora, pinned archives
and DVC trees. A path that is absolute or contains `..` would lead reads and writes out of its
folder. MLflow checks the paths of its own downloads.

Another user who can write to a folder of locks or caches can put symbolic links or other bytes
there.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from components.core.errors import ConfigError
from components.core.files import wrap_disk_full

_PRIVATE_MODE = 0o700
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


def create_private_folder(
    folder: Path, purpose: str, fix: str, *, others_may_read: bool = False
) -> None:
    """Create a folder with mode 0700, or check that an existing folder has that mode and this
    owner.

    Args:
        folder: its parents are created with the default mode.
        purpose: its contents, for the error.
        fix: for the error.
        others_may_read: whether an existing folder may be readable by other users.

    Raises:
        ConfigError: the folder cannot be created, is a link, belongs to another user, or is open to
            other users.
        DiskFullError: the disk is full.
    """
    try:
        with wrap_disk_full(f"creating {folder}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(_PRIVATE_MODE)
            status = folder.lstat()
    except OSError as error:
        raise _unsafe(folder, purpose, f"cannot be created ({error.strerror})", fix) from error
    forbidden_mode = 0o022 if others_may_read else 0o077
    problem = ""
    if not stat.S_ISDIR(status.st_mode):
        problem = "is not a folder"
    elif status.st_uid != os.geteuid():
        problem = f"belongs to user {status.st_uid}, not to {os.geteuid()}"
    elif status.st_mode & forbidden_mode:
        problem = f"is open to other users (mode {stat.S_IMODE(status.st_mode):o})"
    if problem:
        raise _unsafe(folder, purpose, problem, fix)


def _unsafe(folder: Path, purpose: str, problem: str, fix: str) -> ConfigError:
    return ConfigError(
        f"the folder for {purpose}, {folder}, {problem}",
        expected=f"a folder of this user with mode {_PRIVATE_MODE:o}",
        fix=fix,
    )
