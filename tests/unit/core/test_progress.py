"""Progress: speeds and times left that were worked out by hand, and what is seen of them with and without a terminal."""

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


def pace(*noted: tuple[float, int, int]) -> ThroughputEstimator:
    """A pace that was told `(seconds, done, flow)`."""
    made = ThroughputEstimator()
    for now_s, done, flow in noted:
        made.note(now_s, ProgressSnapshot(done, flow))
    return made


def test_the_clock_starts_when_something_moves() -> None:
    """Idle until second 10; then 300 are done and 900 have flowed in three seconds, and 300 are left of 600."""
    made = pace((0, 0, 0), (9, 0, 0), (10, 0, 0), (11, 100, 300), (13, 300, 900))
    assert made.rate_per_s == 300
    assert made.eta_s(600) == 3


def test_what_was_done_before_is_no_part_of_the_speed() -> None:
    made = pace((0, 5000, 9000), (10, 5010, 9020))
    assert (made.rate_per_s, made.eta_s(5020)) == (2, 10)


def test_the_speed_is_that_of_the_last_minute() -> None:
    slow = [(float(second), second, second) for second in range(100)]
    fast = [(100.0 + second, 100 + 10 * second, 100 + 10 * second) for second in range(61)]
    assert pace(*slow).rate_per_s == 1
    assert pace(*slow, *fast).rate_per_s == 10


def test_what_moves_seldom_has_a_speed_all_the_same() -> None:
    """Nothing for eight minutes after one step of 100 seconds: the time left is that of a step, which now takes longer."""
    made = pace((0, 0, 0), (100, 1, 1), (500, 1, 1))
    assert made.eta_s(2) == 500


def test_calls_within_a_second_are_one() -> None:
    made = pace(*((number / 1000, number, number) for number in range(5001)))
    assert len(made._noted) < 10
    assert made.rate_per_s == pytest.approx(1000, rel=0.01)


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert (
        format_progress(ProgressSnapshot(0, 0), 10, "shards", ThroughputEstimator())
        == "0 of 10 shards"
    )
    assert (
        format_progress(ProgressSnapshot(3, 3, "all well"), None, "items", pace((0, 3, 3)))
        == "3 items, all well"
    )


def test_it_is_described_for_people() -> None:
    made = pace((0, 0, 0), (10, 100_000_000, 400_000_000))
    seen = ProgressSnapshot(100_000_000, 400_000_000, "1,234 documents, 5 rejected")
    assert format_progress(seen, 37_000_000_000, "bytes", made, "text") == (
        "100.0 MB of 37.0 GB, 40.0 MB/s of text, 1:01:30 left, 1,234 documents, 5 rejected"
    )
    assert (
        format_progress(ProgressSnapshot(4, 4), 10, "shards", pace((0, 0, 0), (2, 4, 4)))
        == "4 of 10 shards, 2.0 shards/s, 0:00:03 left"
    )


def test_a_line_is_due_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with track("copy", 10) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
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


WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")


def test_a_watcher_looks_while_we_work_and_once_more_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In our context too, or what it logs would belong to no flow run."""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
    monkeypatch.setattr(progress, "_LOOK_EVERY_S", 0.001)
    done, looked = 0, threading.Event()

    def look() -> ProgressSnapshot:
        if done == 1 and threading.current_thread() is not threading.main_thread():
            looked.set()
        return ProgressSnapshot(done, done, WHOSE.get())

    token = WHOSE.set("ours")
    with poll_progress("read", 2, "files", look):
        done = 1
        assert looked.wait(60)
        done = 2
    WHOSE.reset(token)
    lines = capsys.readouterr().err.splitlines()
    assert [lines[0], lines[-1].partition("files")[0]] == [
        "read: 0 of 2 files, ours",
        "read: 2 of 2 ",
    ]
    assert any(line.startswith("read: 1 of 2 files") for line in lines)
    assert all(line.endswith(", ours") for line in lines)
    assert not [one for one in threading.enumerate() if one.name == "progress"]


def test_what_goes_wrong_in_the_block_is_what_is_raised() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        poll_progress("read", 1, "files", lambda: ProgressSnapshot(0, 0)),
    ):
        raise ZeroDivisionError
    assert not [one for one in threading.enumerate() if one.name == "progress"]
