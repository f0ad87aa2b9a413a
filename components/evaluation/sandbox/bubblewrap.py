"""A jail made by bubblewrap: new namespaces, the view and an empty /tmp, gone with the process that asked for it.

One decision: nothing of this machine is taken over by default; whatever is in the jail was named. As an ordinary user the
jail has a user namespace of its own; as root it has none, and what runs a program becomes a user nobody has instead. The
server in it keeps the capabilities to make a pid namespace and a new /tmp for every program; what runs a program has none
(`lockdown`). Limits and the system-call filter are `lockdown`'s, too.
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
    CODE,
    DEVICES,
    LIBRARIES,
    SCRATCH,
    TMPFS_BYTES,
    View,
    command,
)
from components.evaluation.sandbox.jail import Namespaced, require_python_outside, require_start

_NEEDED_VERSION = (0, 7)
"""First with `--size`, without which the jail's /tmp could fill this machine's memory (bubblewrap 0.7.0's release notes)."""

_NAMESPACES = (
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
_NOBODY = "65534"


class Bubblewrap(Namespaced):
    """Builds the command lines of jailed processes.

    Raises:
        SandboxUnavailable: bubblewrap is missing, too old, or may not make namespaces on this machine.
    """

    def __init__(self, view: View) -> None:
        require_python_outside(view)
        self.program, self.version = _find()
        self.view = view
        self.as_root, self.environment = os.geteuid() == 0, view.environment
        self._options = [*_NAMESPACES, *self._user(), *_processes(), *_files(view), "--"]
        require_start(
            self,
            got="bubblewrap cannot make a jail here",
            expected="user namespaces for ordinary users, or root with CAP_SYS_ADMIN",
            fix="allow them (sysctl kernel.unprivileged_userns_clone=1, or the container's profile), then run it again",
        )

    @property
    def description(self) -> str:
        """What isolates, as results record it."""
        user = "another user" if self.as_root else "a user namespace"
        namespaces = "pid, net, ipc, uts, mount namespaces"
        return f"bubblewrap {self.version}: {namespaces} and {user}, a pid namespace for each program, rlimits, seccomp"

    def command(self, start: str) -> list[str]:
        """The command line that runs a line of Python in a jail of its own."""
        return [self.program, *self._options, *command(self.view.interpreter, start)]

    def _user(self) -> list[str]:
        server = (
            ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL")
            if self.as_root
            else ("CAP_SYS_ADMIN",)
        )
        capabilities = [
            "--cap-drop",
            "ALL",
            *chain.from_iterable(("--cap-add", name) for name in server),
        ]
        return (
            capabilities
            if self.as_root
            else ["--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY, *capabilities]
        )


def _find() -> tuple[str, str]:
    program = shutil.which("bwrap")
    remedy = "install the Debian package bubblewrap (sudo apt-get install bubblewrap), then run the same command again"
    expected = f"bubblewrap {'.'.join(map(str, _NEEDED_VERSION))} or newer"
    if program is None:
        raise SandboxUnavailableError(
            "bubblewrap (bwrap) is not on PATH", expected=expected, fix=remedy
        )
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    found = re.search(r"(\d+)\.(\d+)[.\d]*", answer)
    if found is None or (int(found[1]), int(found[2])) < _NEEDED_VERSION:
        raise SandboxUnavailableError(
            f"{program} says it is {answer.strip()!r}", expected=expected, fix=remedy
        )
    return program, found[0]


def _processes() -> list[str]:
    return ["--die-with-parent", "--new-session", "--hostname", "jail"]


def _files(view: View) -> list[str]:
    """Folders before what is mounted in them: bubblewrap makes missing ones unreadable for others.

    The empty /tmp comes first of all: this machine's own may hold the Python that is mounted.
    """
    targets = [*(target for _, target in view.mounts), *DEVICES, CODE / "x", LIBRARIES / "x"]
    folders = sorted(
        {parent for target in targets for parent in target.parents if parent != Path("/")}
    )
    mounted = {target for _, target in view.mounts}
    made = [
        folder
        for folder in folders
        if not any(parent in mounted for parent in (folder, *folder.parents))
    ]
    return [
        *("--perms", "1777", "--size", str(TMPFS_BYTES), "--tmpfs", SCRATCH),
        *chain.from_iterable(("--perms", "0755", "--dir", str(folder)) for folder in made),
        *chain.from_iterable(
            ("--ro-bind", str(source), str(target)) for source, target in view.mounts
        ),
        *chain.from_iterable(("--symlink", target, str(place)) for target, place in view.links),
        *chain.from_iterable(
            ("--tmpfs", str(folder), "--remount-ro", str(folder)) for folder in view.emptied
        ),
        *chain.from_iterable(("--dev-bind", str(device), str(device)) for device in DEVICES),
        *("--remount-ro", "/", "--chdir", SCRATCH),
    ]
