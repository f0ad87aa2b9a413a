"""Progress that people can see: a bar on a terminal, a plain line now and then elsewhere, the same words in both.

`track` is told by the one who works; `watch` asks about once a second, for work that others do. Nothing here decides
anything. What is not covered: how a task elsewhere makes itself heard (`components.data.task_progress`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0
"""Seconds between two lines where there is no terminal."""
_LOOK_EVERY_S = 1.0
_WINDOW_S = 60.0
"""The speed is that of the last minute: long enough to be steady, short enough to follow a change (assumption)."""


class Advance(Protocol):
    """Adds to the count, and may say what else is worth knowing."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


class ProgressSnapshot(NamedTuple):
    """How far something has come."""

    done: int
    """Of the total, in its unit."""
    flow: int
    """What the speed is of: `done` again, or something that grows beside it."""
    note: str = ""


class ThroughputEstimator:
    """The speed of the last minute, and how long the rest takes at that speed."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, ProgressSnapshot]] = deque()

    def note(self, now_s: float, seen: ProgressSnapshot) -> None:
        """Remember what was seen at a moment, at most once a second."""
        noted = self._noted
        if (
            noted and noted[0][1].done == seen.done
        ):  # Nothing has moved yet: the clock starts when something does.
            noted.clear()
        if len(noted) > 1 and now_s - noted[-2][0] < _LOOK_EVERY_S:
            noted.pop()
        noted.append((now_s, seen))
        # Something has to have changed since the oldest, or there is no speed.
        while len(noted) > 2 and now_s - noted[1][0] >= _WINDOW_S and noted[1][1].done < seen.done:
            noted.popleft()

    @property
    def rate_per_s(self) -> float | None:
        """How much flows in a second; None as long as nothing does."""
        took_s, _, flowed = self._grown()
        return flowed / took_s if flowed > 0 and took_s > 0 else None

    def eta_s(self, total: int) -> float | None:
        """Seconds until `total`; None as long as nothing moves."""
        took_s, done, _ = self._grown()
        return (total - self._noted[-1][1].done) * took_s / done if done > 0 else None

    def _grown(self) -> tuple[float, int, int]:
        if not self._noted:
            return 0.0, 0, 0
        (start_s, first), (now_s, last) = self._noted[0], self._noted[-1]
        return now_s - start_s, last.done - first.done, last.flow - first.flow


@contextmanager
def track(label: str, total: int | None = None, unit: str = "items") -> Iterator[Advance]:
    """Show the progress of the block; the yielded function adds to the count (`unit="bytes"` prints sizes)."""
    done = 0

    def advance(amount: int, note: str = "", /) -> None:
        nonlocal done
        done += amount
        show(ProgressSnapshot(done, done, note))

    with _shown(label, total, unit, "") as show:
        advance(0)
        yield advance


@contextmanager
def poll_progress(
    label: str,
    total: int | None,
    unit: str,
    look: Callable[[], ProgressSnapshot],
    *,
    flow: str = "",
) -> Iterator[None]:
    """Show what `look` sees while the block runs; it is called by another thread and must not raise.

    Args:
        label: what is being done.
        total: how much there is to do; None where nobody knows.
        unit: of what, in the plural; "bytes" are printed as sizes.
        look: sees how far it has come.
        flow: the name of what the speed is of, where it is not of what is done.
    """
    ended = threading.Event()

    def keep_looking() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            show(look())

    with _shown(label, total, unit, flow) as show:
        show(look())
        # In our context, so that lines are logged to the run that we belong to.
        looking = threading.Thread(
            target=copy_context().run, args=(keep_looking,), name="progress", daemon=True
        )
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()
        show(look())


@contextmanager
def _shown(
    label: str, total: int | None, unit: str, flow: str
) -> Iterator[Callable[[ProgressSnapshot], None]]:
    console, pace = Console(stderr=True), ThroughputEstimator()
    if console.is_terminal:
        # The bar takes the room that the words leave; where they leave none, they wrap.
        room = BarColumn(bar_width=None, table_column=Column(min_width=10, ratio=1))
        words_of = TextColumn("{task.fields[words]}", markup=False, table_column=Column())
        with Progress(
            TextColumn("{task.description}"), room, words_of, console=console, expand=True
        ) as progress:
            task = progress.add_task(label, total=total, words="")

            def bar(seen: ProgressSnapshot) -> None:
                pace.note(time.monotonic(), seen)
                progress.update(
                    task, completed=seen.done, words=format_progress(seen, total, unit, pace, flow)
                )

            yield bar
        return
    last_s = time.monotonic()

    def line(seen: ProgressSnapshot) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        pace.note(now_s, seen)
        if now_s - last_s >= _LINE_EVERY_S:
            last_s = now_s
            words = f"{label}: {format_progress(seen, total, unit, pace, flow)}"
            console.print(words, soft_wrap=True, markup=False, highlight=False)
            logger.info(words)

    yield line


def format_progress(
    seen: ProgressSnapshot, total: int | None, unit: str, pace: ThroughputEstimator, flow: str = ""
) -> str:
    """`1.2 GB of 9.8 GB, 23.1 MB/s of text, 0:06:12 left, 1,234 documents`: what is known of it."""
    in_bytes = unit == "bytes"
    counts = [
        decimal(number) if in_bytes else f"{number:,}"
        for number in (seen.done, total)
        if number is not None
    ]
    words = [" of ".join(counts) + ("" if in_bytes else f" {unit}")]
    if speed := pace.rate_per_s:
        words.append(
            (f"{speed / 1e6:,.1f} MB/s" if in_bytes else f"{speed:,.1f} {unit}/s")
            + (flow and f" of {flow}")
        )
    if total is not None and (eta_s := pace.eta_s(total)) is not None:
        words.append(f"{timedelta(seconds=round(max(0.0, eta_s)))} left")
    return ", ".join([*words, *filter(None, [seen.note])])
