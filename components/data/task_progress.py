"""How far tasks have come that are still under way, wherever they run: each tells it in a small file that all machines see.

Design decision: a file each, written over about once a second, in the work folder that tasks share anyway. So it is the same
for a loop in this process, for other processes and for other machines; a task that is begun again writes over what its first
attempt told, and a task that is done counts by its result and by nothing else. Telling never fails a task: a file that
cannot be written, or is read half-written, is only a look without news. What is not covered: a work folder that the tasks
do not share; then the count moves when a task is done.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from components.core.progress import ProgressSnapshot

_TELL_EVERY_S = 1.0


class TaskCounts(NamedTuple):
    """What was done of a partition, or of several."""

    stored_bytes: int = 0
    """Read, as they are stored: of the sizes in the listing."""
    documents: int = 0
    text_bytes: int = 0
    """Of those documents, UTF-8."""
    rejected: int = 0
    """Of those documents."""

    def plus(self, other: TaskCounts) -> TaskCounts:
        """Both together."""
        return TaskCounts(*map(sum, zip(self, other, strict=True)))


class ProgressReporter:
    """A task's side: says how far it has come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told_s = float("-inf")

    def report(self, counts: TaskCounts) -> None:
        """Say it, at most once a second."""
        now_s = time.monotonic()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            with suppress(OSError):
                self._path.write_text(json.dumps(counts), encoding="utf-8")


class ProgressAggregator:
    """The side of the one who waits: adds up what tasks returned and what those under way have told."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where tasks tell, each in a file of its own name; it is made, or emptied."""
        self._folder, self._lock = folder, threading.Lock()
        self._done, self._is_done, self._told = TaskCounts(), set[str](), dict[str, TaskCounts]()
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                path.unlink()

    def finish(self, name: str, counts: TaskCounts) -> None:
        """Count a task by its result from now on."""
        with self._lock:
            self._is_done.add(name)
            self._done = self._done.plus(counts)
        with suppress(OSError):
            (self._folder / name).unlink()

    def snapshot(self) -> ProgressSnapshot:
        """How far all of it has come; for `components.core.progress.poll_progress`."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                with suppress(OSError, ValueError, TypeError):
                    self._told[path.name] = TaskCounts(
                        *json.loads(path.read_text(encoding="utf-8"))
                    )
        with self._lock:
            under_way = (counts for name, counts in self._told.items() if name not in self._is_done)
            seen = functools.reduce(TaskCounts.plus, under_way, self._done)
        return ProgressSnapshot(
            seen.stored_bytes,
            seen.text_bytes,
            f"{seen.documents:,} documents, {seen.rejected:,} rejected",
        )
