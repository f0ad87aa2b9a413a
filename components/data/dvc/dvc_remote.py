"""DVC's default remote, a folder or a bucket that keeps the bytes of `data/`: pushed to, looked at, fetched from.

Design decision: the objects are moved by DVC's own object stores, not by `Repo.push` and `Repo.fetch`. Those take a
remote that has the list of files for one that has the files (measured with 3.67: an object that a remote lost is never
pushed again), and they believe what arrives (measured: a damaged object enters the cache under the name of the whole one).
Here every object is looked for, and is hashed before it leaves and after it arrived. The list of files goes last, so only
a whole push is one. What is not covered: remotes with cloud versioning, and imports from other repositories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dvc.config import ConfigError as DvcConfigError
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.checkout import checkout
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.tree import Tree
from dvc_objects.fs.errors import RemoteMissingDepsError

from components.core.errors import DataError, RemoteError
from components.core.files import require_disk_space
from components.core.progress import Advance, track
from components.core.remote_errors import wrap_remote_errors
from components.data.dvc import dvc_repo
from components.data.dvc.dvc_objects import (
    DIR_OBJECT,
    copy_objects,
    evict_corrupt,
    exists,
    load_list,
    objects_of,
    size_of,
)
from components.data.dvc.dvc_repo import DATA, DATA_DVC

_MAX_NAMED = 3
"""Objects that a message names before it only counts."""


class RemoteState(NamedTuple):
    """What the default remote has of the committed bytes."""

    name: str
    url: str
    num_objects: int
    """Files with different content, and the list of them."""
    missing: tuple[str, ...]
    """What the remote has not, or not in full size: paths, sorted."""


class Pushed(NamedTuple):
    """What a push did."""

    name: str
    url: str
    num_objects: int
    num_sent: int


def remote_name(project: Path) -> str | None:
    """DVC's default remote, or None where none is configured."""
    with dvc_repo.repository(project) as repo:
        name = repo.config["core"].get("remote")
        return str(name) if name else None


def remote_state(project: Path) -> RemoteState | None:
    """What the default remote has of what `data.dvc` commits; None where no remote is configured.

    Raises:
        DataError: there is no `data.dvc`.
        RemoteError: the remote does not answer.
    """
    if remote_name(project) is None:
        return None
    md5 = _committed(project)
    with _opened(project, "looking at what it has") as remote:
        tree = remote.tree(md5)
        if tree is None:
            return RemoteState(remote.name, remote.url, 1, (DIR_OBJECT,))
        objects = objects_of(tree)
        lacking = remote.missing(objects)
        return RemoteState(
            remote.name, remote.url, len(objects), tuple(sorted(objects[oid] for oid in lacking))
        )


def push(project: Path) -> Pushed:
    """Send what `data.dvc` commits to the default remote: what it lacks, and nothing else.

    Raises:
        DataError: no remote is configured, `data/` is not as committed, or DVC's cache is damaged.
        RemoteError: the remote does not answer, refuses, or does not keep what it is given.
    """
    md5 = _committed(project)
    if not dvc_repo.is_clean(project):
        raise DataError(
            f"{DATA}/ or DVC's cache is not what {DATA_DVC} commits",
            expected=f"md5 {md5}, so that what is pushed is what is here",
            fix="run `codegen data status`, which names the files",
        )
    with _opened(project, f"pushing {DATA}/") as remote:
        objects = objects_of(load_list(remote.cache, md5))
        lacking = remote.missing(objects)
        _require_whole(remote.cache, {oid: objects[oid] for oid in lacking})
        with track(f"pushing to {remote.name}", len(lacking), "files") as advance:
            remote.send([oid for oid in lacking if oid != md5], advance)
            remote.send([oid for oid in lacking if oid == md5], advance)
        if left := remote.missing({oid: objects[oid] for oid in lacking}):
            raise RemoteError(
                f"the DVC remote {remote.name} has not kept {_named(objects[oid] for oid in left)}",
                expected="storage that keeps what it is given",
                fix="run the same command again; if it stays so, distrust that storage",
            )
        return Pushed(remote.name, remote.url, len(objects), len(lacking))


def fetch_list(project: Path, md5: str) -> bool:
    """Bring the list of files that `md5` stands for into DVC's cache. False where the default remote lacks it too.

    Raises:
        DataError: no remote is configured.
        RemoteError: the remote does not answer, or has a damaged list.
    """
    with _opened(project, "fetching a list of files") as remote:
        return remote.tree(md5) is not None


def check_out(project: Path, md5: str, folder: Path) -> str:
    """Fill a new folder with the bytes that `md5` stands for, from DVC's cache and its default remote.

    What arrives is kept in the cache, so an attempt that was killed goes on where it was. Returns where the bytes came from.

    Raises:
        DataError: no remote is configured.
        RemoteError: the remote does not answer, lacks an object, or has a damaged one; the folder is not made then.
        StorageFull: no room for the objects in DVC's cache and in the folder.
    """
    with _opened(project, f"fetching {DATA}/") as remote:
        tree = remote.tree(md5)
        if tree is None:
            raise _not_held(remote, md5, DIR_OBJECT)
        objects = objects_of(tree)
        evict_corrupt(remote.cache, objects)
        missing = [oid for oid in objects if not exists(remote.cache, oid)]
        if lacking := remote.missing({oid: objects[oid] for oid in missing}):
            raise _not_held(remote, md5, _named(objects[oid] for oid in lacking))
        sizes = remote.sizes(missing)
        kept = sum(size_of(remote.cache, oid) for oid in objects if oid not in sizes)
        require_disk_space(
            project, 2 * sum(sizes.values()) + kept, f"{DATA}/ and its copy in DVC's cache"
        )
        with track(f"fetching from {remote.name}", len(missing), "files") as advance:
            remote.receive({oid: objects[oid] for oid in missing}, advance)
        checkout(str(folder), remote.repo.fs, tree, remote.cache, force=True, quiet=True)
        return f"the DVC remote {remote.name}" if missing else "DVC's cache"


class _Remote:
    """The default remote and DVC's cache, both open."""

    def __init__(self, repo: Repo, odb: HashFileDB) -> None:
        self.repo, self._odb = repo, odb
        self.name = str(repo.config["core"]["remote"])
        self.url = str(odb.fs.unstrip_protocol(odb.path)).removesuffix("/files/md5")
        self.cache: HashFileDB = repo.cache.local

    def tree(self, md5: str) -> Tree | None:
        """The list of files, brought into the cache where it is not there; None where neither has it."""
        evict_corrupt(self.cache, {md5: DIR_OBJECT})
        if not exists(self.cache, md5):
            if self.missing({md5: DIR_OBJECT}):
                return None
            self.receive({md5: DIR_OBJECT}, lambda *_: None)
        return load_list(self.cache, md5)

    def sizes(self, oids: list[str]) -> dict[str, int]:
        """Bytes of each of the objects that are there."""
        infos = (
            self._odb.fs.info([self._odb.oid_to_path(oid) for oid in oids], return_exceptions=True)
            if oids
            else []
        )
        found: dict[str, int] = {}
        for oid, info in zip(oids, infos, strict=True):
            if isinstance(info, BaseException):
                if not isinstance(info, FileNotFoundError):
                    raise info
            else:
                found[oid] = int(info["size"])
        return found

    def missing(self, objects: Mapping[str, str]) -> list[str]:
        """Those of the objects that the remote has not, or in another size than the cache, in the given order."""
        found = self.sizes(list(objects))
        return [
            oid
            for oid in objects
            if oid not in found
            or (exists(self.cache, oid) and found[oid] != size_of(self.cache, oid))
        ]

    def send(self, oids: list[str], advance: Advance) -> None:
        """Copy objects from the cache to the remote, in place of what may lie there in another size."""
        for oid in self.sizes(oids):
            self._odb.delete(oid)
        copy_objects(self.cache, self._odb, oids, advance)

    def receive(self, objects: Mapping[str, str], advance: Advance) -> None:
        """Copy objects from the remote into the cache; those that are not what their name says are removed from it.

        Raises:
            RemoteError: an object of the remote is damaged.
        """
        copy_objects(self._odb, self.cache, list(objects), advance)
        if damaged := evict_corrupt(self.cache, objects):
            oid = damaged[0]
            raise RemoteError(
                f"the DVC remote {self.name} has damaged bytes of {_named(objects[oid] for oid in damaged)}",
                expected=f"bytes with the md5 in their name, as {oid}",
                fix=f"remove {self._odb.fs.unstrip_protocol(self._odb.oid_to_path(oid))} there, then run `codegen data push` "
                f"where {DATA}/ is whole; `codegen data pull --from archives` needs no remote",
            )


@contextmanager
def _opened(project: Path, doing: str) -> Iterator[_Remote]:
    with dvc_repo.repository(project) as repo, lock_repo(repo):
        name = repo.config["core"].get("remote")
        if not name:
            raise DataError(
                f"{project} has no default DVC remote",
                expected="a folder or a bucket that keeps the bytes of data/",
                fix="configure one: `dvc remote add --default NAME URL`, with a folder or s3://bucket/prefix as URL",
            )
        with wrap_remote_errors(doing, f"the DVC remote {name}"):
            try:
                odb = repo.cloud.get_remote_odb()
            except (DvcConfigError, RemoteMissingDepsError) as error:
                raise RemoteError(
                    f"the DVC remote {name} cannot be used: {error}",
                    expected="a remote of an installed kind, without cloud versioning",
                    fix=f"install what it needs (for s3://: `pip install dvc-s3`), mend it with `dvc remote modify {name}`, "
                    "or choose another with `dvc remote default`",
                ) from error
            yield _Remote(repo, odb)


def _committed(project: Path) -> str:
    committed = dvc_repo.committed(project)
    if committed is None:
        raise DataError(
            f"{DATA_DVC} does not exist",
            expected="the md5 of a pulled corpus",
            fix="run `codegen data pull`",
        )
    return committed.md5


def _require_whole(cache: HashFileDB, objects: Mapping[str, str]) -> None:
    if damaged := evict_corrupt(cache, objects):
        raise DataError(
            f"DVC's cache had damaged bytes of {_named(objects[oid] for oid in damaged)}; they were removed from it",
            expected="bytes with the md5 in their name",
            fix=f"run `dvc add {DATA}`, which copies them from {DATA}/ again, then the same command",
        )


def _not_held(remote: _Remote, md5: str, what: str) -> RemoteError:
    return RemoteError(
        f"the DVC remote {remote.name} ({remote.url}) lacks {what} of md5 {md5}",
        expected=f"all bytes that {DATA_DVC} commits",
        fix="run `codegen data push` where they are, or `codegen data pull --from archives`",
    )


def _named(paths: Iterator[str]) -> str:
    names = sorted(paths)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
