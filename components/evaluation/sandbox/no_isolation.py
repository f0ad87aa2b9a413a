"""No jail: for those who ask for it on a machine where none can be had, and take what comes of it.

One decision: it is the same servers, judge and limits, and the system-call filter where libseccomp is there; what is
missing are the walls. Programs run as the user who started the evaluation, see all files that this user sees, and leave
theirs in the folder for temporary files. Every result says so, and a model measured so is not promoted.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.filesystem_view import ENVIRONMENT, command
from components.evaluation.sandbox.system_calls import seccomp_programs


class NoIsolation:
    """Starts servers as ordinary processes."""

    kind = "none"
    isolated = namespaces = as_root = False
    landlock_rules: dict[str, Any] | None = None
    description, caveat = "none (unsafe execution)", ""

    def __init__(self) -> None:
        here = Path(__file__).parent
        self.environment = ENVIRONMENT | {
            "PYTHONPATH": f"{here}:{sysconfig.get_path('platlib')}:{sysconfig.get_path('purelib')}",
            "HOME": tempfile.gettempdir(),
        }

    def command(self, start: str) -> list[str]:
        """The command line that runs a line of Python."""
        return command(Path(sys.executable), start)


def filters_if_any() -> dict[str, str]:
    """The system-call filters, or none where they cannot be built."""
    try:
        return seccomp_programs()
    except SandboxUnavailableError:
        return {}
