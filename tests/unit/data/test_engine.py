"""The engine: every task once, errors as they were raised, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.core.errors import DataError, RecordError
from components.data.config import DataPlace
from components.data.engine import run_tasks

ONE, TWO = DataPlace(num_workers=1), DataPlace(num_workers=2)


@pytest.fixture(autouse=True)
def _workers_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())]))


def square(number: int) -> list[int]:
    return [number * number, os.getpid()]


def fail(kind: str) -> None:
    if kind == "ours":
        raise RecordError("bad", expected="good", do="mend it")
    if kind == "bug":
        raise ZeroDivisionError("of a bug")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    signal.pause()


@pytest.mark.parametrize(
    ("place", "in_threads"), [(ONE, False), (TWO, True), (TWO, False)], ids=["here", "threads", "apart"]
)
def test_every_task_is_run_once(place: DataPlace, in_threads: bool) -> None:
    results = list(run_tasks(square, list(range(20)), place, in_threads=in_threads))
    assert sorted(value for value, _ in results) == [number * number for number in range(20)]
    is_here = place is ONE or in_threads
    assert ({pid for _, pid in results} == {os.getpid()}) == is_here


def test_no_work_starts_nothing() -> None:
    assert list(run_tasks(square, [], TWO)) == []


@pytest.mark.parametrize("place", [ONE, TWO], ids=["here", "apart"])
def test_an_error_of_ours_arrives_as_it_was_raised(place: DataPlace) -> None:
    with pytest.raises(RecordError, match="bad") as error:
        list(run_tasks(fail, ["fine", "ours", "fine"], place))
    assert (error.value.expected, error.value.do) == ("good", "mend it")


def test_a_bug_is_told_with_its_last_lines() -> None:
    with pytest.raises(DataError, match="ZeroDivisionError: of a bug"):
        list(run_tasks(fail, ["bug", "fine"], TWO))


def test_a_worker_that_is_killed_is_an_error() -> None:
    with pytest.raises(DataError, match="a task of data preparation failed"):
        list(run_tasks(fail, ["killed", "fine"], TWO))


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = f"from test_engine import *\nlist(run_tasks(wait_for_ever, [{str(tmp_path)!r}] * 2, TWO))\n"
    owner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(workers := [int(one.name) for one in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
    owner.kill()
    owner.wait()
    while any(map(psutil.pid_exists, workers)):
        assert time.monotonic() < deadline


def test_daft_does_not_call_home() -> None:
    from daft.scarf_telemetry import opted_out

    assert opted_out()
