"""Progress of running tasks: each task counts once, and a failed report has no effect."""

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
from components.data.engine import WorkUnit, run_tasks
from components.data.task_progress import ProgressAggregator, ProgressReporter, TaskCounts


@pytest.fixture(autouse=True)
def _report_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_progress, "_REPORT_INTERVAL_S", 0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())]))


def snapshot_of(stored: int, documents: int, text: int, rejected: int) -> ProgressSnapshot:
    return ProgressSnapshot(stored, text, f"{documents:,} documents, {rejected:,} rejected")


def test_finished_and_running_tasks_are_summed(tmp_path: Path) -> None:
    aggregator = ProgressAggregator(tmp_path / "aggregator")
    assert aggregator.snapshot() == snapshot_of(0, 0, 0, 0)
    ProgressReporter(tmp_path / "aggregator" / "a").report(TaskCounts(10, 1, 30, 0))
    ProgressReporter(tmp_path / "aggregator" / "b").report(TaskCounts(5, 2_000, 15, 1))
    assert aggregator.snapshot() == snapshot_of(15, 2_001, 45, 1)
    aggregator.finish("a", TaskCounts(20, 2, 60, 1))
    assert aggregator.snapshot() == snapshot_of(25, 2_002, 75, 2)
    aggregator.finish("c", TaskCounts(1, 1, 1, 1))
    assert aggregator.snapshot() == snapshot_of(26, 2_003, 76, 3)


def test_restarted_task_counts_once(tmp_path: Path) -> None:
    aggregator = ProgressAggregator(tmp_path)
    path = tmp_path / "a"
    ProgressReporter(path).report(TaskCounts(10, 10, 10, 10))
    assert aggregator.snapshot() == snapshot_of(10, 10, 10, 10)
    ProgressReporter(path).report(TaskCounts(1, 1, 1, 1))
    assert aggregator.snapshot() == snapshot_of(1, 1, 1, 1)
    aggregator.finish("a", TaskCounts(20, 20, 20, 20))
    ProgressReporter(path).report(TaskCounts(7, 7, 7, 7))  # From an abandoned attempt.
    assert aggregator.snapshot() == snapshot_of(20, 20, 20, 20)


def test_reports_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    ProgressReporter(tmp_path / "a").report(TaskCounts(10, 10, 10, 10))
    aggregator = ProgressAggregator(tmp_path)
    assert aggregator.snapshot() == snapshot_of(0, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []


@given(cut=st.integers(min_value=0, max_value=len(json.dumps(TaskCounts(1234, 56, 789, 0))) - 1))
def test_incomplete_report_is_ignored(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("aggregator")
    aggregator = ProgressAggregator(folder)
    ProgressReporter(folder / "a").report(TaskCounts(1234, 56, 789, 0))
    assert aggregator.snapshot() == snapshot_of(1234, 56, 789, 0)
    (folder / "a").write_text((folder / "a").read_text()[:cut])
    assert aggregator.snapshot() == snapshot_of(1234, 56, 789, 0)


def test_reporting_never_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ProgressReporter(tmp_path / "nowhere" / "a").report(TaskCounts(1, 1, 1, 1))
    aggregator = ProgressAggregator(tmp_path / "file")
    aggregator.finish("a", TaskCounts(1, 1, 1, 1))
    assert aggregator.snapshot() == snapshot_of(1, 1, 1, 1)


def test_reports_are_rate_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_progress, "_REPORT_INTERVAL_S", 3600)
    aggregator = ProgressAggregator(tmp_path)
    reporter = ProgressReporter(tmp_path / "a")
    reporter.report(TaskCounts(1, 1, 1, 1))
    reporter.report(TaskCounts(2, 2, 2, 2))
    assert aggregator.snapshot() == snapshot_of(1, 1, 1, 1)


def report_and_wait(work: dict[str, str]) -> str:
    """A task that ends after the other task has reported too."""
    ProgressReporter(Path(work["folder"]) / work["name"]).report(TaskCounts(1, 1, 1, 0))
    while len([path for path in Path(work["folder"]).iterdir() if path.stat().st_size]) < 2:
        pass  # Until the timeout of the test.
    return work["name"]


def test_reports_of_other_processes_are_counted(tmp_path: Path) -> None:
    aggregator = ProgressAggregator(tmp_path)
    work: list[WorkUnit] = [(name, {"folder": str(tmp_path), "name": name}) for name in "ab"]
    snapshots = [
        (name, aggregator.snapshot())
        for name in run_tasks(report_and_wait, work, DataExecution(num_workers=2))
    ]
    assert sorted(snapshots) == [("a", snapshot_of(2, 2, 2, 0)), ("b", snapshot_of(2, 2, 2, 0))]
