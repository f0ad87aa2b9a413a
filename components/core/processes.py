"""Process identity, fast exit, and the watchdog that kills the descendants of a process that died.

Parents stop their children themselves, but SIGKILL gives them no time to. The watchdog is a small
process that waits for the death of its parent, then kills every process that carries the parent's
mark in its environment; all descendants inherit it. Descendants that were started with another
environment are not covered; sandboxes end with their parent.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `codegen --help` needs `skip_final_gc` only.
    import psutil

_MARK_VARIABLE = "CODEGEN_RUN_OF"
"""Environment variable with the pid and the start time of the process at the root of a run."""
_POLL_INTERVAL_S = 0.5
"""Assumption: a server that outlives its parent by half a second does no harm."""
_GRACE_S = 5.0
"""From SIGTERM to SIGKILL; as long as Prefect gives its own server."""
_KILL_TIMEOUT_S = 2.0
"""For the kernel to end killed processes (assumption)."""
_START_TIME_TOLERANCE_S = 2.0
"""Two readings of the start time of a process differ by less, because the kernel adjusts its
clock."""

_watchdog: subprocess.Popen[bytes] | None = None


def is_running(pid: int, started: float) -> bool:
    """Return whether the process of this host that started at `started` (seconds since the epoch)
    runs; a zombie does not."""
    import psutil

    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started) < _START_TIME_TOLERANCE_S
        return bool(is_same) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def skip_final_gc() -> None:
    """Let this process exit without a last garbage collection, which takes 6 s with Prefect, MLflow
    and PyTorch loaded."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def exit_with_parent() -> None:
    """Let this process of `multiprocessing` exit when its parent ends, also if it was killed."""
    import multiprocessing.connection
    import threading

    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def wait() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def reap_children_on_exit() -> None:
    """Start a watchdog that kills all descendants when this process dies, even on SIGKILL.
    Idempotent."""
    import psutil

    mark = f"{os.getpid()}-{psutil.Process().create_time()}"
    if os.environ.get(_MARK_VARIABLE) == mark:
        return
    os.environ[_MARK_VARIABLE] = mark
    global _watchdog  # noqa: PLW0603 - one watchdog per process
    _watchdog = subprocess.Popen(
        [sys.executable, "-m", "components.core.processes", str(os.getpid()), mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Signals of the terminal are for the parent.
    )


def kill_marked_processes(mark: str) -> None:
    """End every process that carries the mark, except this one: SIGTERM, then SIGKILL after a grace
    period."""
    _end_processes(marked_processes(mark), _GRACE_S)


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that carry the mark, without this one."""
    import psutil

    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _mark_of(process) == mark
    ]


def stop_children(grace_s: float) -> None:
    """End all descendants of this process except the watchdog: SIGTERM, then SIGKILL after
    `grace_s`."""
    import psutil

    children = psutil.Process().children(recursive=True)
    watchdog_pid = _watchdog.pid if _watchdog else None
    _end_processes([child for child in children if child.pid != watchdog_pid], grace_s)


def _end_processes(processes: list[psutil.Process], grace_s: float) -> None:
    import psutil

    for process in processes:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_KILL_TIMEOUT_S)


def _mark_of(process: psutil.Process) -> str | None:
    import psutil

    try:
        mark: str | None = process.environ().get(_MARK_VARIABLE)
        return mark
    except (psutil.Error, OSError):  # The process belongs to another user or is gone.
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    import psutil

    try:
        process.send_signal(number)
    except psutil.Error:
        return


def _watch(parent: int, mark: str) -> None:
    # A parent that ends its children must not end the watchdog first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(_POLL_INTERVAL_S)
    kill_marked_processes(mark)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
