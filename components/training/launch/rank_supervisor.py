"""A small process above every rank, which says how its rank ended, and ends it when another one has failed.

A rank that is killed cannot say so, and one that waits for it in a collective may wait for minutes (NCCL). So the rank is
forked off before anything large is imported, its parent stays behind, and two rules hold under every launcher: a death by a
signal is reported with the rank's number, and once any rank has reported a failure, every other one is gone `GRACE_S` later.
If the guard itself is killed, the rank reports that and ends. Not covered: a host that vanishes whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from components.core.errors import TrainingError
from components.training.launch.failure import report_failure, was_reported

GRACE_S = 5.0
"""For a rank to end by itself after another's failure (assumption: enough for its traceback)."""
_POLL_S = 0.2


def run_supervised(
    work: Path, rank: int, job: Callable[[], int], *, end_with_stdin: bool
) -> NoReturn:
    """Run `job` in a process of its own, and exit with 0 where it returned 0, else with 1.

    Args:
        work: the stage's work folder, for reports.
        end_with_stdin: take the end of standard input as an order to end at once, and a byte as SIGTERM.
    """
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        threading.Thread(target=_end_with_guard, args=(alive, work, rank), daemon=True).start()
        sys.exit(job())
    os.close(alive)

    def pass_on(number: int, _: FrameType | None) -> None:
        _send(child, signal.Signals(number))

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends it to the rank as well.
    if end_with_stdin:
        threading.Thread(target=_obey_stdin, args=(child,), daemon=True).start()
    status = _status(child, work)
    if status < 0:
        report_failure(work, rank, _killed(rank, signal.Signals(-status)))
    sys.exit(int(status != 0))


def _status(child: int, work: Path) -> int:
    """The rank's exit status, or less than 0 for a signal."""
    deadline = float("inf")
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if deadline == float("inf") and was_reported(work):
            deadline = time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            _send(child, signal.SIGKILL)
        time.sleep(_POLL_S)


def _killed(rank: int, by: signal.Signals) -> TrainingError:
    memory = (
        "; the system does so for want of memory: if it did, use a smaller micro_batch"
        if by == signal.SIGKILL
        else ""
    )
    return TrainingError(
        f"rank {rank} on host {socket.gethostname()} was ended by {by.name}",
        expected="every rank to reach the last step",
        fix=f"run the same command again, it goes on from the last checkpoint{memory}",
    )


def _end_with_guard(alive: int, work: Path, rank: int) -> None:
    os.read(alive, 1)  # Nothing is ever written; it returns when the guard is gone.
    report_failure(work, rank, _killed(rank, signal.SIGKILL))
    os._exit(1)  # From a thread, while others wait in a collective: nothing less ends the process.


def _obey_stdin(child: int) -> None:
    while os.read(0, 1):
        _send(child, signal.SIGTERM)
    _send(child, signal.SIGKILL)
    os._exit(1)


def _send(child: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
