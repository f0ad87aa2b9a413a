"""Asynchronous checkpoint writing: consistent copies, and a full disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fixtures.tmpfs import limited_disk

from components.core.errors import DiskFullError
from components.core.fingerprint import FileEntry, list_files
from components.training.checkpoint.async_writer import (
    AsyncCheckpointWriter,
    InMemoryCheckpointEngine,
    rank_marker_name,
    wait_for_rank_markers,
)


def test_the_state_at_the_time_of_the_copy_is_written(tmp_path: Path) -> None:
    weights = torch.ones(3)
    tensor = torch.arange(1000.0)
    state = {"module": {"weights": weights}, "slices": [tensor[:2]], "step": 7}
    engine = InMemoryCheckpointEngine()
    engine.save(state, str(tmp_path / "engine" / "state.pt"))
    weights.zero_()
    copies = engine.drain()
    assert engine.drain() == {}
    calls: list[str] = []
    AsyncCheckpointWriter(tmp_path, 0, copies, lambda: calls.append("written")).finish()
    assert calls == ["written"]
    loaded = engine.load(str(tmp_path / "engine" / "state.pt"))
    assert loaded["module"]["weights"].tolist() == [1.0, 1.0, 1.0]
    assert (loaded["step"], loaded["slices"][0].tolist()) == (7, [0.0, 1.0])
    size_bytes = (tmp_path / "engine" / "state.pt").stat().st_size
    assert size_bytes < 4 * 1000, "only the slice of the storage"
    wait_for_rank_markers(tmp_path, 1)
    (entry,) = json.loads((tmp_path / rank_marker_name(0)).read_text())
    assert FileEntry(*entry) in list_files(tmp_path)


def test_a_disk_that_fills_up_while_writing_is_reported_by_finish(tmp_path: Path) -> None:
    (tmp_path / "state.pt").symlink_to("/dev/full")
    copies = {tmp_path / "state.pt": {"weights": torch.ones(10_000)}}
    writer = AsyncCheckpointWriter(tmp_path, 0, copies, None)
    with pytest.raises(DiskFullError, match="the disk filled up while writing"):
        writer.finish()
    assert not (tmp_path / rank_marker_name(0)).exists(), "an incomplete write has no marker"


def test_a_failed_write_removes_its_files_to_free_the_space(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "disk", size_kb=256) as disk:
        copies = {
            disk / "first.pt": {"weights": torch.ones(10_000)},
            disk / "second.pt": {"weights": torch.ones(100_000)},
        }
        with pytest.raises(DiskFullError, match="the disk filled up while writing"):
            AsyncCheckpointWriter(disk, 0, copies, None).finish()
        assert not list(disk.iterdir())
