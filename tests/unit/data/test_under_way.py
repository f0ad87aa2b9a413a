"""What tasks under way tell: counted once, whoever is begun again, and nothing that goes wrong with it stops anyone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.progress import ProgressSnapshot
from components.data import task_progress
from components.data.config import DataExecution
from components.data.engine import run_tasks
from components.data.task_progress import ProgressAggregator, ProgressReporter, TaskCounts


@pytest.fixture(autouse=True)
def _told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_progress, "_TELL_EVERY_S", 0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())]))


def seen(stored: int, documents: int, text: int, rejected: int) -> ProgressSnapshot:
    return ProgressSnapshot(stored, text, f"{documents:,} documents, {rejected:,} rejected")


def test_what_is_done_and_what_is_under_way_add_up(tmp_path: Path) -> None:
    board = ProgressAggregator(tmp_path / "board")
    assert board.snapshot() == seen(0, 0, 0, 0)
    ProgressReporter(tmp_path / "board" / "a").report(TaskCounts(10, 1, 30, 0))
    ProgressReporter(tmp_path / "board" / "b").report(TaskCounts(5, 2_000, 15, 1))
    assert board.snapshot() == seen(15, 2_001, 45, 1)
    board.finish("a", TaskCounts(20, 2, 60, 1))
    assert board.snapshot() == seen(25, 2_002, 75, 2)
    board.finish("c", TaskCounts(1, 1, 1, 1))
    assert board.snapshot() == seen(26, 2_003, 76, 3)


def test_a_task_that_is_begun_again_counts_once(tmp_path: Path) -> None:
    board, place = ProgressAggregator(tmp_path), tmp_path / "a"
    ProgressReporter(place).report(TaskCounts(10, 10, 10, 10))
    assert board.snapshot() == seen(10, 10, 10, 10)
    ProgressReporter(place).report(TaskCounts(1, 1, 1, 1))
    assert board.snapshot() == seen(1, 1, 1, 1)
    board.finish("a", TaskCounts(20, 20, 20, 20))
    ProgressReporter(place).report(
        TaskCounts(7, 7, 7, 7)
    )  # Of an attempt that nobody waits for any more.
    assert board.snapshot() == seen(20, 20, 20, 20)


def test_what_an_earlier_run_left_does_not_count(tmp_path: Path) -> None:
    ProgressReporter(tmp_path / "a").report(TaskCounts(10, 10, 10, 10))
    board = ProgressAggregator(tmp_path)
    assert board.snapshot() == seen(0, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []


@given(cut=st.integers(min_value=0, max_value=len(json.dumps(TaskCounts(1234, 56, 789, 0))) - 1))
def test_a_file_that_is_half_written_is_no_news(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("board")
    board = ProgressAggregator(folder)
    ProgressReporter(folder / "a").report(TaskCounts(1234, 56, 789, 0))
    assert board.snapshot() == seen(1234, 56, 789, 0)
    (folder / "a").write_text((folder / "a").read_text()[:cut])
    assert board.snapshot() == seen(1234, 56, 789, 0)


def test_telling_never_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ProgressReporter(tmp_path / "nowhere" / "a").report(TaskCounts(1, 1, 1, 1))
    board = ProgressAggregator(tmp_path / "file")
    board.finish("a", TaskCounts(1, 1, 1, 1))
    assert board.snapshot() == seen(1, 1, 1, 1)


def test_it_is_said_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_progress, "_TELL_EVERY_S", 3600)
    board, teller = ProgressAggregator(tmp_path), ProgressReporter(tmp_path / "a")
    teller.report(TaskCounts(1, 1, 1, 1))
    teller.report(TaskCounts(2, 2, 2, 2))
    assert board.snapshot() == seen(1, 1, 1, 1)


def tell_and_wait(work: dict[str, str]) -> str:
    """A task that ends when the others have told as well."""
    ProgressReporter(Path(work["folder"]) / work["name"]).report(TaskCounts(1, 1, 1, 0))
    while len([path for path in Path(work["folder"]).iterdir() if path.stat().st_size]) < 2:
        pass  # The test's time limit ends this.
    return work["name"]


def test_tasks_in_other_processes_are_heard(tmp_path: Path) -> None:
    board, work = (
        ProgressAggregator(tmp_path),
        [{"folder": str(tmp_path), "name": name} for name in "ab"],
    )
    heard = [
        (name, board.snapshot())
        for name in run_tasks(tell_and_wait, work, DataExecution(num_workers=2))
    ]
    assert sorted(heard) == [("a", seen(2, 2, 2, 0)), ("b", seen(2, 2, 2, 0))]
