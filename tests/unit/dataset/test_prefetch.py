"""Prefetching keeps order and bound, starts at any step, and leaves no thread behind."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dataset import prefetch
from components.dataset.prefetch import Prefetcher


@pytest.fixture(autouse=True)
def _check_threads() -> Iterator[None]:
    yield
    assert not prefetch_threads()


def prefetch_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("prefetch")]


def batch(step: int) -> list[int]:
    return [step, step * step]


@given(first=st.integers(0, 10), length=st.integers(0, 12), depth=st.integers(1, 5))
def test_every_batch_comes_once_and_in_order(first: int, length: int, depth: int) -> None:
    steps = range(first, first + length)
    with Prefetcher(batch, steps, depth=depth) as batches:
        assert list(batches) == [batch(step) for step in steps]
        assert list(batches) == [], "it can be iterated once"


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_it_loads_exactly_depth_batches_ahead(depth: int) -> None:
    """The iterator of steps records how many were requested, without a clock."""
    requested: list[int] = []

    def steps() -> Iterator[int]:
        for step in itertools.count(3):
            requested.append(step)
            yield step

    with Prefetcher(batch, steps(), depth=depth) as batches:
        assert len(requested) == depth, "before the first batch is taken"
        for num_taken, taken in enumerate(itertools.islice(batches, 7), start=1):
            assert taken == batch(2 + num_taken)
            assert len(requested) == num_taken + depth


def test_batches_are_loaded_while_the_consumer_is_busy() -> None:
    second_loaded = threading.Event()

    def load(step: int) -> int:
        if step == 2:
            second_loaded.set()
        return step

    with Prefetcher(load, [1, 2, 3]) as batches:
        iterator = iter(batches)
        assert next(iterator) == 1
        assert second_loaded.wait(timeout=60), "step 2 is loaded before it is taken"
        assert list(iterator) == [2, 3]


@pytest.mark.parametrize("kind", [OSError, StopIteration])
def test_an_error_is_raised_at_its_step_and_closes_it(kind: type[Exception]) -> None:
    """A StopIteration would look like the last step; Python turns it into a RuntimeError."""
    loaded: list[int] = []

    def load(step: int) -> int:
        loaded.append(step)
        if step == 3:
            raise kind("the shard of step 3")
        return step

    taken = []
    with Prefetcher(load, range(1, 100), depth=5) as batches:
        with pytest.raises((OSError, RuntimeError)) as failed:
            for value in batches:
                taken.append(value)  # noqa: PERF402 - keeps the batches before the error
        assert "the shard of step 3" in str(failed.value.__cause__ or failed.value)
        assert list(batches) == []
    assert taken == [1, 2]
    assert loaded[:3] == [1, 2, 3]
    assert len(loaded) <= 7, "the loads submitted before the error"


def test_a_consumer_that_stops_early_closes_it() -> None:
    batches = Prefetcher(batch, itertools.count())
    for value in batches:
        if value == [2, 4]:
            break
    assert not prefetch_threads()
    batches.close()


def test_an_exception_of_the_consumer_closes_it() -> None:
    with pytest.raises(KeyError), Prefetcher(batch, itertools.count()):
        raise KeyError("consumer")


def test_only_the_waiting_time_of_the_consumer_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock advances by 5 s in the first load, which starts when the consumer waits for it."""
    is_waiting = threading.Event()
    now_s = [0.0]

    def clock() -> float:
        is_waiting.set()
        return now_s[0]

    def load(step: int) -> int:
        is_waiting.wait(timeout=60)
        if step == 1:
            now_s[0] += 5.0
        return step

    monkeypatch.setattr(prefetch, "monotonic", clock)
    with Prefetcher(load, [1, 2, 3]) as batches:
        assert batches.wait_s == 0.0
        for _ in batches:
            assert batches.wait_s == 5.0
            now_s[0] += 100.0  # The consumer's own work.


def test_a_depth_of_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match="depth is 0"):
        Prefetcher(batch, [1], depth=0)
