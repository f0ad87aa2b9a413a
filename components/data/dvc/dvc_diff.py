"""`codegen data diff`: added, removed, modified and renamed files of `data/` between two versions.

DVC's lists of files are compared here, without `Repo.diff`: that combines a revision's
configuration with the current secrets, and fails if these name a remote that the revision lacks
(measured with 3.67). If the cache has lost a list, it is fetched from the remote. Limit: documents
inside a file are counted, not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from components.core.errors import DataError
from components.data.config import PRESET_CORPORA
from components.data.dvc import dvc_repo
from components.data.dvc.dvc_objects import load_tree, object_exists, tree_files
from components.data.dvc.dvc_remote import default_remote, fetch_tree
from components.data.dvc.dvc_repo import DATA
from components.data.raw_corpus import count_lines

_CORPUS_FOLDERS = tuple(f"{DATA}/{corpus}/" for corpus in PRESET_CORPORA)
"""Folders whose JSON Lines files have a document in each line."""

Files = dict[str, str]
"""The md5 of each file, by its path below the project."""


class FileChange(NamedTuple):
    """A file that differs."""

    kind: Literal["added", "removed", "modified", "renamed"]
    path: str
    """Below the project; the new path of a renamed file."""
    renamed_from: str | None
    num_documents_before: int | None
    """None if the file did not exist, has no documents, or if its bytes are not on this machine."""
    num_documents: int | None


class DataDiff(NamedTuple):
    """Differences of two versions of `data/`, sorted by path."""

    before: str
    after: str
    changes: tuple[FileChange, ...]


def diff_versions(project: Path, before: str = "HEAD", after: str | None = None) -> DataDiff:
    """Compare two git revisions of `data.dvc`; `after=None` is the current `data/`.

    Raises:
        DataError: no git, no such revision, or neither DVC's cache nor the remote has a list of
            files.
        RemoteError: the remote that a list is fetched from fails.
    """
    project = project.resolve()
    old = _committed_files(project, before)
    new = _committed_files(project, after) if after else _current_files(project)
    counter = _DocumentCounter(project, {} if after else new)
    changes = sorted(_changes(old, new, counter), key=lambda change: change.path)
    return DataDiff(before, after or f"{DATA}/", tuple(changes))


def _current_files(project: Path) -> Files:
    folder = project / DATA
    return tree_files(dvc_repo.build_tree(project, folder)) if folder.is_dir() else {}


def _committed_files(project: Path, revision: str) -> Files:
    md5 = dvc_repo.pointer_md5_at(project, revision)
    if md5 is None:
        return {}
    with dvc_repo.open_repo(project) as repo:
        if object_exists(repo.cache.local, md5):
            return tree_files(load_tree(repo.cache.local, md5))
    if default_remote(project) is None or not fetch_tree(project, md5):
        raise DataError(
            f"the list of files of {revision} (md5 {md5}) is not in DVC's cache, nor in a remote",
            expected="both versions to have been pulled here, or pushed to the default remote",
            fix=f"run `git checkout {revision} -- data.dvc` and `codegen data pull`, then restore "
            "data.dvc in the same way",
        )
    with dvc_repo.open_repo(project) as repo:
        return tree_files(load_tree(repo.cache.local, md5))


def _changes(old: Files, new: Files, count: _DocumentCounter) -> Iterator[FileChange]:
    removed: dict[str, list[str]] = {}
    for path in sorted(old.keys() - new.keys(), reverse=True):
        removed.setdefault(old[path], []).append(path)
    for path, md5 in sorted(new.items()):
        if old.get(path) == md5:
            continue
        num_documents = count(path, md5)
        if path in old:
            yield FileChange("modified", path, None, count(path, old[path]), num_documents)
        elif removed.get(md5):
            old_path = removed[md5].pop()
            yield FileChange("renamed", path, old_path, num_documents, num_documents)
        else:
            yield FileChange("added", path, None, None, num_documents)
    for md5, paths in removed.items():
        for path in paths:
            yield FileChange("removed", path, None, count(path, md5), None)


class _DocumentCounter:
    """Counts documents of files whose bytes are in DVC's cache or in `data/`."""

    def __init__(self, project: Path, current: Files) -> None:
        self._project = project
        self._current = {md5: path for path, md5 in current.items()}
        with dvc_repo.open_repo(project) as repo:
            self._cache = repo.cache.local

    def __call__(self, path: str, md5: str) -> int | None:
        if not path.startswith(_CORPUS_FOLDERS) or not path.endswith(".jsonl"):
            return None
        if object_exists(self._cache, md5):
            return count_lines(Path(self._cache.oid_to_path(md5)))
        return count_lines(self._project / self._current[md5]) if md5 in self._current else None
