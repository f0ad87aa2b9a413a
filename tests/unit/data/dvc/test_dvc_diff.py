"""Differences of two versions of data/, in a git repository under DVC."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo
from fixtures.projects import add_remote

from components.core.errors import DataError
from components.data.dvc.dvc_diff import FileChange, diff_versions
from components.data.dvc.dvc_remote import push
from components.data.dvc.dvc_repo import changed_paths


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(
        ["git", "-C", str(project), *identity, *arguments], check=True, capture_output=True
    )


def write(project: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = project / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def commit(project: Path) -> None:
    with Repo(str(project)) as repo:
        repo.add([str(project / "data")])
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "data")


@pytest.fixture
def two_versions(tmp_path: Path) -> Path:
    """A project with two commits of data/."""
    project = tmp_path / "project"
    project.mkdir()
    git(project, "init", "-q")
    Repo.init(str(project)).close()
    write(
        project,
        {
            "nl/a.jsonl": "1\n2\n",
            "nl/b.jsonl": "3\n",
            "mono/c.jsonl": "4\n5\n6\n",
            "NOTICE": "x\n",
            "same": "y\n",
        },
    )
    commit(project)
    write(project, {"nl/a.jsonl": "1\n2\n2\n2\n", "multi/d.jsonl": "7\n8\n", "NOTICE": "z\n"})
    (project / "data/nl/b.jsonl").unlink()
    (project / "data/mono/c.jsonl").rename(project / "data/mono/e.jsonl")
    commit(project)
    return project


EXPECTED = (
    FileChange("modified", "data/NOTICE", None, None, None),
    FileChange("renamed", "data/mono/e.jsonl", "data/mono/c.jsonl", 3, 3),
    FileChange("added", "data/multi/d.jsonl", None, None, 2),
    FileChange("modified", "data/nl/a.jsonl", None, 2, 4),
    FileChange("removed", "data/nl/b.jsonl", None, 1, None),
)


def test_two_revisions_are_compared(two_versions: Path) -> None:
    assert diff_versions(two_versions, "HEAD~1", "HEAD") == ("HEAD~1", "HEAD", EXPECTED)
    assert diff_versions(two_versions, "HEAD", "HEAD").changes == ()


def test_revision_is_compared_with_current_data(two_versions: Path) -> None:
    assert diff_versions(two_versions).changes == ()
    assert diff_versions(two_versions, "HEAD~1").changes == EXPECTED
    write(two_versions, {"multi/d.jsonl": "7\n", "nl/new.jsonl": "9\n"})
    assert diff_versions(two_versions).changes == (
        FileChange("modified", "data/multi/d.jsonl", None, 2, 1),
        FileChange("added", "data/nl/new.jsonl", None, None, 1),
    )


def test_list_missing_in_cache_and_remote_raises_data_error(
    two_versions: Path, tmp_path: Path
) -> None:
    add_remote(two_versions, str(tmp_path / "remote"))
    push(two_versions)
    shutil.rmtree(two_versions / ".dvc/cache")
    with pytest.raises(
        DataError, match=r"the list of files of HEAD~1 .* nor in a remote(.|\n)*git checkout HEAD~1"
    ):
        diff_versions(two_versions, "HEAD~1", "HEAD")
    assert diff_versions(two_versions, "HEAD", "HEAD").changes == ()


def test_pushed_old_list_is_fetched_from_the_remote(two_versions: Path, tmp_path: Path) -> None:
    git(two_versions, "checkout", "-q", "HEAD~1", "--", "data.dvc")
    with Repo(str(two_versions)) as repo:
        repo.checkout(force=True)
    add_remote(two_versions, str(tmp_path / "remote"))
    push(two_versions)
    git(two_versions, "checkout", "-q", "HEAD", "--", "data.dvc")
    with Repo(str(two_versions)) as repo:
        repo.checkout(force=True)
    push(two_versions)
    shutil.rmtree(two_versions / ".dvc/cache")
    changes = diff_versions(two_versions, "HEAD~1").changes
    assert [change[:2] for change in changes] == [change[:2] for change in EXPECTED]
    assert changes[3] == FileChange("modified", "data/nl/a.jsonl", None, None, 4), (
        "documents are counted only if the bytes are on this machine"
    )


def test_remote_secrets_in_local_config_do_not_fail_the_diff(
    two_versions: Path, tmp_path: Path
) -> None:
    """A revision does not have the remote that the local configuration file extends."""
    add_remote(two_versions, str(tmp_path / "remote"))
    with Repo(str(two_versions)) as repo, repo.config.edit("local") as config:
        config["remote"]["backup"] = {"verify": True}
    assert diff_versions(two_versions, "HEAD~1", "HEAD").changes == EXPECTED


def test_project_may_be_a_subfolder_of_the_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    project = tmp_path / "below"
    project.mkdir()
    Repo.init(str(project), subdir=True).close()
    write(project, {"nl/a.jsonl": "1\n"})
    commit(project)
    write(project, {"nl/a.jsonl": "1\n2\n"})
    assert diff_versions(project).changes == (
        FileChange("modified", "data/nl/a.jsonl", None, 1, 2),
    )


def test_all_files_are_added_if_the_revision_has_no_data_dvc(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "nothing")
    Repo.init(str(tmp_path)).close()
    write(tmp_path, {"nl/a.jsonl": "1\n"})
    assert diff_versions(tmp_path).changes == (
        FileChange("added", "data/nl/a.jsonl", None, None, 1),
    )


def test_project_without_git_raises_data_error(project: Path) -> None:
    write(project, {"nl/a.jsonl": "1\n"})
    with pytest.raises(DataError, match=r"not under git(.|\n)*codegen data status"):
        diff_versions(project)


def test_unknown_revision_is_reported(two_versions: Path) -> None:
    with pytest.raises(DataError, match="unknown Git revision 'nowhere'"):
        diff_versions(two_versions, "nowhere")


def test_changed_paths_lists_both_paths_of_a_renamed_file(two_versions: Path) -> None:
    (two_versions / "data/nl/a.jsonl").rename(two_versions / "data/nl/z.jsonl")
    assert changed_paths(two_versions) == ["data/nl/a.jsonl", "data/nl/z.jsonl"]
