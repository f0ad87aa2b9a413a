"""Preparations that are killed and run again: the same bytes, and no finished task is done twice.

One test kills a process between any two of its operations on files, the removal of its work included. The other kills from
outside, in the midst of whatever two worker processes are at, when so much lies in the work folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
from fixtures.prepare_helpers import prepare, raw_records, record, write_raw
from fixtures.prepare_process import Order, Resumed, Seen, building, finished, result_of, started
from fixtures.synthetic_code import program

from components.core.artifact import content_digest
from components.core.fingerprint import list_files

NUM_MOMENTS = 8
TWO = {"num_workers": 2, "memory_mib": 1024}
ONE = {"num_workers": 1, "memory_mib": 512}
"""The same memory for a task, so that the work is cut in the same way."""
PROMPT_S = 0.002
"""Between two looks at how far it is."""


def test_killed_between_any_two_operations_it_goes_on(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("mono")[number::3] for number in range(3)])
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder)
    order = Order(str(tmp_path / "store"), str(raw), str(small_folder), "mono", ONE, 10_000)
    whole, *resumed = result_of(started(order, "kill", NUM_MOMENTS, 1))
    assert (whole["digest"], whole["statistics"]) == (
        content_digest(list_files(tmp_path / "out")),
        statistics,
    )
    found = [Resumed(one["moment"], one["finished"], Seen(**one["again"])) for one in resumed]
    assert [(one.moment, one.again.digest, one.again.statistics) for one in found] == [
        (one.moment, whole["digest"], statistics) for one in found
    ]
    assert {one.moment: set(one.finished) & set(one.again.made) for one in found} == {
        one.moment: set() for one in found
    }
    assert sum(bool(one.finished) for one in found) > NUM_MOMENTS / 2


# -- from outside --------------------------------------------------------------------------------------------------------


def num_entries(root: Path) -> int:
    """How far a preparation is: files and folders that it has made."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(building(root)))


def identities(paths: list[str]) -> dict[str, tuple[int, int]]:
    """What changes when a path is made anew."""
    return {path: (found.st_ino, found.st_mtime_ns) for path in paths for found in [os.stat(path)]}


def workers_of(owner: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        one
        for one in psutil.Process(owner.pid).children()
        if "daft.execution.udf_worker" in one.cmdline()
    ]


def kill_once_there_are(order: Order, num: int, victim: str) -> None:
    """Start a preparation, and kill one of its processes, or all, once it has made as many entries. All are gone then."""
    owner = started(order)
    try:
        while num_entries(Path(order.root)) < num:
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"it ended with {owner.wait(PROMPT_S)} before it was killed")
        workers = workers_of(owner)
        assert len(workers) == 2 or victim != "a worker"
        if victim == "a worker":
            max(
                workers, key=lambda one: one.cpu_times().user
            ).kill()  # Daft hangs where one is killed as it starts (0.7.26).
        elif victim == "the owner":
            owner.kill()
        else:
            os.killpg(owner.pid, signal.SIGKILL)
        _, told = owner.communicate(timeout=60)
        assert owner.returncode == (1 if victim == "a worker" else -signal.SIGKILL)
        assert ("DataError: a task of data preparation failed" in told) == (victim == "a worker"), (
            told
        )
        assert not psutil.wait_procs(workers, timeout=60)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)


def test_two_workers_killed_at_any_moment_go_on(small_folder: Path, tmp_path: Path) -> None:
    """Three kills of one preparation: of a worker, of the process that started it, of all three."""
    parts = [
        [
            record(program("Python", f"{part} {n}"), "Python", f"{part}/{n}", "demo")
            for n in range(60)
        ]
        for part in range(10)
    ]
    raw = write_raw(tmp_path / "raw", parts)
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder)
    order = Order(str(tmp_path / "store"), str(raw), str(small_folder), "mono", TWO, 30_000)
    dice, known = Random(1), dict[str, tuple[int, int]]()  # noqa: S311 - no secret
    for victim, most in (("a worker", 30), ("the owner", 30), ("all", 120)):
        kill_once_there_are(order, num_entries(tmp_path / "store") + dice.randint(8, most), victim)
        now = identities(finished(order.root))
        assert known.items() <= now.items()
        known = now
    assert known
    again = Seen(**result_of(started(order._replace(place=ONE))))
    assert (again.digest, again.statistics) == (
        content_digest(list_files(tmp_path / "out")),
        statistics,
    )
    assert not known.keys() & set(again.made)
    assert again.made
