"""Running ahead: in order, bounded, from any step, and without a thread left behind."""

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
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [one.name for one in threading.enumerate() if one.name.startswith("prefetch")]


def batch(step: int) -> list[int]:
    return [step, step * step]


@given(first=st.integers(0, 10), length=st.integers(0, 12), ahead=st.integers(1, 5))
def test_every_batch_once_in_order_from_any_step_on(first: int, length: int, ahead: int) -> None:
    steps = range(first, first + length)
    with Prefetcher(batch, steps, ahead=ahead) as batches:
        assert list(batches) == [batch(step) for step in steps]
        assert list(batches) == [], "it is iterated over once"


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_it_runs_ahead_by_so_many_and_no_more(ahead: int) -> None:
    """Steps are endless and drawn one by one, so how many were begun is known without a clock."""
    begun: list[int] = []

    def steps() -> Iterator[int]:
        for step in itertools.count(3):
            begun.append(step)
            yield step

    with Prefetcher(batch, steps(), ahead=ahead) as batches:
        assert len(begun) == ahead, "before the first is asked for"
        for num_taken, one in enumerate(itertools.islice(batches, 7), start=1):
            assert one == batch(2 + num_taken)
            assert len(begun) == num_taken + ahead


def test_batches_are_made_while_the_consumer_is_busy() -> None:
    second_made = threading.Event()

    def make(step: int) -> int:
        if step == 2:
            second_made.set()
        return step

    with Prefetcher(make, [1, 2, 3]) as batches:
        taken = iter(batches)
        assert next(taken) == 1
        assert second_made.wait(timeout=60), "nobody has asked for step 2"
        assert list(taken) == [2, 3]


@pytest.mark.parametrize("kind", [OSError, StopIteration])
def test_an_error_comes_at_its_step_and_ends_it(kind: type[Exception]) -> None:
    """A StopIteration would look like the last step; Python turns it into a RuntimeError."""
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        if step == 3:
            raise kind("the shard of step 3")
        return step

    taken = []
    with Prefetcher(make, range(1, 100), ahead=5) as batches:
        with pytest.raises((OSError, RuntimeError)) as failed:
            for one in batches:
                taken.append(one)  # noqa: PERF402  # What came before the error has to be seen.
        assert "the shard of step 3" in str(failed.value.__cause__ or failed.value)
        assert list(batches) == []
    assert taken == [1, 2]
    assert made[:3] == [1, 2, 3]
    assert len(made) <= 7, "what was begun when it failed"


def test_a_consumer_that_stops_early_closes_it() -> None:
    batches = Prefetcher(batch, itertools.count())
    for one in batches:
        if one == [2, 4]:
            break
    assert not [one for one in threading.enumerate() if one.name.startswith("prefetch")]
    batches.close()


def test_an_exception_of_the_consumer_closes_it_before_anything_was_taken() -> None:
    with pytest.raises(KeyError), Prefetcher(batch, itertools.count()):
        raise KeyError("consumer")


def test_what_the_consumer_waited_is_counted_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that stands still but for the 5 s of the first batch, which begins when the consumer has asked for it."""
    asked, now_s = threading.Event(), [0.0]

    def clock() -> float:
        asked.set()
        return now_s[0]

    def make(step: int) -> int:
        asked.wait(timeout=60)
        if step == 1:
            now_s[0] += 5.0
        return step

    monkeypatch.setattr(prefetch, "monotonic", clock)
    with Prefetcher(make, [1, 2, 3]) as batches:
        assert batches.wait_s == 0.0
        for _ in batches:
            assert batches.wait_s == 5.0
            now_s[0] += 100.0  # The consumer's own work.


def test_not_ahead_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="ahead is 0"):
        Prefetcher(batch, [1], ahead=0)
