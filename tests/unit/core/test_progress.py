"""Progress: rates and remaining times computed by hand, and the output with and without a
terminal."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from components.core import progress
from components.core.progress import (
    ProgressSnapshot,
    ThroughputEstimator,
    format_progress,
    poll_progress,
    track,
)


def estimator_of(*samples: tuple[float, int, int]) -> ThroughputEstimator:
    """Return an estimator with samples `(seconds, done, throughput_count)`."""
    estimator = ThroughputEstimator()
    for now_s, done, count in samples:
        estimator.add(now_s, ProgressSnapshot(done, count))
    return estimator


def test_the_clock_starts_with_the_first_progress() -> None:
    """Idle until second 10; then 300 of 600 are done and the other count grows by 900 in three
    seconds."""
    estimator = estimator_of((0, 0, 0), (9, 0, 0), (10, 0, 0), (11, 100, 300), (13, 300, 900))
    assert estimator.rate_per_s == 300
    assert estimator.eta_s(600) == 3


def test_the_rate_excludes_work_of_earlier_attempts() -> None:
    estimator = estimator_of((0, 5000, 9000), (10, 5010, 9020))
    assert (estimator.rate_per_s, estimator.eta_s(5020)) == (2, 10)


def test_the_rate_covers_the_last_minute() -> None:
    slow = [(float(second), second, second) for second in range(100)]
    fast = [(100.0 + second, 100 + 10 * second, 100 + 10 * second) for second in range(61)]
    assert estimator_of(*slow).rate_per_s == 1
    assert estimator_of(*slow, *fast).rate_per_s == 10


def test_rare_steps_have_a_rate() -> None:
    """No progress for eight minutes after a step of 100 seconds: the estimate of the next step
    grows."""
    estimator = estimator_of((0, 0, 0), (100, 1, 1), (500, 1, 1))
    assert estimator.eta_s(2) == 500


def test_calls_within_a_second_are_merged() -> None:
    estimator = estimator_of(*((number / 1000, number, number) for number in range(5001)))
    assert len(estimator._samples) < 10
    assert estimator.rate_per_s == pytest.approx(1000, rel=0.01)


def test_unknown_values_are_omitted() -> None:
    assert (
        format_progress(ProgressSnapshot(0, 0), 10, "shards", ThroughputEstimator())
        == "0 of 10 shards"
    )
    assert (
        format_progress(ProgressSnapshot(3, 3, "all well"), None, "items", estimator_of((0, 3, 3)))
        == "3 items, all well"
    )


def test_progress_is_formatted_with_rate_and_eta() -> None:
    estimator = estimator_of((0, 0, 0), (10, 100_000_000, 400_000_000))
    seen = ProgressSnapshot(100_000_000, 400_000_000, "1,234 documents, 5 rejected")
    assert format_progress(seen, 37_000_000_000, "bytes", estimator, "text") == (
        "100.0 MB of 37.0 GB, 40.0 MB/s of text, 1:01:30 left, 1,234 documents, 5 rejected"
    )
    assert (
        format_progress(ProgressSnapshot(4, 4), 10, "shards", estimator_of((0, 0, 0), (2, 4, 4)))
        == "4 of 10 shards, 2.0 shards/s, 0:00:03 left"
    )


def test_a_line_is_printed_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with track("copy", 10) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0)
    with track("copy", 10) as advance:
        advance(4, "so far so good")
    first, last = capsys.readouterr().err.splitlines()
    assert first == "copy: 0 of 10 items"
    assert last.startswith("copy: 4 of 10 items")
    assert last.endswith(", so far so good")


def test_a_terminal_shows_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with track("copy", 10_000_000, "bytes") as advance:
        advance(4_000_000, "1 file [so far]")
    shown = capsys.readouterr().err
    assert "4.0 MB of 10.0 MB" in shown
    assert "1 file [so far]" in shown
    assert "\u2501" in shown


OWNER: ContextVar[str] = ContextVar("owner", default="no owner")


def test_polling_runs_during_the_block_and_once_at_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polling uses the context of the caller, so that its log lines belong to the flow run."""
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0)
    monkeypatch.setattr(progress, "_POLL_INTERVAL_S", 0.001)
    done = 0
    is_polled = threading.Event()

    def snapshot() -> ProgressSnapshot:
        if done == 1 and threading.current_thread() is not threading.main_thread():
            is_polled.set()
        return ProgressSnapshot(done, done, OWNER.get())

    token = OWNER.set("ours")
    with poll_progress("read", 2, "files", snapshot):
        done = 1
        assert is_polled.wait(60)
        done = 2
    OWNER.reset(token)
    lines = capsys.readouterr().err.splitlines()
    assert [lines[0], lines[-1].partition("files")[0]] == [
        "read: 0 of 2 files, ours",
        "read: 2 of 2 ",
    ]
    assert any(line.startswith("read: 1 of 2 files") for line in lines)
    assert all(line.endswith(", ours") for line in lines)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_an_exception_in_the_block_is_raised() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        poll_progress("read", 1, "files", lambda: ProgressSnapshot(0, 0)),
    ):
        raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
