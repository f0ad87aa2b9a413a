"""Progress of running tasks, reported through a file for each task in a shared folder.

`ProgressReporter` writes in the task; `ProgressAggregator` sums the files for
`core.progress.poll_progress`. Files work for threads, processes and other machines alike. A
restarted task overwrites its file, and a finished task counts by its result. Reporting never fails
a task: a file that cannot be written, or is half written, is ignored. Limit: if tasks do not share
the folder, progress advances only when a task finishes.
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

_REPORT_INTERVAL_S = 1.0


class TaskCounts(NamedTuple):
    """Processed part of a task, or of several tasks."""

    stored_bytes: int = 0
    """Bytes read, as stored: the unit of the sizes in the listing."""
    documents: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of these documents."""
    rejected: int = 0
    """Rejected documents among these."""

    def plus(self, other: TaskCounts) -> TaskCounts:
        """The sum of both counts."""
        return TaskCounts(*map(sum, zip(self, other, strict=True)))


class ProgressReporter:
    """Writes the progress of a task to its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_report_s = float("-inf")

    def report(self, counts: TaskCounts) -> None:
        """Write the counts, at most once a second."""
        now_s = time.monotonic()
        if now_s - self._last_report_s >= _REPORT_INTERVAL_S:
            self._last_report_s = now_s
            with suppress(OSError):
                self._path.write_text(json.dumps(counts), encoding="utf-8")


class ProgressAggregator:
    """Sums the results of finished tasks and the reports of running tasks."""

    def __init__(self, folder: Path) -> None:
        """`folder`: has a file for each task, by task name. It is created or emptied."""
        self._folder = folder
        self._lock = threading.Lock()
        self._finished = set[str]()
        self._finished_counts = TaskCounts()
        self._reports = dict[str, TaskCounts]()
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                path.unlink()

    def finish(self, name: str, counts: TaskCounts) -> None:
        """Count a task by its result from now on."""
        with self._lock:
            self._finished.add(name)
            self._finished_counts = self._finished_counts.plus(counts)
        with suppress(OSError):
            (self._folder / name).unlink()

    def snapshot(self) -> ProgressSnapshot:
        """Progress of all tasks."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                with suppress(OSError, ValueError, TypeError):
                    counts = json.loads(path.read_text(encoding="utf-8"))
                    self._reports[path.name] = TaskCounts(*counts)
        with self._lock:
            running = [self._reports[name] for name in self._reports.keys() - self._finished]
            total = functools.reduce(TaskCounts.plus, running, self._finished_counts)
        note = f"{total.documents:,} documents, {total.rejected:,} rejected"
        return ProgressSnapshot(total.stored_bytes, total.text_bytes, note)
