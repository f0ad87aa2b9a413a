"""One at a time on a host, in real processes."""

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
with exclusive_lock(Path(sys.argv[1]), "making a checkpoint"):
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


class _Told(logging.Handler):
    """Notes what is said, and that something was."""

    def __init__(self) -> None:
        super().__init__()
        self.said, self.was_told = "", threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()
        self.was_told.set()


@pytest.fixture
def told() -> Iterator[_Told]:
    handler = _Told()
    logging.getLogger("components.core.locks").addHandler(handler)
    yield handler
    logging.getLogger("components.core.locks").removeHandler(handler)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_second_waits_says_for_whom_and_goes_on_as_soon_as_the_first_is_gone(
    tmp_path: Path, told: _Told, end: signal.Signals
) -> None:
    lock, entered = tmp_path / "made on demand" / "one.lock", threading.Event()

    def second() -> None:
        with exclusive_lock(lock, "making it again"):
            entered.set()

    first = _hold(lock)
    try:
        waiting = threading.Thread(target=second, daemon=True)
        waiting.start()
        assert told.was_told.wait(30)
        assert told.said.startswith(
            f"making it again waits: at work is making a checkpoint (process {first.pid}, since "
        )
        assert not entered.is_set()
        first.send_signal(end)
        waiting.join(30)
        assert entered.is_set()
    finally:
        first.kill()
        first.communicate()


def test_nobody_is_told_to_wait_where_nobody_holds_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with exclusive_lock(tmp_path / "one.lock", "making it"):
            assert (tmp_path / "one.lock.holder").read_text().startswith("making it (process ")
    assert not (tmp_path / "one.lock.holder").exists()
    assert not caplog.records
