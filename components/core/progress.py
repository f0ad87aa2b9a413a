"""Progress that people can see: a bar on a terminal, a plain line now and then elsewhere.

One function, `track`, so that a component can report without knowing who looks. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0
"""Seconds between two lines where there is no terminal."""


class Advance(Protocol):
    """Adds to the count, and may say what else is worth knowing."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


@contextmanager
def track(label: str, total: int | None = None, unit: str = "items") -> Iterator[Advance]:
    """Show the progress of the block; the yielded function adds to the count (`unit="bytes"` prints sizes)."""
    console = Console(stderr=True)
    if console.is_terminal:
        of_bytes, of_items = (DownloadColumn(), TransferSpeedColumn()), (MofNCompleteColumn(), TextColumn(unit))
        count = of_bytes if unit == "bytes" else of_items
        columns = (TextColumn("{task.description}"), BarColumn(), *count, TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
            task = progress.add_task(label, total=total, note="")

            def advance(amount: int, note: str = "", /) -> None:
                progress.update(task, advance=amount, note=note)

            yield advance
    else:
        yield _lines(label, total, unit)


def _lines(label: str, total: int | None, unit: str) -> Advance:
    done, last = 0, time.monotonic()

    def advance(amount: int, note: str = "", /) -> None:
        nonlocal done, last
        done += amount
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            counted = f"{done:,} of {total:,}" if total else f"{done:,}"
            logger.info("%s: %s %s%s", label, counted, unit, f", {note}" if note else "")

    return advance
