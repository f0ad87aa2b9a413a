"""The engine: tasks, errors, killed processes and clusters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from fixtures.engine_tasks import (
    SETTING,
    fail,
    named,
    read_setting,
    square,
    wait_beside_a_task,
    wait_or_be_killed,
)

from components.core.errors import ConfigError, DataError, RecordError
from components.core.network import free_port
from components.data.config import DataExecution
from components.data.engine import WorkUnit, run_tasks

ONE_WORKER, TWO_WORKERS = DataExecution(num_workers=1), DataExecution(num_workers=2)


def wait_until_ended(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(60)


@pytest.mark.parametrize(
    ("execution", "in_threads"),
    [(ONE_WORKER, False), (TWO_WORKERS, True), (TWO_WORKERS, False)],
    ids=["inline", "threads", "processes"],
)
def test_each_task_runs_once(execution: DataExecution, in_threads: bool) -> None:
    results = list(run_tasks(square, named(range(20)), execution, in_threads=in_threads))
    assert sorted(value for value, _ in results) == [number * number for number in range(20)]
    pids = {pid for _, pid in results}
    in_this_process = execution is ONE_WORKER or in_threads
    assert (pids == {os.getpid()}) == in_this_process
    assert len(pids) <= execution.num_workers


def test_empty_work_starts_no_process() -> None:
    assert list(run_tasks(square, [], TWO_WORKERS)) == []


@pytest.mark.parametrize("execution", [ONE_WORKER, TWO_WORKERS], ids=["inline", "processes"])
def test_codegen_error_of_a_task_is_raised_unchanged(execution: DataExecution) -> None:
    with pytest.raises(RecordError, match="quarantined") as error:
        list(run_tasks(fail, named(["fine", "codegen", "fine"]), execution))
    assert (error.value.expected, error.value.fix) == ("good", "fix it")


@pytest.mark.parametrize(
    ("kind", "last_line"),
    [("bug", "ZeroDivisionError: of a bug"), ("unpicklable", "UnpicklableError: 1 and 2")],
)
def test_other_exception_names_the_task_and_has_its_last_lines(kind: str, last_line: str) -> None:
    with pytest.raises(DataError) as error:
        list(run_tasks(fail, named(["fine", kind]), TWO_WORKERS))
    assert "the task unit 1 failed" in error.value.got
    assert error.value.got.endswith(last_line)


@pytest.mark.parametrize("kind", ["killed", "exits"])
def test_death_of_a_worker_names_its_task(kind: str) -> None:
    with pytest.raises(DataError) as error:
        list(run_tasks(fail, named(["fine"] * 5 + [kind] + ["fine"] * 5), TWO_WORKERS))
    assert "the process of the task unit 5 was killed or crashed" in error.value.got
    assert "data.memory_mib" in error.value.fix


def test_death_of_an_idle_worker_names_the_task_that_it_could_not_start() -> None:
    """The first result is taken after its worker was killed."""
    results = run_tasks(square, named(range(20)), TWO_WORKERS)
    _, pid = next(results)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"the process of the task unit \d+ was killed"):
        list(results)


def test_death_of_a_worker_ends_the_other_workers(tmp_path: Path) -> None:
    units = named([["wait", str(tmp_path)], ["killed", str(tmp_path)]])
    with pytest.raises(DataError, match="unit 1 was killed"):
        list(run_tasks(wait_or_be_killed, units, TWO_WORKERS))
    (waiting,) = tmp_path.iterdir()
    wait_until_ended([int(waiting.name)])


def test_caller_that_stops_early_ends_running_tasks(tmp_path: Path) -> None:
    units: list[WorkUnit] = [("waits", ["wait", str(tmp_path)]), ("other", [str(tmp_path)])]
    results = run_tasks(wait_beside_a_task, units, TWO_WORKERS)
    assert next(results) == "done"
    results.close()
    (waiting,) = tmp_path.iterdir()
    wait_until_ended([int(waiting.name)])


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGKILL, False), (signal.SIGTERM, True), (signal.SIGINT, True)],
)
def test_workers_end_with_their_owner(
    number: signal.Signals, whole_group: bool, tmp_path: Path
) -> None:
    code = f"""
from fixtures.engine_tasks import *
from components.data.config import DataExecution
from components.data.engine import run_tasks
list(run_tasks(wait_forever, named([{str(tmp_path)!r}] * 2), DataExecution(num_workers=2)))
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    deadline = time.monotonic() + 60
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    descendants = [process.pid for process in psutil.Process(owner.pid).children(recursive=True)]
    assert set(workers) < set(descendants)
    (os.killpg if whole_group else os.kill)(owner.pid, number)
    _, error = owner.communicate(timeout=60)
    assert owner.returncode == -number
    assert "DataError" not in error
    assert error.count("KeyboardInterrupt") == int(number == signal.SIGINT), error
    wait_until_ended(descendants)


def test_workers_have_the_current_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv(SETTING, value)
        assert list(run_tasks(read_setting, named([1, 2]), TWO_WORKERS)) == [value, value]
    monkeypatch.delenv(SETTING)
    assert list(run_tasks(read_setting, named([1, 2]), TWO_WORKERS)) == [None, None]


def test_ray_is_imported_only_by_its_engine() -> None:
    code = "import components.data.engine, sys; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_cluster_raises_an_error_immediately() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        ConfigError, match=rf"no Ray cluster can be used at {address}: .*refused"
    ) as error:
        list(run_tasks(square, named([1]), DataExecution(engine="ray", ray_address=address)))
    assert "a running cluster" in error.value.expected
    assert "ray start --head" in error.value.fix


@pytest.mark.parametrize("address", ["127.0.0.1", "no such host", "127.0.0.1:port"])
def test_invalid_cluster_address_raises_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Ray cluster can be used at {address}: "):
        list(run_tasks(square, named([1]), DataExecution(engine="ray", ray_address=address)))
