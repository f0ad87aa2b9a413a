"""Checkpoints that a thread writes: what was copied is what was there then, and a full disk is said when it matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fixtures.tmpfs import limited_disk

from components.core.errors import ConfigError, DiskFullError
from components.core.fingerprint import FileEntry, list_files
from components.training.checkpoint.async_writer import (
    AsyncCheckpointWriter,
    InMemoryCheckpointEngine,
    rank_marker_name,
    wait_for_rank_markers,
)
from components.training.config import TrainingExecution
from components.training.hardware import select_device


def test_what_is_written_is_what_was_there_when_it_was_copied(tmp_path: Path) -> None:
    weights, whole = torch.ones(3), torch.arange(1000.0)
    state = {"module": {"weights": weights}, "slices": [whole[:2]], "step": 7}
    snapshots = InMemoryCheckpointEngine()
    snapshots.save(state, str(tmp_path / "engine" / "state.pt"))
    weights.zero_()
    copies = snapshots.taken()
    assert snapshots.taken() == {}
    done: list[str] = []
    AsyncCheckpointWriter(tmp_path, 0, copies, lambda: done.append("then")).finish()
    assert done == ["then"]
    read = snapshots.load(str(tmp_path / "engine" / "state.pt"))
    assert read["module"]["weights"].tolist() == [1.0, 1.0, 1.0]
    assert (read["step"], read["slices"][0].tolist()) == (7, [0.0, 1.0])
    assert (tmp_path / "engine" / "state.pt").stat().st_size < 4 * 1000, (
        "a slice is not its whole storage"
    )
    wait_for_rank_markers(tmp_path, 1)
    (entry,) = json.loads((tmp_path / rank_marker_name(0)).read_text())
    assert FileEntry(*entry) in list_files(tmp_path)


def test_a_disk_that_fills_up_meanwhile_is_told_at_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "state.pt").symlink_to("/dev/full")
    writing = AsyncCheckpointWriter(
        tmp_path, 0, {tmp_path / "state.pt": {"weights": torch.ones(10_000)}}, None
    )
    with pytest.raises(DiskFullError, match="the disk filled up while writing"):
        writing.finish()
    assert not (tmp_path / rank_marker_name(0)).exists(), "a part that is not whole has no seal"


def test_what_does_not_fit_on_the_disk_is_removed_so_that_the_rest_goes_on(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "disk", size_kb=256) as disk:
        copies = {
            disk / "first.pt": {"weights": torch.ones(10_000)},
            disk / "second.pt": {"weights": torch.ones(100_000)},
        }
        with pytest.raises(DiskFullError, match="the disk filled up while writing"):
            AsyncCheckpointWriter(disk, 0, copies, None).finish()
        assert not list(disk.iterdir())


def test_a_device_that_is_not_there() -> None:
    assert select_device(TrainingExecution(device="cpu"), 3) == torch.device("cpu")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no GPU that torch can use"):
        select_device(TrainingExecution(device="cuda"), 0)
