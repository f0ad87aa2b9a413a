"""Heartbeats: the last step and the phase of each rank, and its stack if the stage stalls.

Each rank overwrites a small file in the work folder of the stage when its phase changes. A rank
that is blocked in a collective cannot answer the launcher, but faulthandler can write its stack,
and its supervisor (`rank_process`) can read the state of its process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, get_args

import psutil

from components.core.config import Config
from components.core.errors import CodegenError
from components.core.files import parse_json

Phase = Literal[
    "starting",
    "loading the model",
    "joining the other ranks",
    "loading a checkpoint",
    "reading a batch",
    "computing the loss",
    "updating the weights",
    "evaluating",
    "saving a checkpoint",
    "writing the result",
]
PHASES: tuple[Phase, ...] = get_args(Phase)
STEP_PHASES: tuple[Phase, ...] = ("reading a batch", "computing the loss", "updating the weights")
"""The phases of every step, whose time is compared with the median step."""

_STACK_REQUEST = "stack-request"
_RECORD_BYTES = 512
"""Longer than any heartbeat: a host name has at most 253 characters."""


class Heartbeat(Config):
    """The position of a rank."""

    rank: int
    host: str
    pid: int
    step: int = 0
    """Steps that the rank has finished in the stage."""
    resumed_step: int | None = None
    """The step that this attempt resumed after; None while the rank starts."""
    phase: Phase = "starting"

    @property
    def is_stepping(self) -> bool:
        """Whether the rank is in a step, but not in the first of this attempt, which compiles."""
        has_stepped = self.resumed_step is not None and self.step > self.resumed_step
        return has_stepped and self.phase in STEP_PHASES

    @property
    def position(self) -> tuple[int, int]:
        """The order of positions: a rank that others wait for has the lowest."""
        return self.step, PHASES.index(self.phase)


class HeartbeatWriter:
    """Writes the heartbeat of this rank, and its stack on SIGUSR1."""

    def __init__(self, work: Path, rank: int) -> None:
        """Create the files, and report the phase `starting`."""
        work.mkdir(exist_ok=True)
        self._rank = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid()}
        self._step = 0
        self._resumed_step: int | None = None
        self._file = _heartbeat_path(work, rank).open("wb", buffering=0)
        self._stack_file = _stack_path(work, rank).open("w")
        faulthandler.register(signal.SIGUSR1, file=self._stack_file, all_threads=True)
        self.report("starting")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.unregister(signal.SIGUSR1)
        self._stack_file.close()
        self._file.close()

    def report(self, phase: Phase, step: int | None = None) -> None:
        """Report a phase, and the number of finished steps if it has changed.

        The first number is that of the checkpoint.
        """
        if step is not None:
            self._step = step
            if self._resumed_step is None:
                self._resumed_step = step
        position = {"step": self._step, "resumed_step": self._resumed_step, "phase": phase}
        record = json.dumps({**self._rank, **position}).encode().ljust(_RECORD_BYTES)
        os.pwrite(self._file.fileno(), record, 0)


def read_heartbeats(work: Path, world_size: int) -> dict[int, Heartbeat]:
    """Return the heartbeats of the ranks that have started, by rank."""
    beats = {}
    for rank in range(world_size):
        # A file that was just created is empty.
        with suppress(OSError, ValueError, CodegenError):
            beats[rank] = Heartbeat.parse(parse_json(_heartbeat_path(work, rank).read_bytes()))
    return beats


def clear_heartbeats(work: Path) -> None:
    """Remove the files of an earlier attempt."""
    for path in (*work.glob("rank-*.heartbeat"), *work.glob("rank-*.stack")):
        path.unlink(missing_ok=True)
    clear_stack_request(work)


def clear_stack_request(work: Path) -> None:
    """Withdraw the request for stacks, and remove the process states that answered it."""
    for path in (*work.glob("rank-*.state"), work / _STACK_REQUEST):
        path.unlink(missing_ok=True)


def request_stacks(work: Path) -> None:
    """Ask the supervisor of every rank for the stack and the process state of its rank."""
    with suppress(OSError):
        (work / _STACK_REQUEST).touch()


def has_stack_request(work: Path) -> bool:
    """Whether the launcher asks for stacks."""
    return (work / _STACK_REQUEST).exists()


def answer_stack_request(work: Path, rank: int, pid: int) -> None:
    """Write the state of a rank's process, then make the rank write its stack."""
    with suppress(OSError, psutil.Error):
        state = psutil.Process(pid).status()
        if _stack_path(work, rank).exists():  # Otherwise SIGUSR1 would kill the rank.
            os.kill(pid, signal.SIGUSR1)
        _state_path(work, rank).write_text(state, encoding="utf-8")


def read_process_state(work: Path, rank: int) -> str | None:
    """Return the state of a rank's process as psutil names it; None without an answer."""
    try:
        return _state_path(work, rank).read_text(encoding="utf-8") or None
    except OSError:
        return None


def read_stack(work: Path, rank: int) -> str:
    """Return the stack that a rank has written; empty if it has not."""
    try:
        return _stack_path(work, rank).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _heartbeat_path(work: Path, rank: int) -> Path:
    return work / f"rank-{rank}.heartbeat"


def _stack_path(work: Path, rank: int) -> Path:
    return work / f"rank-{rank}.stack"


def _state_path(work: Path, rank: int) -> Path:
    return work / f"rank-{rank}.state"
