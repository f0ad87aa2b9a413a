"""Nothing outlives a run: a watcher ends what a killed process has left behind.

Prefect's temporary server, the servers of `codegen ui` and every worker are ended by their parent, but `kill -9` leaves the
parent no time to. Design decision: one small process waits for the parent's death and then ends whatever carries the mark
that the parent put into its environment, which every descendant inherits however it was started. Nothing else is touched.
Not covered: descendants that were given another environment; jails end with their parent by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

_MARK = "CODEGEN_RUN_OF"
"""Environment variable that says to whose run a process belongs: pid and start time, which no two processes share."""
_POLL_S = 0.5
"""Between two looks at the parent; assumption: a server that lives half a second too long harms nobody."""
_GRACE_S = 5.0
"""From SIGTERM to SIGKILL; as long as Prefect gives its own server."""


def reap_children_on_exit() -> None:
    """From now on all descendants of this process end soon after it, however it ends. Twice is as good as once."""
    mark = f"{os.getpid()}-{psutil.Process().create_time()}"
    if os.environ.get(_MARK) == mark:
        return
    os.environ[_MARK] = mark
    subprocess.Popen(
        [sys.executable, "-m", "components.core.processes", str(os.getpid()), mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Signals of the terminal are for the parent.
    )


def kill_marked_processes(mark: str) -> None:
    """End every process that carries a mark, except this one: politely, then not."""
    marked = [
        one for one in psutil.process_iter() if one.pid != os.getpid() and _mark_of(one) == mark
    ]
    for one in marked:
        _send(one, signal.SIGTERM)
    _, alive = psutil.wait_procs(marked, timeout=_GRACE_S)
    for one in alive:
        _send(one, signal.SIGKILL)


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return str(process.environ().get(_MARK))
    except (psutil.Error, OSError):  # Another user's, or gone meanwhile.
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return


def _watch(parent: int, mark: str) -> None:
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # A parent that ends its children should not end this one first.
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    kill_marked_processes(mark)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
