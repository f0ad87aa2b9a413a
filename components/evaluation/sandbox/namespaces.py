"""A jail of our own namespaces, for machines without bubblewrap. Shows the same files.

This module decides what is mounted for whom and passes it as a line of JSON;
`jailed.namespaces_setup` builds the jail. Root has a user namespace, too: its servers are root
inside and have no rights outside.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from components.evaluation.sandbox.filesystem_view import (
    ACCOUNTS,
    DEVICES,
    SCRATCH,
    FilesystemView,
    python_command,
)
from components.evaluation.sandbox.jail import (
    UIDS,
    NamespaceJail,
    require_python_outside_scratch,
    require_start,
)
from components.evaluation.sandbox.jailed.server import SCRATCH_OPTIONS

_NOBODY_ID = 65534


class Namespaces(NamespaceJail):
    """Builds the command lines of jailed processes.

    Raises:
        SandboxUnavailableError: this user may not make namespaces on this machine.
    """

    kind = "namespaces"

    def __init__(self, view: FilesystemView) -> None:
        require_python_outside_scratch(view)
        self.as_root = os.geteuid() == 0
        self.environment = view.environment
        self._interpreter = view.interpreter
        self._plan = json.dumps(_plan(view, as_root=self.as_root))
        require_start(
            self,
            got="namespaces cannot be made on this machine",
            expected="user namespaces and Linux 5.12 or newer",
            fix="allow user namespaces (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns, or the container's profile)",
        )

    @property
    def description(self) -> str:
        """The isolation, as stored in results."""
        user = ", another user" if self.as_root else ""
        return (
            f"own namespaces (pid, net, ipc, uts, mount, user){user}, "
            "a pid namespace for each program, rlimits, seccomp"
        )

    def command(self, start: str) -> list[str]:
        """Return the command line that runs a line of Python in a new jail."""
        enter = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            "from jailed.namespaces_setup import enter; enter(sys.argv[1], sys.argv[2:])"
        )
        outside = python_command(self._interpreter, enter)
        return [*outside, self._plan, *python_command(self._interpreter, start)]


def _plan(view: FilesystemView, *, as_root: bool) -> dict[str, object]:
    root_map = f"0 0 1\n{UIDS.start} {UIDS.start} {len(UIDS)}\n"
    return {
        "as_root": as_root,
        "uids": root_map if as_root else f"{_NOBODY_ID} {os.geteuid()} 1\n",
        "gids": root_map if as_root else f"{_NOBODY_ID} {os.getegid()} 1\n",
        "mounts": [[str(source), str(target)] for source, target in view.mounts],
        "links": [[target, str(link)] for target, link in view.links],
        "hidden": [str(folder) for folder in view.hidden],
        "devices": [str(device) for device in DEVICES],
        "accounts": str(ACCOUNTS),
        "scratch": SCRATCH,
        "scratch_options": SCRATCH_OPTIONS,
    }
