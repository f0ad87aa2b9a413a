"""Progress that people can see: a bar on a terminal, a plain line now and then elsewhere.

One function, `track`, so that a component can report without knowing who looks. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0
"""Seconds between two lines where there is no terminal."""

Advance = Callable[[int], None]


@contextmanager
def track(label: str, total: int | None = None, unit: str = "items") -> Iterator[Advance]:
    """Show the progress of the block; the yielded function adds to the count (`unit="bytes"` prints sizes)."""
    console = Console(stderr=True)
    if console.is_terminal:
        count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda amount: progress.advance(task, amount)
    else:
        yield _lines(label, total, unit)


def _lines(label: str, total: int | None, unit: str) -> Advance:
    done, last = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            logger.info("%s: %s%s %s", label, f"{done:,}", f" of {total:,}" if total else "", unit)

    return advance
