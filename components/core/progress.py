"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere, with the same
text.

`track` yields a function that counts; `poll_progress` asks for the count about once a second.
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

_LINE_INTERVAL_S = 5.0
"""Between two lines without a terminal."""
_POLL_INTERVAL_S = 1.0
_WINDOW_S = 60.0
"""Rates are those of the last minute: long enough to be steady, short enough to follow a change
(assumption)."""


class Advance(Protocol):
    """Adds to the count; `detail` is shown behind it."""

    def __call__(self, amount: int, detail: str = "", /) -> None: ...


class ProgressSnapshot(NamedTuple):
    """The progress at a moment."""

    done: int
    """Part of the total, in its unit."""
    throughput_count: int
    """The count whose rate is shown: `done`, or a count that grows beside it."""
    detail: str = ""


class ThroughputEstimator:
    """Rate over the last minute, and the remaining time at that rate.

    Rich's own estimate is not used: its rate is that of `done`, and it is empty when a step takes
    longer than its window.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, ProgressSnapshot]] = deque()

    def add(self, now_s: float, snapshot: ProgressSnapshot) -> None:
        """Record a snapshot, at most one per second."""
        samples = self._samples
        if samples and samples[0][1].done == snapshot.done:
            samples.clear()  # The clock starts with the first progress.
        if len(samples) > 1 and now_s - samples[-2][0] < _POLL_INTERVAL_S:
            samples.pop()
        samples.append((now_s, snapshot))
        # Keep a sample with less progress than the newest, or there is no rate.
        while (
            len(samples) > 2
            and now_s - samples[1][0] >= _WINDOW_S
            and samples[1][1].done < snapshot.done
        ):
            samples.popleft()

    @property
    def rate_per_s(self) -> float | None:
        """Growth of `throughput_count` per second; None without any."""
        duration_s, _, count = self._growth()
        return count / duration_s if count > 0 and duration_s > 0 else None

    def eta_s(self, total: int) -> float | None:
        """Seconds until `done` reaches `total`; None without progress."""
        duration_s, done, _ = self._growth()
        return (total - self._samples[-1][1].done) * duration_s / done if done > 0 else None

    def _growth(self) -> tuple[float, int, int]:
        if not self._samples:
            return 0.0, 0, 0
        (start_s, first), (now_s, last) = self._samples[0], self._samples[-1]
        count = last.throughput_count - first.throughput_count
        return now_s - start_s, last.done - first.done, count


@contextmanager
def track(label: str, total: int | None = None, unit: str = "items") -> Iterator[Advance]:
    """Show the progress of the block; the yielded function adds to the count (`unit="bytes"` prints
    sizes)."""
    done = 0

    def advance(amount: int, detail: str = "", /) -> None:
        nonlocal done
        done += amount
        show(ProgressSnapshot(done, done, detail))

    with _display(label, total, unit, "") as show:
        advance(0)
        yield advance


@contextmanager
def poll_progress(
    label: str,
    total: int | None,
    unit: str,
    snapshot: Callable[[], ProgressSnapshot],
    *,
    throughput_of: str = "",
) -> Iterator[None]:
    """Show the progress that `snapshot` returns while the block runs; another thread calls it, and
    it must not raise.

    Args:
        label: name of the work.
        total: None if unknown.
        unit: plural noun; "bytes" are printed as sizes.
        snapshot: returns the current progress.
        throughput_of: name of the count whose rate is shown, if it is not the unit.
    """
    is_finished = threading.Event()

    def poll() -> None:
        while not is_finished.wait(_POLL_INTERVAL_S):
            show(snapshot())

    with _display(label, total, unit, throughput_of) as show:
        show(snapshot())
        # The caller's context, so that lines are logged to the flow run of the caller.
        thread = threading.Thread(
            target=copy_context().run, args=(poll,), name="progress", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            is_finished.set()
            thread.join()
        show(snapshot())


@contextmanager
def _display(
    label: str, total: int | None, unit: str, throughput_of: str
) -> Iterator[Callable[[ProgressSnapshot], None]]:
    console = Console(stderr=True)
    estimator = ThroughputEstimator()

    def describe(snapshot: ProgressSnapshot) -> str:
        estimator.add(time.monotonic(), snapshot)
        return format_progress(snapshot, total, unit, estimator, throughput_of)

    if console.is_terminal:
        # The bar fills the space beside the text; a long text wraps.
        bar = BarColumn(bar_width=None, table_column=Column(min_width=10, ratio=1))
        text = TextColumn("{task.fields[text]}", markup=False, table_column=Column())
        with Progress(
            TextColumn("{task.description}"), bar, text, console=console, expand=True
        ) as progress:
            task = progress.add_task(label, total=total, text="")

            def update_bar(snapshot: ProgressSnapshot) -> None:
                progress.update(task, completed=snapshot.done, text=describe(snapshot))

            yield update_bar
        return
    last_s = time.monotonic()

    def print_line(snapshot: ProgressSnapshot) -> None:
        nonlocal last_s
        text = describe(snapshot)
        if time.monotonic() - last_s >= _LINE_INTERVAL_S:
            last_s = time.monotonic()
            line = f"{label}: {text}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
            logger.info(line)

    yield print_line


def format_progress(
    snapshot: ProgressSnapshot,
    total: int | None,
    unit: str,
    estimator: ThroughputEstimator,
    throughput_of: str = "",
) -> str:
    """Return e.g. `1.2 GB of 9.8 GB, 23.1 MB/s of text, 0:06:12 left, 1,234 documents`, without the
    unknown parts."""
    is_size = unit == "bytes"

    def count(number: int) -> str:
        return decimal(number) if is_size else f"{number:,}"

    text = count(snapshot.done)
    if total is not None:
        text += f" of {count(total)}"
    parts = [text if is_size else f"{text} {unit}"]
    if rate := estimator.rate_per_s:
        speed = f"{rate / 1e6:,.1f} MB/s" if is_size else f"{rate:,.1f} {unit}/s"
        parts.append(f"{speed} of {throughput_of}" if throughput_of else speed)
    if total is not None and (eta_s := estimator.eta_s(total)) is not None:
        parts.append(f"{timedelta(seconds=round(max(0.0, eta_s)))} left")
    if snapshot.detail:
        parts.append(snapshot.detail)
    return ", ".join(parts)
