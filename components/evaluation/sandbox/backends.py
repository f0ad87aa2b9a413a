"""Selects the isolation of this machine: the best available jail, or the requested kind.

A kind that is unavailable is skipped. A jail that is available but fails its self-test is an error:
no other kind is tried.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox.bubblewrap import Bubblewrap
from components.evaluation.sandbox.filesystem_view import (
    ENVIRONMENT,
    FilesystemView,
    interpreter_view,
    python_command,
)
from components.evaluation.sandbox.jail import Jail, require_user_change
from components.evaluation.sandbox.landlock import Landlock
from components.evaluation.sandbox.namespaces import Namespaces

_JAILS: dict[SandboxKind, Callable[[FilesystemView], Jail]] = {
    "bubblewrap": Bubblewrap,
    "namespaces": Namespaces,
    "landlock": Landlock,
}
"""The best first."""


def find_jail(kind: SandboxKind | None = None) -> Jail:
    """Return the best jail of this machine, or a jail of `kind`.

    Raises:
        SandboxUnavailableError: there is none; names for every kind what is missing and how to get
            it.
    """
    require_user_change()
    view = interpreter_view()
    errors: list[tuple[SandboxKind, SandboxUnavailableError]] = []
    for name in _JAILS if kind is None else [kind]:
        try:
            return _JAILS[name](view)
        except SandboxUnavailableError as error:
            errors.append((name, error))
    if kind is not None:
        raise errors[0][1]
    raise SandboxUnavailableError(
        "; ".join(f"{name}: {error.got}" for name, error in errors),
        expected="; or ".join(error.expected for _, error in errors),
        fix="; or ".join(error.fix for _, error in errors),
    )


class NoIsolation:
    """Starts servers as ordinary processes, for `--unsafe-execution` if no sandbox is available.

    Limits hold, and the system-call filter if libseccomp is installed. Programs run as the user of
    the evaluation and see all files of this user. Their home and their temporary files are in a
    folder that is removed when this process ends. Results are marked and such a model is not
    promoted.
    """

    kind = "none"
    isolated = namespaces = as_root = False
    landlock_rules: dict[str, Any] | None = None
    description = "none (unsafe execution)"
    restriction = ""

    def __init__(self) -> None:
        code = Path(__file__).parent
        home = tempfile.mkdtemp(prefix="codegen-programs-")
        weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
        packages = f"{sysconfig.get_path('platlib')}:{sysconfig.get_path('purelib')}"
        self.environment = ENVIRONMENT | {
            "PYTHONPATH": f"{code}:{packages}",
            "HOME": home,
            "TMPDIR": home,
        }

    def command(self, start: str) -> list[str]:
        """Return the command line that runs a line of Python."""
        return python_command(Path(sys.executable), start)
