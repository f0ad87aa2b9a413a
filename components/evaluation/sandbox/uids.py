"""Users that nobody has, for programs of root, and whether root can become them.

One decision: two programs that run at the same time are two users, whoever asks for them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.jailed.lockdown import CHANGE_USER

FIRST_UID, NUM_UIDS = 60_578, 606
"""systemd's table of uid ranges: 60578-61183 are nobody's."""
JUDGE_UID = FIRST_UID + NUM_UIDS - 1


def uids_of(worker: int, num_workers: int) -> range:
    """The users of one worker's programs, which it takes in turn; no other worker has one of them."""
    step = min(num_workers, JUDGE_UID - FIRST_UID)
    return range(FIRST_UID + worker % step, JUDGE_UID, step)


def require_other_users() -> None:
    """Check that root can make a program another user; ordinary users need not.

    Raises:
        SandboxUnavailable: it cannot, so programs would be root.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    held = int(found[1], 16) if found else 0
    if os.geteuid() == 0 and not all(held >> number & 1 for number in CHANGE_USER):
        raise SandboxUnavailableError(
            "this is root without the capabilities to change users: programs would be root",
            expected="CAP_SETUID, CAP_SETGID and CAP_KILL, or an ordinary user",
            fix="run it as an ordinary user (docker run --user 1000)",
        )
