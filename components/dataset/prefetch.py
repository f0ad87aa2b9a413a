"""Make the batches of the next steps while the trainer is still busy with this one.

Design decision: a batch is a pure function of its step, so running ahead is no more than calling that function early, on
one thread, in the order of the steps. There is no state to save: a resumed run starts the same loop at another step. An
executor holds the thread, the results and the errors; nothing here waits for anything but a result.

Memory is bounded by `ahead` batches, made or in the making, and the one that the consumer holds. Not covered: several
makers at once (a batch fetches its parts concurrently itself, see `block_cache`), and a batch that never comes (a time
limit belongs to whatever it waits for).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Generic, Self, TypeVar

T = TypeVar("T")

PREFETCH_DEPTH = 2
"""Batches that are held ready: one to be taken, and one in the making (assumption)."""


class Prefetcher(Generic[T]):
    """The batches of some steps, in their order: to be iterated over once, in a `with` statement that closes it."""

    def __init__(
        self, make: Callable[[int], T], steps: Iterable[int], *, ahead: int = PREFETCH_DEPTH
    ) -> None:
        """Start at once on the first `ahead` batches.

        Args:
            make: the batch of a step; called on another thread, one call at a time, in the order of `steps`.
            steps: for a resumed run, those that are left; may be endless.
            ahead: how many batches are at most ready or in the making, at least 1.

        Raises:
            ValueError: `ahead` is less than 1.
        """
        if ahead < 1:
            raise ValueError(f"ahead is {ahead}, and less than one batch ahead is not ahead")
        self._make, self._steps, self._ahead = make, iter(steps), ahead
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[T]] = deque()
        self.wait_s = 0.0
        """How long the consumer has waited for batches so far: zero where they were always ready."""
        self._run_ahead()

    def __iter__(self) -> Iterator[T]:
        """Yield each step's batch; closes when the steps are at their end, on an error, and when the consumer stops.

        Raises:
            Exception: whatever `make` raised, at the step that it belongs to: the batches of earlier steps came before.
        """
        try:
            while self._pending:
                yield self._take()
        finally:
            self.close()

    def close(self) -> None:
        """Drop what was made ahead, and wait for the batch that is in the making. May be called again."""
        self._pending.clear()
        self._steps = iter(())
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> T:
        started = monotonic()
        try:
            batch = self._pending.popleft().result()
        finally:
            self.wait_s += monotonic() - started
        self._run_ahead()
        return batch

    def _run_ahead(self) -> None:
        while len(self._pending) < self._ahead and (step := next(self._steps, None)) is not None:
            self._pending.append(self._executor.submit(self._make, step))
