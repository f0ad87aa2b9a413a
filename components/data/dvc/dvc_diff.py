"""`codegen data diff`: which files of `data/` were added, removed or changed between two versions, in documents.

Design decision: DVC's lists of files are compared here, not by `Repo.diff`. That reads each revision's configuration
together with the secrets of now, and fails where these name a remote that the revision does not have (measured with 3.67);
and of a version whose list the cache has lost it says only that it is another, where we fetch the list from the remote. What
is not covered: which documents of a file differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from components.core.errors import DataError
from components.data.config import CORPORA
from components.data.dvc import dvc_repo
from components.data.dvc.dvc_objects import exists, files_of, load_list
from components.data.dvc.dvc_remote import fetch_list, remote_name
from components.data.dvc.dvc_repo import DATA
from components.data.raw_corpus import num_lines

_DOCUMENTS = tuple(f"{DATA}/{corpus}/" for corpus in CORPORA)
"""Where files hold one document a line."""

Files = dict[str, str]
"""The md5 of each file, by its path below the project."""


class Change(NamedTuple):
    """One file that differs."""

    kind: Literal["added", "removed", "modified", "renamed"]
    path: str
    """Below the project; of a renamed file the new one."""
    renamed_from: str | None
    num_documents_before: int | None
    """None where there was none, where it holds no documents, or where its bytes are no longer at hand."""
    num_documents: int | None


class Differences(NamedTuple):
    """What differs between two versions of `data/`, sorted by path."""

    before: str
    after: str
    changes: tuple[Change, ...]


def differences(project: Path, before: str = "HEAD", after: str | None = None) -> Differences:
    """Compare two git revisions of `data.dvc`; `after=None` is `data/` as it lies here.

    Raises:
        DataError: no git, no such revision, or a list of files that neither DVC's cache nor the remote has.
        RemoteError: such a list is needed from a remote that does not answer.
    """
    project = project.resolve()
    old = _files_at(project, before)
    new = _files_at(project, after) if after else _files_here(project)
    count = _Counter(project, {} if after else new)
    changes = sorted(_changes(old, new, count), key=lambda change: change.path)
    return Differences(before, after or f"{DATA}/", tuple(changes))


def _files_here(project: Path) -> Files:
    folder = project / DATA
    return files_of(dvc_repo.list_of(project, folder)) if folder.is_dir() else {}


def _files_at(project: Path, revision: str) -> Files:
    md5 = dvc_repo.committed_at(project, revision)
    if md5 is None:
        return {}
    with dvc_repo.repository(project) as repo:
        if exists(repo.cache.local, md5):
            return files_of(load_list(repo.cache.local, md5))
    if remote_name(project) is None or not fetch_list(project, md5):
        raise DataError(
            f"the list of files of {revision} (md5 {md5}) is not in DVC's cache, nor in a remote",
            expected="every version that is compared to have been pulled here, or pushed to the default remote",
            fix=f"make it here: `git checkout {revision} -- data.dvc`, `codegen data pull`, and back the same way",
        )
    with dvc_repo.repository(project) as repo:
        return files_of(load_list(repo.cache.local, md5))


def _changes(old: Files, new: Files, count: _Counter) -> Iterator[Change]:
    gone: dict[str, list[str]] = {}
    for path in sorted(old.keys() - new.keys(), reverse=True):
        gone.setdefault(old[path], []).append(path)
    for path in sorted(new):
        md5 = new[path]
        if path in old:
            if old[path] != md5:
                yield Change("modified", path, None, count(path, old[path]), count(path, md5))
        elif gone.get(md5):
            yield Change("renamed", path, gone[md5].pop(), count(path, md5), count(path, md5))
        else:
            yield Change("added", path, None, None, count(path, md5))
    for md5, paths in gone.items():
        yield from (Change("removed", path, None, count(path, md5), None) for path in paths)


class _Counter:
    """Counts documents where the bytes are at hand: in DVC's cache, or here."""

    def __init__(self, project: Path, here: Files) -> None:
        self._project = project
        self._here = {md5: path for path, md5 in here.items()}
        with dvc_repo.repository(project) as repo:
            self._cache = repo.cache.local

    def __call__(self, path: str, md5: str) -> int | None:
        if not path.startswith(_DOCUMENTS) or not path.endswith(".jsonl"):
            return None
        if exists(self._cache, md5):
            return num_lines(Path(self._cache.oid_to_path(md5)))
        return num_lines(self._project / self._here[md5]) if md5 in self._here else None
