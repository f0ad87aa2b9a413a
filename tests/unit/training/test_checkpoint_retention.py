"""Checkpoint folders: verification after crashes and damage, and retention."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.errors import TrainingError
from components.core.fingerprint import list_files
from components.training.checkpoint.export import snapshot_checkpoint
from components.training.checkpoint.retention import (
    PARTIAL_SUFFIX,
    checkpoint_name,
    commit_checkpoint,
    latest_valid_checkpoint,
    prune_checkpoints,
    remove_checkpoint,
)

Damage = Callable[[Path], object]


def add_checkpoint(folder: Path, step: int, score: float | None = None) -> Path:
    partial = folder / f"{checkpoint_name(step)}{PARTIAL_SUFFIX}"
    (partial / "engine").mkdir(parents=True)
    (partial / "engine" / "state.pt").write_bytes(b"state of step %d" % step)
    files = [list(entry) for entry in list_files(partial)]
    commit_checkpoint(
        partial,
        {
            "run_fingerprint": "r",
            "layout": {},
            "step": step,
            "num_updates": step,
            "held_out_bits_per_byte": score,
            "files": files,
        },
    )
    return folder / checkpoint_name(step)


def steps(folder: Path) -> list[int]:
    return sorted(int(checkpoint.name[5:]) for checkpoint in folder.iterdir())


def change_manifest(**changes: object) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def replace_by(create: Damage) -> Damage:
    def damage(checkpoint: Path) -> None:
        shutil.rmtree(checkpoint)
        create(checkpoint)

    return damage


DAMAGES: dict[str, Damage] = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text(""),
    "a truncated manifest": lambda folder: (folder / "manifest.json").write_bytes(
        (folder / "manifest.json").read_bytes()[:100]
    ),
    "a manifest of another type": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "a manifest that is a folder": lambda folder: (
        (folder / "manifest.json").unlink(),
        (folder / "manifest.json").mkdir(),
    ),
    "another step": change_manifest(step=7),
    "other updates": change_manifest(num_updates=7),
    "another score": change_manifest(held_out_bits_per_byte=0.1),
    "no files": change_manifest(files=[]),
    "a truncated file": lambda folder: (folder / "engine" / "state.pt").write_bytes(b"state"),
    "a changed file": lambda folder: (folder / "engine" / "state.pt").write_bytes(
        b"state of step 9"
    ),
    "an absent file": lambda folder: (folder / "engine" / "state.pt").unlink(),
    "an empty folder": replace_by(Path.mkdir),
    "a file": replace_by(lambda path: path.write_text("")),
    "a link to an absent file": replace_by(lambda path: path.symlink_to("absent")),
    "a link to itself": replace_by(lambda path: path.symlink_to(path)),
    "the folder of another step": lambda folder: (
        shutil.rmtree(folder),
        shutil.copytree(folder.with_name(checkpoint_name(6)), folder),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_checkpoint_is_removed_and_the_previous_checkpoint_is_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (4, 6, 8):
        add_checkpoint(tmp_path, step)
    DAMAGES[name](tmp_path / checkpoint_name(8))
    latest = latest_valid_checkpoint(tmp_path)
    assert latest
    assert (latest.folder.name, latest.manifest["step"]) == (checkpoint_name(6), 6)
    assert latest.damaged_steps == (8,)
    assert f"{tmp_path / checkpoint_name(8)} is damaged" in caplog.text
    assert steps(tmp_path) == [4, 6]


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_of_an_older_checkpoint_does_not_stop_pruning(name: str, tmp_path: Path) -> None:
    """Regression: a checkpoint without a manifest made every later save fail."""
    for step in (2, 4, 6, 8):
        add_checkpoint(tmp_path, step)
    DAMAGES[name](tmp_path / checkpoint_name(4))
    add_checkpoint(tmp_path, 10)
    prune_checkpoints(tmp_path, 3, None)
    assert steps(tmp_path)[-2:] == [8, 10]
    assert steps(tmp_path)[0] in (4, 6), "files are verified only when a checkpoint is used"
    while (latest := latest_valid_checkpoint(tmp_path)) and latest.manifest["step"] > 6:
        shutil.rmtree(latest.folder)
    assert latest


def test_if_all_checkpoints_are_damaged_none_is_removed_and_the_stage_does_not_restart(
    tmp_path: Path,
) -> None:
    for step in (4, 6):
        (add_checkpoint(tmp_path, step) / "engine" / "state.pt").write_bytes(b"")
    files = list_files(tmp_path)
    with pytest.raises(TrainingError, match="all checkpoints of the stage are damaged") as refused:
        latest_valid_checkpoint(tmp_path)
    assert all(str(tmp_path / checkpoint_name(step)) in refused.value.got for step in (4, 6))
    assert str(tmp_path) in refused.value.fix
    assert list_files(tmp_path) == files


def test_a_temporary_read_error_is_not_treated_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_checkpoint(tmp_path, 4)
    newest = add_checkpoint(tmp_path, 6)
    read_bytes = Path.read_bytes

    def fail_for_newest(path: Path) -> bytes:
        if path.parent == newest:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail_for_newest)
        with pytest.raises(TrainingError, match="cannot be read: Stale file handle"):
            latest_valid_checkpoint(tmp_path)
    latest = latest_valid_checkpoint(tmp_path)
    assert latest
    assert latest.folder == newest


def test_remains_of_interrupted_writes_are_removed(tmp_path: Path) -> None:
    add_checkpoint(tmp_path, 4)
    for name in (
        "step-00000006.partial",
        "step-00000002.removed",
        "step-00000004.universal",
        "step-00000004.universal_tmp",
    ):
        (tmp_path / name / "engine").mkdir(parents=True)
    latest = latest_valid_checkpoint(tmp_path)
    assert latest
    assert latest.folder.name == checkpoint_name(4)
    assert steps(tmp_path) == [4]


@pytest.mark.parametrize("damaged_key", [None, "fingerprin"])
def test_a_manifest_without_its_fingerprint_is_damaged(
    damaged_key: str | None, tmp_path: Path
) -> None:
    path = add_checkpoint(tmp_path, 4) / "manifest.json"
    manifest = json.loads(path.read_text())
    fingerprint = manifest.pop("fingerprint")
    if damaged_key:
        manifest[damaged_key] = fingerprint
    path.write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match="are damaged"):
        latest_valid_checkpoint(tmp_path)


def test_a_folder_without_checkpoints_has_no_latest_checkpoint(tmp_path: Path) -> None:
    assert latest_valid_checkpoint(tmp_path / "absent") is None
    (tmp_path / "step-notes").mkdir()
    assert latest_valid_checkpoint(tmp_path) is None
    prune_checkpoints(tmp_path, 1, None)
    assert (tmp_path / "step-notes").exists()


@pytest.mark.parametrize(
    ("keep_last", "every", "expected"),
    [
        (1, None, [5, 12]),
        (2, None, [5, 11, 12]),
        (1, 4, [4, 5, 8, 12]),
        (20, 5, list(range(1, 13))),
    ],
)
def test_the_newest_the_best_and_every_nth_checkpoint_are_retained(
    keep_last: int, every: int | None, expected: list[int], tmp_path: Path
) -> None:
    for step in range(1, 13):
        add_checkpoint(tmp_path, step, score={3: 1.5, 5: 1.25, 9: 1.75}.get(step))
    prune_checkpoints(tmp_path, keep_last, every)
    assert steps(tmp_path) == expected


def test_a_snapshot_survives_pruning(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for step in (1, 2, 3):
        add_checkpoint(work, step)
    snapshot = snapshot_checkpoint(work / checkpoint_name(1), tmp_path / "snapshot")
    prune_checkpoints(work, keep_last=1, keep_every_steps=None)
    assert steps(work) == [3]
    assert snapshot
    assert snapshot.manifest["step"] == 1
    assert (snapshot.folder / "engine" / "state.pt").read_bytes() == b"state of step 1"
    # A leftover of a killed reader is replaced.
    assert snapshot_checkpoint(work / checkpoint_name(3), tmp_path / "snapshot")
    assert snapshot_checkpoint(work / checkpoint_name(3), tmp_path / "snapshot")


def test_a_pruned_or_damaged_checkpoint_has_no_snapshot(tmp_path: Path) -> None:
    pruned = add_checkpoint(tmp_path / "work", 1)
    remove_checkpoint(pruned)
    assert snapshot_checkpoint(pruned, tmp_path / "snapshot") is None
    damaged = add_checkpoint(tmp_path / "work", 2)
    (damaged / "engine" / "state.pt").write_bytes(b"state of step 9")
    assert snapshot_checkpoint(damaged, tmp_path / "snapshot") is None
    assert steps(tmp_path / "work") == [2]  # The trainer decides about it.


def test_files_are_copied_if_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "another file system", source)

    checkpoint = add_checkpoint(tmp_path / "work", 1)
    monkeypatch.setattr("os.link", refuse)
    snapshot = snapshot_checkpoint(checkpoint, tmp_path / "snapshot")
    assert snapshot
    state = snapshot.folder / "engine" / "state.pt"
    assert state.read_bytes() == b"state of step 1"
    assert state.stat().st_nlink == 1
