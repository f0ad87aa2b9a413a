"""One at a time on a host: what must not be done twice at once waits, and says for whom.

Design decision: the lock is the kernel's (flock), so it is held exactly as long as its process lives, however it ends: a
lease whose expiry nobody has to guess, renew or clean up. Who holds it stands in a file beside it, for people only. Covers
one host; over a network file system nothing is promised.
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
    """Where the locks of a user lie, whichever workspace is worked in: a path that begins with what they are about."""
    return Path(tempfile.gettempdir()) / f"codegen-{name}-{os.getuid()}"


@contextmanager
def exclusive_lock(lock: Path, doing: str, timeout_s: float | None = None) -> Iterator[None]:
    """Hold a lock while the block runs; if another process holds it, log that and wait.

    Args:
        lock: its file, which is made if need be, as is its folder.
        doing: what for, e.g. "build checkpoint/codegen-nl-1234".
        timeout_s: maximum time to wait; None: no limit.

    Raises:
        TimeoutError: another process still holds the lock after `timeout_s`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    holder = lock.with_name(f"{lock.name}.holder")
    turn = FileLock(lock)
    try:
        turn.acquire(timeout=0)
    except Timeout:
        logger.warning("%s waits: %s", doing, _holder_message(holder))
        turn.acquire(timeout=-1 if timeout_s is None else timeout_s)
    try:
        with suppress(OSError):  # A full disk, say: the lock holds without it.
            holder.write_text(
                f"{doing} (process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)"
            )
        yield
    finally:
        holder.unlink(missing_ok=True)
        turn.release()


def _holder_message(holder: Path) -> str:
    try:
        return f"at work is {holder.read_text()}"
    except OSError:  # Just begun, or just done.
        return "another process is at work"
