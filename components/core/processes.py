"""Whether a process that somebody noted is still the same one (numbers are given again), and how this one ends at once."""

from __future__ import annotations

import atexit
import gc

_SAME_START_S = 2.0
"""Two readings of one process's start time differ by less: the clock ticks behind it are corrected now and then."""


def is_running(pid: int, started: float) -> bool:
    """Whether the process of this host that began at `started` (seconds since the epoch) still runs; a zombie does not."""
    import psutil  # `codegen --help` needs the other half of this module only.

    try:
        process = psutil.Process(pid)
        return (
            bool(abs(process.create_time() - started) < _SAME_START_S)
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def skip_final_gc() -> None:
    """Let this process end without a last collection of garbage: six seconds with Prefect, MLflow and PyTorch loaded."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
