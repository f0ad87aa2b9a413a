"""DVC's default remote, a folder or a bucket with the bytes of `data/`: check, push and fetch.

Objects are copied with DVC's object databases, not with `Repo.push` and `Repo.fetch`. These never
push a lost object again, push damaged objects of the cache, fetch only versions that a `.dvc` file
states, and report only the number of failures (docs/decisions/0017-dvc-stage.md). Here each object
is looked up, and hashed before it is sent and after it is received. The list of files is sent last,
so it marks a complete push. Limits: no remotes with cloud versioning, no imports from other
repositories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from components.core.extras import require_extra
from components.core.files import require_disk_space
from components.core.network import redact_credentials
from components.core.progress import Advance, track
from components.core.remote_errors import wrap_remote_errors
from components.data.dvc import dvc_repo
from components.data.dvc.dvc_objects import (
    DIR_OBJECT,
    copy_objects,
    evict_corrupt,
    load_tree,
    object_exists,
    object_size,
    shorten_list,
    tree_objects,
)
from components.data.dvc.dvc_repo import DATA, DATA_DVC

_MAX_LISTED = 3
"""Objects listed in a message; further objects are counted."""


class RemoteState(NamedTuple):
    """How much of the committed bytes the default remote has."""

    name: str
    url: str
    num_objects: int
    """Distinct files, and their list."""
    missing: tuple[str, ...]
    """Sorted paths of objects that the remote lacks, or has in another size."""
    verify: bool
    """DVC's setting of the remote: whether `dvc pull` hashes received objects."""


class PushResult(NamedTuple):
    """Objects of the committed bytes, and those that a push sent."""

    name: str
    url: str
    num_objects: int
    num_sent: int


def default_remote(project: Path) -> str | None:
    """The name of DVC's default remote, or None if none is configured."""
    with dvc_repo.open_repo(project) as repo:
        name = repo.config["core"].get("remote")
        return str(name) if name else None


def check_remote(project: Path) -> RemoteState | None:
    """Compare the default remote with `data.dvc`; None if no remote is configured.

    Raises:
        DataError: `data.dvc` does not exist.
        RemoteError: the remote fails.
    """
    if default_remote(project) is None:
        return None
    md5 = dvc_repo.require_pointer(project).md5
    with _open_remote(project, "listing its objects") as remote:
        tree = remote.fetch_tree(md5)
        if tree is None:
            return RemoteState(remote.name, remote.url, 1, (DIR_OBJECT,), remote.verify)
        objects = tree_objects(tree)
        missing = sorted(objects[oid] for oid in remote.missing(objects))
        return RemoteState(remote.name, remote.url, len(objects), tuple(missing), remote.verify)


def push(project: Path) -> PushResult:
    """Send the committed objects that the default remote lacks.

    Raises:
        DataError: no remote is configured, `data/` has changed, or DVC's cache is damaged.
        RemoteError: the remote fails or does not store an object.
    """
    md5 = dvc_repo.require_pointer(project).md5
    if not dvc_repo.is_clean(project):
        raise DataError(
            f"{DATA}/ or DVC's cache differs from {DATA_DVC}",
            expected=f"md5 {md5}: a push sends the committed bytes",
            fix="run `codegen data status` to list the files",
        )
    with _open_remote(project, f"pushing {DATA}/") as remote:
        objects = tree_objects(load_tree(remote.cache, md5))
        missing = {oid: objects[oid] for oid in remote.missing(objects)}
        _require_intact(remote.cache, missing)
        with track(f"pushing to {remote.name}", len(missing), "files") as advance:
            remote.send([oid for oid in missing if oid != md5], advance)
            remote.send([oid for oid in missing if oid == md5], advance)
        if not_stored := remote.missing(missing):
            raise RemoteError(
                f"the DVC remote {remote.name} has not stored {_labels(missing, not_stored)}",
                expected="storage that keeps all objects",
                fix="run the same command again; if the error repeats, use another storage",
            )
        return PushResult(remote.name, remote.url, len(objects), len(missing))


def fetch_tree(project: Path, md5: str) -> bool:
    """Fetch the list of files with this md5 into DVC's cache; False if the remote lacks it too.

    Raises:
        DataError: no remote is configured.
        RemoteError: the remote fails or has a damaged list.
    """
    with _open_remote(project, "fetching a list of files") as remote:
        return remote.fetch_tree(md5) is not None


def check_out(project: Path, md5: str, folder: Path) -> str:
    """Fill a new folder with the version `md5` from DVC's cache and default remote.

    Received objects stay in the cache, so an interrupted call resumes. Returns a label of the
    origin.

    Raises:
        DataError: no remote is configured.
        RemoteError: the remote fails, or lacks or has a damaged object; the folder is not created.
        DiskFullError: no disk space for the objects in DVC's cache and in the folder.
    """
    with _open_remote(project, f"fetching {DATA}/") as remote:
        tree = remote.fetch_tree(md5)
        if tree is None:
            raise _incomplete_remote(remote, md5, DIR_OBJECT)
        objects = tree_objects(tree)
        evict_corrupt(remote.cache, objects)
        missing = {oid: objects[oid] for oid in objects if not object_exists(remote.cache, oid)}
        if lost := remote.missing(missing):
            raise _incomplete_remote(remote, md5, _labels(objects, lost))
        remote_bytes = sum(remote.sizes(missing).values())
        cached_bytes = sum(object_size(remote.cache, oid) for oid in objects.keys() - missing)
        purpose = f"{DATA}/ and its copy in DVC's cache"
        require_disk_space(project, 2 * remote_bytes + cached_bytes, purpose)
        with track(f"fetching from {remote.name}", len(missing), "files") as advance:
            remote.receive(missing, advance)
        checkout(str(folder), remote.repo.fs, tree, remote.cache, force=True, quiet=True)
        return f"the DVC remote {remote.name}" if missing else "DVC's cache"


class _Remote:
    """The default remote and DVC's cache, both open."""

    def __init__(self, repo: Repo, odb: HashFileDB) -> None:
        self.repo = repo
        self._odb = odb
        self.name = str(repo.config["core"]["remote"])
        url = str(odb.fs.unstrip_protocol(odb.path)).removesuffix("/files/md5")
        self.url = redact_credentials(url)
        self.verify = bool(odb.verify)
        self.cache: HashFileDB = repo.cache.local

    def fetch_tree(self, md5: str) -> Tree | None:
        """The list of files, fetched if it is not in the cache; None if the remote lacks it too."""
        tree_object = {md5: DIR_OBJECT}
        evict_corrupt(self.cache, tree_object)
        if not object_exists(self.cache, md5):
            if self.missing(tree_object):
                return None
            self.receive(tree_object, lambda *_: None)
        return load_tree(self.cache, md5)

    def sizes(self, oids: Iterable[str]) -> dict[str, int]:
        """Bytes of each object that the remote has."""
        names = list(oids)
        if not names:
            return {}
        paths = [self._odb.oid_to_path(oid) for oid in names]
        sizes = {}
        for oid, info in zip(names, self._odb.fs.info(paths, return_exceptions=True), strict=True):
            if isinstance(info, FileNotFoundError):
                continue
            if isinstance(info, BaseException):
                raise info
            sizes[oid] = int(info["size"])
        return sizes

    def missing(self, objects: Iterable[str]) -> list[str]:
        """The objects that the remote lacks, or has in another size than the cache, in order."""
        names = list(objects)
        sizes = self.sizes(names)
        missing = []
        for oid in names:
            is_cached = object_exists(self.cache, oid)
            if oid not in sizes or (is_cached and sizes[oid] != object_size(self.cache, oid)):
                missing.append(oid)
        return missing

    def send(self, oids: list[str], advance: Advance) -> None:
        """Copy objects from the cache to the remote; objects of another size are replaced."""
        for oid in self.sizes(oids):
            self._odb.delete(oid)
        copy_objects(self.cache, self._odb, oids, advance, verify=False)

    def receive(self, objects: Mapping[str, str], advance: Advance) -> None:
        """Copy objects from the remote into the cache, which keeps intact objects only.

        Raises:
            RemoteError: an object of the remote is damaged.
        """
        copy_objects(self._odb, self.cache, list(objects), advance, verify=True)
        if corrupt := [oid for oid in objects if not object_exists(self.cache, oid)]:
            path = self._odb.oid_to_path(corrupt[0])
            uri = redact_credentials(str(self._odb.fs.unstrip_protocol(path)))
            raise RemoteError(
                f"the DVC remote {self.name} has damaged bytes of {_labels(objects, corrupt)}",
                expected=f"bytes with the md5 in their name, such as {corrupt[0]}",
                fix=f"remove {uri}, then run `codegen data push` on a machine with intact {DATA}/; "
                "or run `codegen data pull --from archives`, which needs no remote",
            )


@contextmanager
def _open_remote(project: Path, doing: str) -> Iterator[_Remote]:
    with dvc_repo.open_repo(project) as repo, lock_repo(repo):
        name = repo.config["core"].get("remote")
        if not name:
            raise DataError(
                f"{project} has no default DVC remote",
                expected="a folder or a bucket with the bytes of data/",
                fix="run `dvc remote add --default NAME URL`, where URL is a folder or "
                "s3://bucket/prefix, and `dvc remote modify NAME verify true`",
            )
        url = str(repo.config["remote"].get(name, {}).get("url", ""))
        if url.startswith("s3://"):
            require_extra("s3", f"the DVC remote {name} ({redact_credentials(url)})")
        with wrap_remote_errors(doing, f"the DVC remote {name}"):
            try:
                odb = repo.cloud.get_remote_odb()
            except (DvcConfigError, ImportError, RemoteMissingDepsError) as error:
                raise RemoteError(
                    f"the DVC remote {name} cannot be used: {redact_credentials(str(error))}",
                    expected="a remote of an installed type, without cloud versioning",
                    fix="install its packages, change it with "
                    f"`dvc remote modify {name}`, or select another with `dvc remote default`",
                ) from error
            yield _Remote(repo, odb)


def _require_intact(cache: HashFileDB, objects: Mapping[str, str]) -> None:
    if corrupt := evict_corrupt(cache, objects):
        raise DataError(
            f"DVC's cache had damaged bytes of {_labels(objects, corrupt)}; they were removed",
            expected="bytes with the md5 in their name",
            fix=f"run `dvc add {DATA}`, which copies them from {DATA}/, then the same command",
        )


def _incomplete_remote(remote: _Remote, md5: str, missing: str) -> RemoteError:
    return RemoteError(
        f"the DVC remote {remote.name} ({remote.url}) lacks {missing} of md5 {md5}",
        expected=f"all bytes that {DATA_DVC} commits",
        fix="run `codegen data push` on a machine that has them, or `codegen data pull --from "
        "archives`",
    )


def _labels(objects: Mapping[str, str], oids: Iterable[str]) -> str:
    return shorten_list((objects[oid] for oid in oids), _MAX_LISTED)
