"""Loads the batches of the next steps while the trainer computes the current step.

A batch is a pure function of its step, so prefetching calls that function early, on a thread, in
step order. There is no state to save: a resumed run starts at another step. Memory holds at most
`depth` batches besides the batch that the consumer uses. There is no timeout for a batch that never
arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Generic, Self, TypeVar

T = TypeVar("T")

PREFETCH_DEPTH = 2
"""Batches ahead of the consumer: a ready batch, and a batch being loaded (assumption)."""


class Prefetcher(Generic[T]):
    """Iterates over the batches of some steps, in order, once; a context manager that closes it."""

    def __init__(
        self, load_batch: Callable[[int], T], steps: Iterable[int], *, depth: int = PREFETCH_DEPTH
    ) -> None:
        """Start loading the first `depth` batches.

        Args:
            load_batch: returns the batch of a step; called on another thread, never concurrently.
            steps: the remaining steps; may be endless.
            depth: maximum number of batches ready or being loaded, at least 1.

        Raises:
            ValueError: `depth` is less than 1.
        """
        if depth < 1:
            raise ValueError(f"depth is {depth}, expected at least 1")
        self._load_batch = load_batch
        self._steps = iter(steps)
        self._depth = depth
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[T]] = deque()
        self.wait_s = 0.0
        """Seconds that the consumer has waited for batches."""
        self._submit()

    def __iter__(self) -> Iterator[T]:
        """Yield the batches; close after the last step, on an error, and when the consumer stops.

        Raises:
            Exception: the error of `load_batch`, after the batches of all earlier steps.
        """
        try:
            while self._pending:
                yield self._next()
        finally:
            self.close()

    def close(self) -> None:
        """Drop prefetched batches and wait for the running load. Idempotent."""
        self._pending.clear()
        self._steps = iter(())
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> T:
        started = monotonic()
        try:
            batch = self._pending.popleft().result()
        finally:
            self.wait_s += monotonic() - started
        self._submit()
        return batch

    def _submit(self) -> None:
        while len(self._pending) < self._depth and (step := next(self._steps, None)) is not None:
            self._pending.append(self._executor.submit(self._load_batch, step))
