"""Killed and resumed preparations give the same bytes and repeat no finished task.

One test kills a process between any two of its file operations, including the removal of its work
folder. The other kills two worker processes from outside, when the work folder has a given size.
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
from fixtures.prepare_process import (
    PrepareRequest,
    PrepareResult,
    building_dir,
    finished_paths,
    start,
    wait_for_result,
)
from fixtures.synthetic_code import program

from components.core.artifact import content_digest
from components.core.fingerprint import list_files

NUM_KILLS = 8
TWO_WORKERS = {"num_workers": 2, "memory_mib": 1024}
ONE_WORKER = {"num_workers": 1, "memory_mib": 512}
"""The same memory per task, so that the work is divided in the same way."""
POLL_S = 0.002


def test_a_preparation_killed_between_any_two_operations_resumes(
    small_folder: Path, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("mono")[number::3] for number in range(3)])
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder)
    request = PrepareRequest(
        str(tmp_path / "store"), str(raw), str(small_folder), "mono", ONE_WORKER, 10_000
    )
    undisturbed, *kills = wait_for_result(start(request, "kill", NUM_KILLS, 1))
    digest = content_digest(list_files(tmp_path / "out"))
    assert (undisturbed["digest"], undisturbed["statistics"]) == (digest, statistics)
    for kill in kills:
        result = PrepareResult(**kill["resumed"])
        assert (kill["killed_at"], result.digest) == (kill["killed_at"], digest)
        assert (kill["killed_at"], result.statistics) == (kill["killed_at"], statistics)
        repeated = set(kill["finished"]) & set(result.renamed)
        assert (kill["killed_at"], repeated) == (kill["killed_at"], set())
    assert len(kills) == NUM_KILLS
    assert sum(bool(kill["finished"]) for kill in kills) > NUM_KILLS / 2


# -- from outside --------------------------------------------------------------------------------


def num_entries(root: Path) -> int:
    """Progress of a preparation: the number of files and folders that it has created."""
    entries = os.walk(building_dir(root))
    return sum(len(folders) + len(files) for _, folders, files in entries)


def identities(paths: list[str]) -> dict[str, tuple[int, int]]:
    """Inode and modification time, which change when a path is written again."""
    stats = {path: os.stat(path) for path in paths}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers are children of the server that forks them."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    return [descendant for descendant in descendants if descendant.ppid() != process.pid]


def kill_at_size(request: PrepareRequest, size: int, victim: str) -> None:
    """Start a preparation and kill a process, or all, once it has created `size` entries."""
    process = start(request)
    try:
        while num_entries(Path(request.root)) < size:
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"it ended with {process.wait(POLL_S)} before the kill")
        workers = workers_of(process)
        assert len(workers) == 2 or victim != "worker"
        if victim == "worker":
            workers[0].kill()
        elif victim == "owner":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == (1 if victim == "worker" else -signal.SIGKILL)
        has_error = "DataError" in stderr
        assert has_error == (victim == "worker"), stderr
        assert not psutil.wait_procs(workers, timeout=60)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_two_workers_killed_at_any_time_resume(small_folder: Path, tmp_path: Path) -> None:
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
    store = tmp_path / "store"
    request = PrepareRequest(str(store), str(raw), str(small_folder), "mono", TWO_WORKERS, 30_000)
    random = Random(1)  # noqa: S311 - not a secret
    finished: dict[str, tuple[int, int]] = {}
    for victim, max_entries in (("worker", 30), ("owner", 30), ("all", 120)):
        kill_at_size(request, num_entries(store) + random.randint(8, max_entries), victim)
        finished_now = identities(finished_paths(request.root))
        assert finished.items() <= finished_now.items()
        finished = finished_now
    assert finished
    process = start(request._replace(execution=ONE_WORKER))
    result = PrepareResult(**wait_for_result(process))
    assert result.digest == content_digest(list_files(tmp_path / "out"))
    assert result.statistics == statistics
    assert not finished.keys() & set(result.renamed)
    assert result.renamed
