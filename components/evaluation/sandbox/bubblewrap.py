"""A jail made by bubblewrap: new namespaces, selected files and an empty /tmp.

It dies with the process that started it.

Nothing of the machine is visible unless it is listed. For an ordinary user the jail has a user
namespace; for root it has none, and programs run as an unassigned user instead. The server in the
jail keeps the capabilities to give every program a pid namespace and a new /tmp; programs have none
(`lockdown` drops them and sets limits and the system-call filter).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import chain
from pathlib import Path

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.filesystem_view import (
    ACCOUNTS,
    CODE,
    DEVICES,
    LIBRARIES,
    SCRATCH,
    TMPFS_BYTES,
    FilesystemView,
    python_command,
)
from components.evaluation.sandbox.jail import (
    NamespaceJail,
    require_python_outside_scratch,
    require_start,
)

_MIN_VERSION = (0, 7)
"""The first version with `--size`, without which /tmp could fill the memory (bubblewrap 0.7.0's
release notes)."""

_NAMESPACES = (
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
_PROCESS_OPTIONS = ("--die-with-parent", "--new-session", "--hostname", "jail")
_NOBODY_ID = "65534"


class Bubblewrap(NamespaceJail):
    """Builds the command lines of jailed processes.

    Raises:
        SandboxUnavailableError: bubblewrap is missing, too old, or may not make namespaces on this
            machine.
    """

    def __init__(self, view: FilesystemView) -> None:
        require_python_outside_scratch(view)
        self.program, self.version = _find_program()
        self.view = view
        self.as_root = os.geteuid() == 0
        self.environment = view.environment
        user = _user_options(as_root=self.as_root)
        self._options = [*_NAMESPACES, *user, *_PROCESS_OPTIONS, *_file_options(view), "--"]
        require_start(
            self,
            got="bubblewrap cannot make a jail on this machine",
            expected="user namespaces for ordinary users, or root with CAP_SYS_ADMIN",
            fix="allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, or the "
            "container's profile), then run again",
        )

    @property
    def description(self) -> str:
        """The isolation, as stored in results."""
        user = "another user" if self.as_root else "a user namespace"
        namespaces = "pid, net, ipc, uts, mount namespaces"
        return (
            f"bubblewrap {self.version}: {namespaces} and {user}, "
            "a pid namespace for each program, rlimits, seccomp"
        )

    def command(self, start: str) -> list[str]:
        """Return the command line that runs a line of Python in a new jail."""
        return [self.program, *self._options, *python_command(self.view.interpreter, start)]


def _user_options(*, as_root: bool) -> list[str]:
    capabilities = ["CAP_SYS_ADMIN"]
    if as_root:
        capabilities += ["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
    options = ["--cap-drop", "ALL"]
    for name in capabilities:
        options += ["--cap-add", name]
    if as_root:
        return options
    return ["--unshare-user", "--uid", _NOBODY_ID, "--gid", _NOBODY_ID, *options]


def _find_program() -> tuple[str, str]:
    program = shutil.which("bwrap")
    fix = (
        "install the Debian package bubblewrap (sudo apt-get install bubblewrap), "
        "then run the same command again"
    )
    expected = f"bubblewrap {'.'.join(map(str, _MIN_VERSION))} or newer"
    if program is None:
        raise SandboxUnavailableError(
            "bubblewrap (bwrap) is not on PATH", expected=expected, fix=fix
        )
    output = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    match = re.search(r"(\d+)\.(\d+)[.\d]*", output)
    if match is None or (int(match[1]), int(match[2])) < _MIN_VERSION:
        raise SandboxUnavailableError(
            f"{program} reports version {output.strip()!r}", expected=expected, fix=fix
        )
    return program, match[0]


def _file_options(view: FilesystemView) -> list[str]:
    """Return the mounts, parents first: bubblewrap makes missing folders unreadable.

    The empty /tmp comes first, because the machine's /tmp may hold the mounted Python.
    """
    options = ["--perms", "1777", "--size", str(TMPFS_BYTES), "--tmpfs", SCRATCH]
    for folder in _missing_folders(view):
        options += ["--perms", "0755", "--dir", str(folder)]
    for source, target in view.mounts:
        options += ["--ro-bind", str(source), str(target)]
    for link_target, link in view.links:
        options += ["--symlink", link_target, str(link)]
    for folder in view.hidden:
        options += ["--tmpfs", str(folder), "--remount-ro", str(folder)]
    for device in DEVICES:
        options += ["--dev-bind", str(device), str(device)]
    return [*options, "--remount-ro", "/", "--chdir", SCRATCH]


def _missing_folders(view: FilesystemView) -> list[Path]:
    """Return the parents of all mount points, except those within a mount."""
    mounted = {target for _, target in view.mounts}
    targets = [*mounted, *DEVICES, ACCOUNTS / "x", CODE / "x", LIBRARIES / "x"]
    folders = set(chain.from_iterable(target.parents for target in targets)) - {Path("/")}
    return [folder for folder in sorted(folders) if mounted.isdisjoint((folder, *folder.parents))]
