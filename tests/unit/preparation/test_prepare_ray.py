"""Preparation on a real Ray cluster gives the bytes that it gives without, and its workers do the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.prepare_helpers import prepare, raw_records, write_raw
from fixtures.prepare_process import Order, Seen, result_of, started
from fixtures.ray_cluster import ray_cluster

from components.core.artifact import content_digest
from components.core.fingerprint import list_files

pytestmark = [pytest.mark.slow, pytest.mark.apart]


def test_ray_gives_the_same_bytes(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("multi")[number::5] for number in range(5)])
    statistics = prepare(tmp_path / "out", raw, "multi", small_folder)
    with ray_cluster() as cluster:
        place = {"engine": "ray", "ray_address": cluster.address, "num_workers": 2}
        order = Order(
            str(tmp_path / "store"),
            str(raw),
            str(small_folder),
            "multi",
            place,
            bytes_at_once=20_000,
        )
        seen = Seen(**result_of(started(order, environment=cluster.environment)))
    assert (seen.digest, seen.statistics) == (
        content_digest(list_files(tmp_path / "out")),
        statistics,
    )
    made_here = {Path(path).name for path in seen.made}
    assert "index.json" in made_here
    assert not [name for name in made_here if name.endswith(".bin")]
