"""The jail that we make ourselves where bubblewrap is not installed: the same view, the same namespaces.

One decision: what is shown, where, and to whom is decided here and handed over as one line of JSON; `jailed.namespaces_setup`
makes it so. It is a user namespace for root, too: its servers are root in there, and nobody out here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from components.evaluation.sandbox.filesystem_view import DEVICES, SCRATCH, View, command
from components.evaluation.sandbox.jail import Namespaced, require_python_outside, require_start
from components.evaluation.sandbox.jailed.server import SCRATCH_OPTIONS
from components.evaluation.sandbox.uids import FIRST_UID, NUM_UIDS

_NOBODY = 65534


class Namespaces(Namespaced):
    """Builds the command lines of jailed processes.

    Raises:
        SandboxUnavailable: this machine lets this user make no namespaces.
    """

    kind = "namespaces"

    def __init__(self, view: View) -> None:
        require_python_outside(view)
        self.as_root, self.environment, self._interpreter = (
            os.geteuid() == 0,
            view.environment,
            view.interpreter,
        )
        self._plan = json.dumps(_plan(view, as_root=self.as_root))
        require_start(
            self,
            got="namespaces cannot be made here",
            expected="user namespaces and Linux 5.12 or newer",
            fix="allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns, or the container's profile)",
        )

    @property
    def description(self) -> str:
        """What isolates, as results record it."""
        user = ", another user" if self.as_root else ""
        return f"own namespaces (pid, net, ipc, uts, mount, user){user}, a pid namespace for each program, rlimits, seccomp"

    def command(self, start: str) -> list[str]:
        """The command line that runs a line of Python in a jail of its own."""
        enter = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from jailed.namespaces_setup import enter; "
            "enter(sys.argv[1], sys.argv[2:])"
        )
        return [*command(self._interpreter, enter), self._plan, *command(self._interpreter, start)]


def _plan(view: View, *, as_root: bool) -> dict[str, object]:
    users = f"0 0 1\n{FIRST_UID} {FIRST_UID} {NUM_UIDS}\n"
    return {
        "as_root": as_root,
        "uids": users if as_root else f"{_NOBODY} {os.geteuid()} 1\n",
        "gids": users if as_root else f"{_NOBODY} {os.getegid()} 1\n",
        "mounts": [[str(source), str(target)] for source, target in view.mounts],
        "links": [[target, str(place)] for target, place in view.links],
        "emptied": [str(folder) for folder in view.emptied],
        "devices": [str(device) for device in DEVICES],
        "scratch": SCRATCH,
        "scratch_options": SCRATCH_OPTIONS,
    }
