"""Where no namespaces can be had, as in a container with its default profile: Landlock, the system-call filter and limits.

One decision: weaker walls are made stricter. No file can be written at all, since nothing could empty a folder between two
programs, and no call that changes a file or signals a process is allowed. So programs that use temporary files fail, which
results say. Programs see the pids, the host name and the times and sizes of files of this machine; they read what the view
shows and nothing else. What runs as root needs a Python that every user may read: programs are another user.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.filesystem_view import DEVICES, LIBRARIES, View, command
from components.evaluation.sandbox.jail import require_start
from components.evaluation.sandbox.jailed.landlock_rules import landlock_version


class Landlock:
    """Starts servers that confine themselves before they are asked for anything.

    Raises:
        SandboxUnavailable: the kernel has no Landlock, or programs of root could not read this Python.
    """

    kind, isolated, namespaces = "landlock", True, False
    caveat = "no file can be written: programs that use temporary files fail"

    def __init__(self, view: View) -> None:
        self.as_root, self._interpreter, self._version = (
            os.geteuid() == 0,
            view.interpreter,
            landlock_version(),
        )
        if not self._version:
            raise SandboxUnavailableError(
                "the kernel has no Landlock, or it was not switched on",
                expected="Linux 5.13 or newer, with landlock among its security modules (the boot parameter lsm=)",
                fix="use a newer kernel, or allow landlock_create_ruleset in the container's profile",
            )
        code = str(Path(__file__).parent)
        self.environment = view.environment | {"PYTHONPATH": code, "HOME": "/"}
        read = [part for source, _ in view.mounts for part in _shown(source, view.emptied)]
        if self.as_root:
            _require_readable((view.interpreter, *read))
        self.landlock_rules: dict[str, Any] | None = {
            "read": [str(path) for path in read],
            "devices": [str(device) for device in DEVICES],
            "modules": {path.stem: str(path) for path in _modules(view)},
            "extensions": str(Path(sysconfig.get_path("stdlib")).resolve() / "lib-dynload"),
        }
        require_start(
            self, got="Python does not start", expected="an interpreter", fix="run `make run` again"
        )

    @property
    def description(self) -> str:
        """What isolates, as results record it."""
        user = ", another user for each program" if self.as_root else ""
        return f"Landlock {self._version}{user}, rlimits, seccomp, no namespaces; {self.caveat}"

    def command(self, start: str) -> list[str]:
        """The command line that runs a line of Python."""
        return command(self._interpreter, start)


def _shown(path: Path, emptied: tuple[Path, ...]) -> Iterator[Path]:
    """`path`, or all that is in it where a part of it is to stay hidden."""
    if path in emptied:
        return
    if not any(hidden.is_relative_to(path) for hidden in emptied):
        yield path
        return
    for part in sorted(path.iterdir()):
        if not part.is_symlink():  # what it leads to is shown by itself, or not at all
            yield from _shown(part, emptied)


def _modules(view: View) -> Iterator[Path]:
    """Files and folders of the standard library's modules and of the packages."""
    packages = (source for source, target in view.mounts if target.is_relative_to(LIBRARIES))
    for path in (*Path(sysconfig.get_path("stdlib")).resolve().iterdir(), *packages):
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield path


def _require_readable(paths: tuple[Path, ...]) -> None:
    for path in paths:
        closed = next(
            (
                one
                for one in (path, *path.parents)
                if not one.stat().st_mode & (1 if one.is_dir() else 4)
            ),
            None,
        )
        if closed is not None:
            raise SandboxUnavailableError(
                f"programs of root become other users, and {closed} is closed to them",
                expected="a Python, and packages, that every user may read",
                fix="use a Python outside of root's home, or run it as an ordinary user",
            )
