"""Exclusive locks between real processes."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.core.locks import exclusive_lock

_HOLDER = """
import sys
from pathlib import Path
from components.core.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "build a checkpoint"):
    print("held", flush=True)
    sys.stdin.read()
"""


def _hold(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


class _LogWaiter(logging.Handler):
    """Stores the last message and sets an event."""

    def __init__(self) -> None:
        super().__init__()
        self.message = ""
        self.is_logged = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()
        self.is_logged.set()


@pytest.fixture
def log_waiter() -> Iterator[_LogWaiter]:
    handler = _LogWaiter()
    logging.getLogger("components.core.locks").addHandler(handler)
    yield handler
    logging.getLogger("components.core.locks").removeHandler(handler)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_process_logs_the_holder_and_enters_when_the_holder_ends(
    tmp_path: Path, log_waiter: _LogWaiter, end: signal.Signals
) -> None:
    lock = tmp_path / "created on demand" / "build.lock"
    entered = threading.Event()

    def second() -> None:
        with exclusive_lock(lock, "build the checkpoint again"):
            entered.set()

    first = _hold(lock)
    try:
        waiting = threading.Thread(target=second, daemon=True)
        waiting.start()
        assert log_waiter.is_logged.wait(30)
        assert log_waiter.message.startswith(
            "build the checkpoint again waits: the lock is held by build a checkpoint (process "
            f"{first.pid}, since "
        )
        assert not entered.is_set()
        first.send_signal(end)
        waiting.join(30)
        assert entered.is_set()
    finally:
        first.kill()
        first.communicate()


def test_a_free_lock_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with exclusive_lock(tmp_path / "build.lock", "build"):
            assert (tmp_path / "build.lock.holder").read_text().startswith("build (process ")
    assert not (tmp_path / "build.lock.holder").exists()
    assert not caplog.records
