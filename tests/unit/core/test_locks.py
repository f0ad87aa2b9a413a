"""Exclusive and shared locks between real processes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from components.core.errors import ConfigError
from components.core.locks import exclusive_lock, is_locked, shared_lock, user_lock_path

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


# -- other users ----------------------------------------------------------------------------------

OTHER_USER = 65534
"""`nobody` of Linux."""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as another user")


def test_user_locks_are_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    umask = os.umask(0)
    try:
        lock = user_lock_path("../training/x")
    finally:
        os.umask(umask)
    assert lock.parent.parent == tmp_path / "codegen"
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700
    assert user_lock_path("../training/x") == lock
    assert user_lock_path("data") != lock


def test_without_a_setting_user_locks_are_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for setting in ("", "relative/folder"):
        monkeypatch.setenv("XDG_STATE_HOME", setting)
        folder = user_lock_path("training").parent
        assert folder.is_relative_to(tmp_path / ".local" / "state" / "codegen")


def _make_link(folder: Path) -> None:
    target = folder.with_name("target")
    target.mkdir(0o700)
    folder.rmdir()
    folder.symlink_to(target)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: folder.chmod(0o777), "is open to other users"),
        (lambda folder: folder.chmod(0o750), "is open to other users"),
        (_make_link, "is not a folder"),
        (lambda folder: folder.rmdir() or folder.touch(), "is not a folder"),
        pytest.param(
            lambda folder: os.chown(folder, OTHER_USER, OTHER_USER),
            "belongs to user 65534",
            marks=only_root,
        ),
    ],
)
def test_a_lock_folder_that_others_control_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    damage(user_lock_path("training").parent)
    with pytest.raises(ConfigError, match=message) as error:
        user_lock_path("training")
    assert "XDG_STATE_HOME" in error.value.fix


@only_root
@pytest.mark.parametrize("suffix", ["", ".holder"])
def test_a_link_of_another_user_in_a_shared_folder_is_not_followed(
    tmp_path_factory: pytest.TempPathFactory, suffix: str
) -> None:
    """The folder has no sticky bit, in which the kernel itself may refuse such links."""
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name)
        shared.chmod(0o777)
        victim = tmp_path_factory.mktemp("private") / "victim"
        victim.write_text("unchanged")
        lock = shared / "x.lock"
        command = ["ln", "-s", str(victim), f"{lock}{suffix}"]
        subprocess.run(command, user=OTHER_USER, group=OTHER_USER, check=True)
        with suppress(OSError), exclusive_lock(lock, "build"):
            assert suffix == ".holder", "the lock itself is not taken through a link"
        assert victim.read_text() == "unchanged"


def test_a_pipe_in_place_of_the_note_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.lock.holder")
    with exclusive_lock(tmp_path / "x.lock", "build"):
        assert (tmp_path / "x.lock").exists()


def test_a_lock_can_be_observed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_locked(path)
    assert not path.exists()
    with exclusive_lock(path, "train"):
        assert is_locked(path)
    assert not is_locked(path)
    with exclusive_lock(path, "train", timeout_s=0):
        assert is_locked(path)


# -- shared locks ---------------------------------------------------------------------------------


def test_a_shared_lock_works_where_flock_locks_byte_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a descriptor must be able to read for a shared lock."""
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    path = tmp_path / "folder" / "x.lock"
    for _ in range(2):
        with shared_lock(path, "train"), shared_lock(path, "evaluate"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_shared_lock_waits_for_an_exclusive_lock(tmp_path: Path, log_waiter: _LogWaiter) -> None:
    path = tmp_path / "x.lock"
    entered = threading.Event()

    def share() -> None:
        with shared_lock(path, "train"):
            entered.set()

    holder = _hold(path)
    try:
        waiting = threading.Thread(target=share, daemon=True)
        waiting.start()
        assert log_waiter.is_logged.wait(30)
        assert log_waiter.message.startswith("train waits: the lock is held by build a checkpoint")
        assert not entered.is_set()
        holder.kill()
        waiting.join(30)
        assert entered.is_set()
    finally:
        holder.kill()
        holder.communicate()


def test_a_shared_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "x.lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"), shared_lock(tmp_path / "x.lock", "train"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_single_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def refuse(_file: object, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    num_entered = 0
    for _ in range(2):
        with shared_lock(tmp_path / "x.lock", "train"):
            num_entered += 1
    assert num_entered == 2
    assert caplog.text.count("its file system has no locks") == 1


def test_another_error_of_a_shared_lock_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: object, _operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with (
        pytest.raises(OSError, match=os.strerror(errno.EIO)),
        shared_lock(tmp_path / "x.lock", "train"),
    ):
        pass
