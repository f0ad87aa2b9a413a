"""The engine: tasks, errors, killed processes and clusters."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.core.errors import ConfigError, DataError, RecordError
from components.core.network import free_port
from components.data.config import DataExecution
from components.data.engine import run_tasks

COUNT_LIMIT = 10_000_000
"""Counting this far takes longer than detecting a killed process."""
ONE_WORKER, TWO_WORKERS = DataExecution(num_workers=1), DataExecution(num_workers=2)


@pytest.fixture(autouse=True)
def _workers_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())]))


def square(number: int) -> list[int]:
    return [number * number, os.getpid()]


def fail(kind: str) -> None:
    if kind == "codegen":
        raise RecordError("quarantined", expected="good", fix="fix it")
    if kind == "bug":
        raise ZeroDivisionError("of a bug")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def wait_forever(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    signal.pause()


def count(folder: str) -> None:
    (Path(folder) / "started").touch()
    (Path(folder) / "counted").write_text(str(sum(1 for _ in range(COUNT_LIMIT))))


def count_or_be_killed(work: list[str]) -> None:
    if work[0] == "count":
        count(work[1])
    while not (Path(work[1]) / "started").exists():
        pass
    if work[0] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("execution", "in_threads"),
    [(ONE_WORKER, False), (TWO_WORKERS, True), (TWO_WORKERS, False)],
    ids=["inline", "threads", "processes"],
)
def test_each_task_runs_once(execution: DataExecution, in_threads: bool) -> None:
    results = list(run_tasks(square, list(range(20)), execution, in_threads=in_threads))
    assert sorted(value for value, _ in results) == [number * number for number in range(20)]
    in_this_process = execution is ONE_WORKER or in_threads
    assert ({pid for _, pid in results} == {os.getpid()}) == in_this_process


def test_empty_work_starts_no_process() -> None:
    assert list(run_tasks(square, [], TWO_WORKERS)) == []


@pytest.mark.parametrize("execution", [ONE_WORKER, TWO_WORKERS], ids=["inline", "processes"])
def test_codegen_error_of_a_task_is_raised_unchanged(execution: DataExecution) -> None:
    with pytest.raises(RecordError, match="quarantined") as error:
        list(run_tasks(fail, ["fine", "codegen", "fine"], execution))
    assert (error.value.expected, error.value.fix) == ("good", "fix it")


def test_other_exception_is_raised_with_its_last_lines() -> None:
    with pytest.raises(DataError, match="ZeroDivisionError: of a bug"):
        list(run_tasks(fail, ["bug", "fine"], TWO_WORKERS))


def test_killed_worker_raises_data_error() -> None:
    with pytest.raises(DataError, match="a task of data preparation failed"):
        list(run_tasks(fail, ["killed", "fine"], TWO_WORKERS))


def test_killed_worker_does_not_end_other_tasks(tmp_path: Path) -> None:
    """Also not the owner, which Daft's threads abort if it exits before them."""
    code = f"""
from test_engine import *
try:
    folder = {str(tmp_path)!r}
    list(run_tasks(count_or_be_killed, [["count", folder], ["killed", folder]], TWO_WORKERS))
except DataError:
    print(Path({str(tmp_path / "counted")!r}).read_text())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{COUNT_LIMIT}\n"), done.stderr


def test_workers_exit_after_their_owner_is_killed(tmp_path: Path) -> None:
    work = [str(tmp_path)] * 2
    code = f"from test_engine import *\nlist(run_tasks(wait_forever, {work}, TWO_WORKERS))\n"
    owner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
    owner.kill()
    owner.wait()
    while any(map(psutil.pid_exists, workers)):
        assert time.monotonic() < deadline


def test_missing_cluster_raises_an_error_immediately() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        ConfigError, match=rf"no Ray cluster can be used at {address}: .*refused"
    ) as error:
        list(run_tasks(square, [1], DataExecution(engine="ray", ray_address=address)))
    assert "a running cluster" in error.value.expected
    assert "ray start --head" in error.value.fix


@pytest.mark.parametrize("address", ["127.0.0.1", "no such host", "127.0.0.1:port"])
def test_invalid_cluster_address_raises_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Ray cluster can be used at {address}: "):
        list(run_tasks(square, [1], DataExecution(engine="ray", ray_address=address)))


def test_process_cannot_change_its_engine() -> None:
    """Daft would silently run on this machine, with an idle cluster."""
    list(run_tasks(square, [1, 2], TWO_WORKERS))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ConfigError, match="already used the engine native, not ray"):
            list(run_tasks(square, [1, 2], DataExecution(engine="ray", ray_address=address)))


def test_daft_telemetry_is_off() -> None:
    from daft.scarf_telemetry import opted_out

    assert opted_out()
