"""The engine: every task once, errors as they were raised, and no process left behind."""

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

MANY = 10_000_000
"""To count so far takes longer than to notice that another process was killed."""
ONE, TWO = DataExecution(num_workers=1), DataExecution(num_workers=2)


@pytest.fixture(autouse=True)
def _workers_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())]))


def square(number: int) -> list[int]:
    return [number * number, os.getpid()]


def fail(kind: str) -> None:
    if kind == "ours":
        raise RecordError("bad", expected="good", fix="mend it")
    if kind == "bug":
        raise ZeroDivisionError("of a bug")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    signal.pause()


def count(folder: str) -> None:
    (Path(folder) / "begun").touch()
    (Path(folder) / "counted").write_text(str(sum(1 for _ in range(MANY))))


def count_or_be_killed(work: list[str]) -> None:
    if work[0] == "count":
        count(work[1])
    while not (Path(work[1]) / "begun").exists():
        pass
    if work[0] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("place", "in_threads"),
    [(ONE, False), (TWO, True), (TWO, False)],
    ids=["here", "threads", "apart"],
)
def test_every_task_is_run_once(place: DataExecution, in_threads: bool) -> None:
    results = list(run_tasks(square, list(range(20)), place, in_threads=in_threads))
    assert sorted(value for value, _ in results) == [number * number for number in range(20)]
    is_here = place is ONE or in_threads
    assert ({pid for _, pid in results} == {os.getpid()}) == is_here


def test_no_work_starts_nothing() -> None:
    assert list(run_tasks(square, [], TWO)) == []


@pytest.mark.parametrize("place", [ONE, TWO], ids=["here", "apart"])
def test_an_error_of_ours_arrives_as_it_was_raised(place: DataExecution) -> None:
    with pytest.raises(RecordError, match="bad") as error:
        list(run_tasks(fail, ["fine", "ours", "fine"], place))
    assert (error.value.expected, error.value.fix) == ("good", "mend it")


def test_a_bug_is_told_with_its_last_lines() -> None:
    with pytest.raises(DataError, match="ZeroDivisionError: of a bug"):
        list(run_tasks(fail, ["bug", "fine"], TWO))


def test_a_worker_that_is_killed_is_an_error() -> None:
    with pytest.raises(DataError, match="a task of data preparation failed"):
        list(run_tasks(fail, ["killed", "fine"], TWO))


def test_a_worker_that_is_killed_ends_nobody_elses_task(tmp_path: Path) -> None:
    """Nor the process that started it, which Daft's threads would abort if it ended before they do."""
    code = f"""
from test_engine import *
try:
    list(run_tasks(count_or_be_killed, [["count", {str(tmp_path)!r}], ["killed", {str(tmp_path)!r}]], TWO))
except DataError:
    print(Path({str(tmp_path / "counted")!r}).read_text())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{MANY}\n"), done.stderr


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        f"from test_engine import *\nlist(run_tasks(wait_for_ever, [{str(tmp_path)!r}] * 2, TWO))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(workers := [int(one.name) for one in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
    owner.kill()
    owner.wait()
    while any(map(psutil.pid_exists, workers)):
        assert time.monotonic() < deadline


def test_a_cluster_that_is_not_there_is_an_error_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        ConfigError, match=rf"no Ray cluster can be used at {address}: .*refused"
    ) as error:
        list(run_tasks(square, [1], DataExecution(engine="ray", ray_address=address)))
    assert "a running cluster" in error.value.expected
    assert "ray start --head" in error.value.fix


@pytest.mark.parametrize("address", ["127.0.0.1", "no such host", "127.0.0.1:port"])
def test_what_is_no_address_of_a_cluster_is_an_error(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Ray cluster can be used at {address}: "):
        list(run_tasks(square, [1], DataExecution(engine="ray", ray_address=address)))


def test_a_process_stays_with_its_engine() -> None:
    """Daft would go on here without a word, and nobody would know that the cluster is idle."""
    list(run_tasks(square, [1, 2], TWO))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ConfigError, match="on ray, and has done so on native before"):
            list(run_tasks(square, [1, 2], DataExecution(engine="ray", ray_address=address)))


def test_daft_does_not_call_home() -> None:
    from daft.scarf_telemetry import opted_out

    assert opted_out()
