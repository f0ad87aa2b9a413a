"""A workspace that was moved or copied, with real runs, files and registered models."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fixtures.tracking_server import copy_database
from fixtures.versions import NAME, register_checkpoint

from components.core.artifact import Artifact
from components.core.sqlite import sqlite_url
from components.registry.evidence_store import download_run_file
from components.registry.tracking import Tracking
from components.registry.versions import download

FILE = "note.json"


def open_workspace(folder: Path) -> Tracking:
    return Tracking(sqlite_url(folder / "mlflow" / "mlflow.db"), folder / "mlflow" / "artifacts")


@pytest.fixture
def workspace(tmp_path: Path, empty_database: Path) -> Path:
    """A workspace without runs."""
    folder = tmp_path / "one"
    (folder / "mlflow").mkdir(parents=True)
    copy_database(empty_database, folder / "mlflow" / "mlflow.db")
    return folder


def log_run(folder: Path) -> str:
    """Record a run with a file; return its id."""
    with open_workspace(folder).run("first", experiment="tiny") as run:
        run.log_json(FILE, {"address": f"{folder}/store/checkpoint/a"})
        run.set_tags(
            {
                "address": f"{folder}/store/checkpoint/a",
                "other": f"{folder}-2/store",
                "deeper": f"/a{folder}/store",
            }
        )
    return run.id


def move(source: Path, target: Path) -> Path:
    """Move a workspace; the target may be in the source, or around it."""
    aside = source.rename(min(source, target).with_name("aside"))
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    return aside.rename(target)


def file_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(FILE))


def database_text(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "mlflow" / "mlflow.db")) as connection:
        return "\n".join(connection.iterdump())


@pytest.mark.parametrize("name", ["two", "t?wo #%20é", "one/one"])
def test_a_moved_workspace_reads_and_writes_its_files_at_the_new_place(
    workspace: Path, name: str
) -> None:
    run_id = log_run(workspace)
    moved = move(workspace, workspace.parent / name)
    tracking = open_workspace(moved)
    assert download_run_file(tracking, run_id, FILE) is not None
    log_run(moved)
    assert len(file_names(moved)) == 2
    assert not (workspace / "mlflow").exists()
    tags = tracking.client.get_run(run_id).data.tags
    assert tags["address"] == f"{moved}/store/checkpoint/a"
    assert tags["other"] == f"{workspace}-2/store"
    assert tags["deeper"] == f"/a{workspace}/store"

    move(moved, workspace)  # And back.
    assert download_run_file(open_workspace(workspace), run_id, FILE) is not None


def test_a_copy_of_a_workspace_never_writes_into_the_original(workspace: Path) -> None:
    log_run(workspace)
    copy = workspace.with_name("copy")
    shutil.copytree(workspace, copy)
    files, records = file_names(workspace), database_text(workspace)
    log_run(copy)
    assert len(file_names(copy)) == 2
    assert file_names(workspace) == files
    assert database_text(workspace) == records


def test_a_workspace_under_two_paths_keeps_its_records(workspace: Path) -> None:
    run_id = log_run(workspace)
    link = workspace.with_name("link")
    link.symlink_to(workspace)
    records = database_text(workspace)
    assert download_run_file(open_workspace(link), run_id, FILE) is not None
    assert database_text(workspace) == records


def test_a_database_that_another_workspace_uses_on_purpose_is_not_changed(workspace: Path) -> None:
    other = workspace.with_name("other") / "mlflow" / "artifacts"
    with Tracking(sqlite_url(workspace / "mlflow" / "mlflow.db"), other).run(
        "shared", experiment="shared"
    ) as run:
        run.log_json(FILE, {})
    assert download_run_file(open_workspace(workspace), run.id, FILE) is not None
    assert len(file_names(other)) == 1


def open_with_outside_database(folder: Path) -> Tracking:
    database = folder.parent / "shared" / "mlflow.db"
    return Tracking(sqlite_url(database), folder / "mlflow" / "artifacts")


def log_run_outside(folder: Path) -> str:
    with open_with_outside_database(folder).run("first", experiment=folder.name) as run:
        run.log_json(FILE, {})
    return run.id


def test_runs_in_a_database_outside_move_with_their_workspace(workspace: Path) -> None:
    shared = workspace.parent / "shared"
    shared.mkdir()
    (workspace / "mlflow" / "mlflow.db").rename(shared / "mlflow.db")
    other = workspace.with_name("other")
    run_id, other_run_id = log_run_outside(workspace), log_run_outside(other)
    moved = workspace.rename(workspace.with_name("two"))
    other_tracking = open_with_outside_database(other)
    assert download_run_file(other_tracking, run_id, FILE) is None, "not the workspace of the run"
    tracking = open_with_outside_database(moved)
    assert download_run_file(tracking, run_id, FILE) is not None
    with tracking.run("second", experiment="one") as run:
        run.log_json(FILE, {})
    assert len(file_names(moved)) == 2
    assert not workspace.exists()
    assert download_run_file(open_with_outside_database(other), other_run_id, FILE) is not None
    assert len(file_names(other)) == 1


def test_a_registered_model_is_downloaded_after_a_move(
    workspace: Path, make_checkpoint: Callable[[str], tuple[Artifact, Path]], tmp_path: Path
) -> None:
    checkpoint, folder = make_checkpoint("a")
    with open_workspace(workspace).run("register", experiment="tiny") as run:
        register_checkpoint(run, checkpoint, folder)
    moved = workspace.rename(workspace.with_name("two"))
    downloaded = download(open_workspace(moved), f"models:/{NAME}/1", tmp_path / "download")
    assert (downloaded / "config.json").is_file()
    assert not (workspace / "mlflow").exists()
