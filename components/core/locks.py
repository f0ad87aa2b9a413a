"""Exclusive locks between the processes of a host.

The kernel holds a lock (flock) exactly as long as its process lives, so no lease has to expire. A
file beside the lock names the holder for people. Network file systems are not supported.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def user_lock_path(name: str) -> Path:
    """Return a path for a lock of this user that holds in every workspace."""
    return Path(tempfile.gettempdir()) / f"codegen-{name}-{os.getuid()}"


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
            holder.write_text(f"{purpose} (process {os.getpid()}, since {since})")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder_message(holder: Path) -> str:
    try:
        return f"the lock is held by {holder.read_text()}"
    except OSError:  # The holder has just started or just finished.
        return "another process holds the lock"
