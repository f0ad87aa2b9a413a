"""Tasks on a real Ray cluster: the same bytes, executed by workers, and clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.prepare_helpers import prepare, raw_records, write_raw
from fixtures.prepare_process import PrepareRequest, PrepareResult, start, wait_for_result
from fixtures.ray_cluster import Cluster, ray_cluster

from components.core.artifact import content_digest
from components.core.fingerprint import list_files

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        with ray_cluster() as cluster:
            yield cluster


def test_ray_gives_the_same_bytes(cluster: Cluster, small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("multi")[number::5] for number in range(5)])
    statistics = prepare(tmp_path / "out", raw, "multi", small_folder)
    request = PrepareRequest(
        root=str(tmp_path / "store"),
        raw=str(raw),
        tokenizer=str(small_folder),
        corpus="multi",
        execution={"engine": "ray", "ray_address": cluster.address, "num_workers": 2},
        run_bytes=20_000,
    )
    process = start(request, environment=cluster.environment)
    result = PrepareResult(**wait_for_result(process))
    assert result.digest == content_digest(list_files(tmp_path / "out"))
    assert result.statistics == statistics
    names = {Path(path).name for path in result.renamed}
    assert "index.json" in names
    assert not [name for name in names if name.endswith(".bin")], "shards are written by workers"


def test_errors_of_ray_tasks_name_the_task(cluster: Cluster, tmp_path: Path) -> None:
    code = """
import json, sys
from fixtures.engine_tasks import *
from components.core.errors import CodegenError
from components.data.config import DataExecution
from components.data.engine import run_tasks
execution = DataExecution(engine="ray", ray_address=sys.argv[1], num_workers=2)
import only_here
for task, kind in ((fail, "codegen"), (fail, "bug"), (fail, "killed"), (only_here.task, "")):
    try:
        list(run_tasks(task, named(["fine", kind]), execution))
    except CodegenError as error:
        with open(sys.argv[2], "a") as file:  # Ray prints to standard output too.
            print(json.dumps([type(error).__name__, error.got]), file=file)
"""
    (tmp_path / "only_here.py").write_text("def task(unit): pass")
    paths = os.pathsep.join(filter(None, [*sys.path, str(tmp_path)]))
    errors = tmp_path / "errors.jsonl"
    subprocess.run(
        [sys.executable, "-c", code, cluster.address, str(errors)],
        env={**os.environ, **cluster.environment, "PYTHONPATH": paths},
        check=True,
    )
    codegen, bug, killed, absent = map(json.loads, errors.read_text().splitlines())
    assert codegen == ["RecordError", "quarantined"]
    assert bug[0] == killed[0] == "DataError"
    assert "the task unit 1 failed" in bug[1]
    assert bug[1].endswith("ZeroDivisionError: of a bug")
    assert "the process of the task unit 1 was killed or crashed" in killed[1]
    assert "a worker of Ray cannot run the task unit" in absent[1]
    assert "No module named 'only_here'" in absent[1]
