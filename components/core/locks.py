"""Exclusive and shared locks between the processes of a host.

The kernel holds a lock (flock) exactly as long as its process lives, so no lease has to expire. A
file beside the lock names the holder for people. A network file system must support flock, as NFS
with its lock service does.

Locks that hold in every workspace are in a folder that only this user can change. In a shared
folder, such as the temporary folder, another user could put a symbolic link at the path of a lock,
and this process would then write to the target of the link. For the same reason no file of a lock
is opened through a symbolic link.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from components.core.paths import create_private_folder

logger = logging.getLogger(__name__)

_FILE_MODE = 0o600
_MAX_HOLDER_CHARS = 1000
"""More than any holder writes (assumption)."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""


def user_lock_path(name: str) -> Path:
    """Return the path for a lock of this user that holds in every workspace on this host.

    Its folder is created in `$XDG_STATE_HOME`, by default `~/.local/state`. It contains the name of
    the host, because hosts may share a home folder. A folder in `$XDG_RUNTIME_DIR` would be removed
    when the user logs out, while runs continue.

    Args:
        name: a file name; other characters are replaced.

    Raises:
        ConfigError: the folder cannot be created, or others can change it.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    root = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    folder = root / "codegen" / f"locks-{_file_name(socket.gethostname())}"
    create_private_folder(
        folder,
        "locks",
        "remove it, or set XDG_STATE_HOME to a folder that only this user can change",
    )
    return folder / f"{_file_name(name)}.lock"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)


@contextmanager
def exclusive_lock(path: Path, purpose: str, timeout_s: float | None = None) -> Iterator[None]:
    """Hold a lock during the block; wait, and log who holds it, while another process has it.

    Args:
        path: the lock file; it is created with its folder if it does not exist.
        purpose: for the log, e.g. "build checkpoint/codegen-nl-1234".
        timeout_s: maximum time to wait; None: no limit.

    Raises:
        TimeoutError: another process still holds the lock after `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.name}.holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s waits: %s", purpose, _holder_message(holder))
        lock.acquire(timeout=-1 if timeout_s is None else timeout_s)
    try:
        with suppress(OSError):  # The lock holds without the note, for example on a full disk.
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            with open(holder, "w", encoding="utf-8", opener=_open_no_link) as file:
                file.write(f"{purpose} (process {os.getpid()}, since {since})")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def shared_lock(path: Path, purpose: str) -> Iterator[None]:
    """Hold a lock during the block together with other processes that share it; wait, and log who
    holds it, while a process has it exclusively (`exclusive_lock`).

    Without locks of the file system, warn once and continue.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # NFS shares a lock only through a descriptor that can read.
    with open(path, "a+", encoding="utf-8", opener=_open_no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.with_name(f"{path.name}.holder")
            logger.warning("%s waits: %s", purpose, _holder_message(holder))
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn_without_lock(path, error.strerror)
        yield


@cache
def _warn_without_lock(path: Path, reason: str) -> None:
    logger.warning("%s is not locked, because its file system has no locks: %s", path, reason)


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock. A process that asks for it meanwhile waits shortly."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but neither through a symbolic link nor a pipe that nobody reads."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, _FILE_MODE)


def _holder_message(holder: Path) -> str:
    try:
        with open(holder, encoding="utf-8", errors="replace", opener=_open_no_link) as file:
            return f"the lock is held by {file.read(_MAX_HOLDER_CHARS)}"
    except OSError:  # The holder has just started or just finished.
        return "another process holds the lock"
