"""Whether a process that somebody noted is still the same one: its number alone may have been given to another since."""

from __future__ import annotations

import psutil

_SAME_START_S = 2.0
"""Two readings of one process's start time differ by less: the clock ticks behind it are corrected now and then."""


def is_running(pid: int, started: float) -> bool:
    """Whether the process of this host that began at `started` (seconds since the epoch) still runs; a zombie does not."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < _SAME_START_S) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
