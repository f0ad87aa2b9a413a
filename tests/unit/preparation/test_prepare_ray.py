"""Preparation on a real Ray cluster gives the same bytes, and the workers execute the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.prepare_helpers import prepare, raw_records, write_raw
from fixtures.prepare_process import PrepareRequest, PrepareResult, start, wait_for_result
from fixtures.ray_cluster import ray_cluster

from components.core.artifact import content_digest
from components.core.fingerprint import list_files

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]


def test_ray_gives_the_same_bytes(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("multi")[number::5] for number in range(5)])
    statistics = prepare(tmp_path / "out", raw, "multi", small_folder)
    with ray_cluster() as cluster:
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
