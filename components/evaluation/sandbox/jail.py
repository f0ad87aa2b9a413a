"""What every kind of jail tells the sandbox about itself, and how it is found out that one can be had here.

One decision: kinds differ in the walls alone. Servers, judge, limits and system-call filter are the same in all of them, so
the sandbox and its tests know only this.
"""

from __future__ import annotations

import subprocess
from typing import Any, Protocol

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.filesystem_view import SCRATCH, View

_START_S = 60
"""Assumption: an interpreter that does nothing has started by then on any machine."""


class Jail(Protocol):
    """What builds the command line of a jail, and says what it is."""

    kind: str
    isolated: bool
    """Whether there are any walls."""
    namespaces: bool
    """Whether every program can be given a pid namespace and an empty folder to write to."""
    as_root: bool
    """Whether its servers make every program another user."""
    environment: dict[str, str]
    landlock_rules: dict[str, Any] | None
    """Where there are no namespaces: the arguments of `jailed.landlock_rules.confine`."""

    @property
    def description(self) -> str:
        """What isolates, as results record it."""

    @property
    def caveat(self) -> str:
        """What programs cannot do here that they can elsewhere; empty where that is nothing."""

    def command(self, start: str) -> list[str]:
        """The command line that runs a line of Python in a jail of its own."""


class Namespaced:
    """What jails that are made of namespaces have in common; verdicts are the same in all of them."""

    kind = "bubblewrap"
    isolated = namespaces = True
    landlock_rules: dict[str, Any] | None = None
    caveat = ""


def require_python_outside(view: View) -> None:
    """Check that Python is not where a jail has its empty folder, which is mounted anew again and again.

    Raises:
        SandboxUnavailable: it is.
    """
    inside = next((target for _, target in view.mounts if target.is_relative_to(SCRATCH)), None)
    if inside is not None:
        raise SandboxUnavailableError(
            f"this Python lies in {inside}, and {SCRATCH} is an empty folder in a jail",
            expected=f"a Python outside of {SCRATCH} (its virtual environment may be there)",
            fix="make the virtual environment with another Python",
        )


def require_start(jail: Jail, *, got: str, expected: str, fix: str) -> None:
    """Start the interpreter in a jail, so that what forbids it is told in the words of who makes the jail.

    Raises:
        SandboxUnavailable: it does not start.
    """
    start = jail.command("pass")
    done = subprocess.run(
        start, env=jail.environment, capture_output=True, text=True, timeout=_START_S, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise SandboxUnavailableError(f"{got}: {said}", expected=expected, fix=fix)
