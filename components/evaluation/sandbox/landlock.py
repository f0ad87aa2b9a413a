"""A sandbox without namespaces: Landlock, the system-call filter and limits.

Because the isolation is weaker, the rules are stricter. No file can be written, since no empty
folder can be made for each program, and no call that changes a file is allowed. Programs that use
temporary files fail, and results state it. Programs see pids, the host
name, and the times and sizes of files; they read the allowed files only. For root, every user must
be able to read Python, because programs run as another user.
"""

from __future__ import annotations

import mimetypes
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.filesystem_view import (
    DEVICES,
    LIBRARIES,
    FilesystemView,
    python_command,
)
from components.evaluation.sandbox.jail import require_start
from components.evaluation.sandbox.jailed.landlock_rules import landlock_version


class Landlock:
    """Starts servers that restrict themselves before the first request.

    Raises:
        SandboxUnavailableError: the kernel has no Landlock, or programs of root could not read this
            Python.
    """

    kind, isolated, namespaces = "landlock", True, False
    restriction = "no file can be written: programs that use temporary files fail"

    def __init__(self, view: FilesystemView) -> None:
        self.as_root = os.geteuid() == 0
        self._interpreter = view.interpreter
        self._version = landlock_version()
        if not self._version:
            raise SandboxUnavailableError(
                "the kernel has no Landlock, or it is disabled",
                expected="Linux 5.13 or newer, with landlock among its security modules (the boot "
                "parameter lsm=)",
                fix="use a newer kernel, or allow landlock_create_ruleset in the container's "
                "profile",
            )
        code = str(Path(__file__).parent)
        self.environment = view.environment | {"PYTHONPATH": code, "HOME": "/"}
        readable: list[Path] = []
        for source, _ in view.mounts:
            readable += _without_hidden(source, view.hidden)
        # Landlock hides no file: `mimetypes` sees that these exist, and fails if it cannot read
        # them.
        readable += filter(Path.is_file, map(Path, mimetypes.knownfiles))
        if self.as_root:
            _require_readable((view.interpreter, *readable))
        self.landlock_rules: dict[str, Any] | None = {
            "read": [str(path) for path in readable],
            "devices": [str(device) for device in DEVICES],
            "modules": {path.stem: str(path) for path in _modules(view)},
            "extensions": str(Path(sysconfig.get_path("stdlib")).resolve() / "lib-dynload"),
        }
        require_start(
            self, got="Python does not start", expected="an interpreter", fix="run `make run` again"
        )

    @property
    def description(self) -> str:
        """The isolation, as stored in results."""
        user = ", another user for each program" if self.as_root else ""
        return (
            f"Landlock {self._version}{user}, rlimits, seccomp, no namespaces; {self.restriction}"
        )

    def command(self, start: str) -> list[str]:
        """Return the command line that runs a line of Python."""
        return python_command(self._interpreter, start)


def _without_hidden(path: Path, hidden: tuple[Path, ...]) -> Iterator[Path]:
    """Yield `path`, or its contents if a part of it must stay hidden."""
    if path in hidden:
        return
    if not any(folder.is_relative_to(path) for folder in hidden):
        yield path
        return
    for child in sorted(path.iterdir()):
        if not child.is_symlink():  # the target is listed itself, or must stay hidden
            yield from _without_hidden(child, hidden)


def _modules(view: FilesystemView) -> Iterator[Path]:
    """Yield the files and folders of the standard library's modules and of the packages."""
    packages = (source for source, target in view.mounts if target.is_relative_to(LIBRARIES))
    for path in (*Path(sysconfig.get_path("stdlib")).resolve().iterdir(), *packages):
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield path


def _require_readable(paths: tuple[Path, ...]) -> None:
    for path in paths:
        for entry in (path, *path.parents):
            required_permission = 1 if entry.is_dir() else 4
            if not entry.stat().st_mode & required_permission:
                raise SandboxUnavailableError(
                    f"programs of root run as other users, and {entry} is closed to them",
                    expected="a Python, and packages, that every user may read",
                    fix="use a Python outside of root's home, or run as an ordinary user",
                )
