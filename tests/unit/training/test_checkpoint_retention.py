"""Which checkpoints count, after kills and damage of every kind; which stay, and that nothing whole is ever removed."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.errors import TrainingError
from components.core.fingerprint import list_files
from components.training.checkpoint.retention import (
    PARTIAL_SUFFIX,
    checkpoint_name,
    commit_checkpoint,
    latest_valid_checkpoint,
    prune_checkpoints,
)

Damage = Callable[[Path], object]


def add(folder: Path, step: int, held_out: float | None = None) -> Path:
    partial = folder / f"{checkpoint_name(step)}{PARTIAL_SUFFIX}"
    (partial / "engine").mkdir(parents=True)
    (partial / "engine" / "state.pt").write_bytes(b"state of step %d" % step)
    files = [list(entry) for entry in list_files(partial)]
    commit_checkpoint(
        partial,
        {
            "run": "r",
            "layout": {},
            "step": step,
            "num_updates": step,
            "held_out": held_out,
            "files": files,
        },
    )
    return folder / checkpoint_name(step)


def steps(folder: Path) -> list[int]:
    return sorted(int(one.name[5:]) for one in folder.iterdir())


def change_manifest(**changes: object) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def replace_by(make: Damage) -> Damage:
    def damage(checkpoint: Path) -> None:
        shutil.rmtree(checkpoint)
        make(checkpoint)

    return damage


DAMAGES: dict[str, Damage] = {
    "no manifest": lambda one: (one / "manifest.json").unlink(),
    "an empty manifest": lambda one: (one / "manifest.json").write_text(""),
    "half a manifest": lambda one: (one / "manifest.json").write_bytes(
        (one / "manifest.json").read_bytes()[:100]
    ),
    "a manifest of another form": lambda one: (one / "manifest.json").write_text("[1]"),
    "a manifest that is a folder": lambda one: (
        (one / "manifest.json").unlink(),
        (one / "manifest.json").mkdir(),
    ),
    "another step": change_manifest(step=7),
    "other updates": change_manifest(num_updates=7),
    "another score": change_manifest(held_out=0.1),
    "no files": change_manifest(files=[]),
    "a file that is cut short": lambda one: (one / "engine" / "state.pt").write_bytes(b"state"),
    "a file that is changed": lambda one: (one / "engine" / "state.pt").write_bytes(
        b"state of step 9"
    ),
    "a file that is gone": lambda one: (one / "engine" / "state.pt").unlink(),
    "an empty folder": replace_by(Path.mkdir),
    "a file": replace_by(lambda one: one.write_text("")),
    "a link to nowhere": replace_by(lambda one: one.symlink_to("nowhere")),
    "a link to itself": replace_by(lambda one: one.symlink_to(one)),
    "the folder of another step": lambda one: (
        shutil.rmtree(one),
        shutil.copytree(one.with_name(checkpoint_name(6)), one),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_one_before_is_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (4, 6, 8):
        add(tmp_path, step)
    DAMAGES[name](tmp_path / checkpoint_name(8))
    whole = latest_valid_checkpoint(tmp_path)
    assert whole
    assert (whole.folder.name, whole.manifest["step"]) == (checkpoint_name(6), 6)
    assert f"{tmp_path / checkpoint_name(8)} is damaged" in caplog.text
    assert steps(tmp_path) == [4, 6]


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_that_is_not_the_newest_stops_nothing(name: str, tmp_path: Path) -> None:
    """A kill in the middle of a removal left one without its manifest, and every later save failed."""
    for step in (2, 4, 6, 8):
        add(tmp_path, step)
    DAMAGES[name](tmp_path / checkpoint_name(4))
    add(tmp_path, 10)
    prune_checkpoints(tmp_path, 3, None)
    assert steps(tmp_path)[-2:] == [8, 10]
    assert steps(tmp_path)[0] in (4, 6), (
        "what has a good manifest but damaged files is looked at when it is to be used"
    )
    while (one := latest_valid_checkpoint(tmp_path)) and one.manifest["step"] > 6:
        shutil.rmtree(one.folder)
    assert one


def test_where_none_is_whole_nothing_is_removed_and_nothing_begins_anew(tmp_path: Path) -> None:
    for step in (4, 6):
        (add(tmp_path, step) / "engine" / "state.pt").write_bytes(b"")
    before = list_files(tmp_path)
    with pytest.raises(TrainingError, match="all checkpoints of the stage are damaged") as refused:
        latest_valid_checkpoint(tmp_path)
    assert all(str(tmp_path / checkpoint_name(step)) in refused.value.got for step in (4, 6))
    assert str(tmp_path) in refused.value.fix
    assert list_files(tmp_path) == before


def test_what_cannot_be_read_for_a_while_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, 4)
    newest, read_text = add(tmp_path, 6), Path.read_text

    def refused(path: Path, *given: object, **named: object) -> str:
        if path.parent == newest:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return read_text(path, *given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        with pytest.raises(TrainingError, match="cannot be read: Stale file handle"):
            latest_valid_checkpoint(tmp_path)
    whole = latest_valid_checkpoint(tmp_path)
    assert whole
    assert whole.folder == newest


def test_what_kills_have_left_is_removed(tmp_path: Path) -> None:
    add(tmp_path, 4)
    for name in (
        "step-00000006.partial",
        "step-00000002.removed",
        "step-00000004.universal",
        "step-00000004.universal_tmp",
    ):
        (tmp_path / name / "engine").mkdir(parents=True)
    whole = latest_valid_checkpoint(tmp_path)
    assert whole
    assert whole.folder.name == checkpoint_name(4)
    assert steps(tmp_path) == [4]


def test_a_checkpoint_of_a_version_whose_manifests_had_no_fingerprint_is_used(
    tmp_path: Path,
) -> None:
    path = add(tmp_path, 4) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["fingerprint"]
    path.write_text(json.dumps(manifest))
    whole = latest_valid_checkpoint(tmp_path)
    assert whole
    assert whole.manifest == manifest
    path.write_text(json.dumps(manifest | {"fingerprin": "of an entry whose name was damaged"}))
    with pytest.raises(TrainingError, match="are damaged"):
        latest_valid_checkpoint(tmp_path)


def test_none_at_all(tmp_path: Path) -> None:
    assert latest_valid_checkpoint(tmp_path / "absent") is None
    (tmp_path / "step-notes").mkdir()
    assert latest_valid_checkpoint(tmp_path) is None
    prune_checkpoints(tmp_path, 1, None)
    assert (tmp_path / "step-notes").exists()


@pytest.mark.parametrize(
    ("keep_last", "every", "kept"),
    [
        (1, None, [5, 12]),
        (2, None, [5, 11, 12]),
        (1, 4, [4, 5, 8, 12]),
        (20, 5, list(range(1, 13))),
    ],
)
def test_the_last_the_best_and_every_so_many_are_kept(
    keep_last: int, every: int | None, kept: list[int], tmp_path: Path
) -> None:
    for step in range(1, 13):
        add(tmp_path, step, held_out={3: 1.5, 5: 1.25, 9: 1.75}.get(step))
    prune_checkpoints(tmp_path, keep_last, every)
    assert steps(tmp_path) == kept
