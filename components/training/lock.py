"""One trainer per folder: each rank holds a lock while it may write there.

The operating system drops a lock when its process ends, however it ends, so nothing has to be cleaned up after a kill.
Covers one host; over a network file system nothing is promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from components.core.errors import StageLockedError

WAIT_S = 30.0
"""A trainer that was told to end does so within this time (cancelling takes at most 20 s)."""


@contextmanager
def exclusive_trainer(work: Path, rank: int, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold this rank's lock on a work folder, which is made if it does not exist.

    Raises:
        FolderInUse: another trainer still held it after `wait_s` seconds.
    """
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / f"rank-{rank}.lock")
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise StageLockedError(
            f"another trainer is at work in {work.parent}",
            expected="one at a time",
            fix="wait until it is done, or end it",
        ) from None
    try:
        yield
    finally:
        lock.release()
