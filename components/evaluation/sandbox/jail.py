"""The interface of all jails, checks that they share, and the user ids of programs.

Jails differ in their isolation only: servers, test runners and limits are equal in all of them. The
system-call filters depend on `namespaces` alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
from pathlib import Path
from typing import Any, Protocol

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.filesystem_view import SCRATCH, FilesystemView
from components.evaluation.sandbox.jailed.lockdown import USER_CAPABILITIES

_START_TIMEOUT_S = 60
"""Assumption: an idle interpreter starts within this time on any machine."""
UIDS = range(60_578, 61_184)
"""Unassigned users (systemd's table of uid ranges). Programs started by root run as these users."""


class Jail(Protocol):
    """Builds the command line of a jail and describes its isolation."""

    kind: str
    isolated: bool
    """Whether the jail isolates at all."""
    namespaces: bool
    """Whether every program gets a pid namespace and an empty folder that it can write to."""
    as_root: bool
    """Whether servers run every program as another user."""
    environment: dict[str, str]
    landlock_rules: dict[str, Any] | None
    """Arguments of `jailed.landlock_rules.restrict_files` if there are no namespaces."""

    @property
    def description(self) -> str:
        """The isolation, as stored in results."""

    @property
    def restriction(self) -> str:
        """Calls that only this kind of jail refuses; empty if there are none."""

    def command(self, start: str) -> list[str]:
        """Return the command line that runs a line of Python in a new jail."""


class NamespaceJail:
    """Common attributes of jails that use namespaces; their verdicts are equal."""

    kind = "bubblewrap"
    isolated = namespaces = True
    landlock_rules: dict[str, Any] | None = None
    restriction = ""


class ReservedUsers(contextlib.AbstractContextManager["ReservedUsers"]):
    """Two users that no other jail of this machine has: of programs and of test runners.

    The kernel counts the threads of a user over all jails. An abstract socket address reserves the
    users; the kernel frees it when this process ends, however it ends. Containers with networks of
    their own do not see each other's addresses, so the search begins at a random user.

    Raises:
        SandboxUnavailableError: all users are reserved.
    """

    def __init__(self, uids: range = UIDS) -> None:
        first_uids = uids[::2]
        start = secrets.randbelow(len(first_uids))
        self._address = socket.socket(socket.AF_UNIX)
        for uid in (*first_uids[start:], *first_uids[:start]):
            with contextlib.suppress(OSError):
                self._address.bind(f"\0codegen-sandbox-user-{uid}")
                self.uids = (uid, uid + 1)
                return
        self._address.close()
        raise SandboxUnavailableError(
            f"other jails of root use all users from {uids.start} to {uids.stop - 1}",
            expected=f"at most {len(first_uids)} jails of root at once",
            fix="set --exec evaluation_workers=1, or wait until other evaluations end",
        )

    def __exit__(self, *_: object) -> None:
        self._address.close()


def require_user_change() -> None:
    """Check that root can run programs as another user; ordinary users need no such right.

    Raises:
        SandboxUnavailableError: root lacks the capabilities, so programs would run as root.
    """
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    can_change_user = all(effective >> capability & 1 for capability in USER_CAPABILITIES)
    if os.geteuid() == 0 and not can_change_user:
        raise SandboxUnavailableError(
            "root lacks the capabilities to change users: programs would be root",
            expected="CAP_SETUID, CAP_SETGID and CAP_KILL, or an ordinary user",
            fix="run as an ordinary user (docker run --user 1000)",
        )


def require_python_outside_scratch(view: FilesystemView) -> None:
    """Check that Python is not installed in the folder that jails replace by an empty folder.

    Raises:
        SandboxUnavailableError: it is.
    """
    inside = next((target for _, target in view.mounts if target.is_relative_to(SCRATCH)), None)
    if inside is not None:
        raise SandboxUnavailableError(
            f"this Python is installed in {inside}, and {SCRATCH} is an empty folder in a jail",
            expected=f"a Python outside of {SCRATCH} (the virtual environment may be there)",
            fix="create the virtual environment with another Python",
        )


def require_start(jail: Jail, *, got: str, expected: str, fix: str) -> None:
    """Check that the interpreter starts in a jail.

    Raises:
        SandboxUnavailableError: it does not start; with the arguments as the message.
    """
    process = subprocess.run(
        jail.command("pass"),
        env=jail.environment,
        capture_output=True,
        text=True,
        timeout=_START_TIMEOUT_S,
        check=False,
    )
    if process.returncode != 0:
        message = process.stderr.strip() or f"exit status {process.returncode}"
        raise SandboxUnavailableError(f"{got}: {message}", expected=expected, fix=fix)
