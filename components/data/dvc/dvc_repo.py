"""The DVC repository of a project: the pointer file `data.dvc`, and the objects in DVC's cache.

DVC computes each md5, so `dvc status` and this code always agree. `meta` in `data.dvc` states the
preset and the recipe hash of the pins. Files of `data/` are writable copies (DVC's default: a
reflink if possible, else a copy). Hard links would halve the disk space, but an edit of `data/`
would overwrite the file in DVC's cache (both measured on ext4).

An object (a file under its md5, or the list of files, whose name ends in `.dir`) is checked by
hashing its bytes. DVC's own check trusts every read-only file, and DVC makes all objects read-only,
so that check accepts a damaged object (measured with 3.67).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.fs import GitFileSystem
from dvc.repo import Repo
from dvc.scm import NoSCMError, RevError, resolve_rev
from dvc.utils.serialize import load_yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from fsspec.callbacks import Callback

from components.core.errors import DataError
from components.core.paths import require_relative_path
from components.core.progress import Advance
from components.data.config import Preset

logger = logging.getLogger(__name__)

DATA = "data"
DATA_DVC = "data.dvc"
DIR_OBJECT = "the list of files"
"""Label of the `.dir` object in messages."""
_PERMISSION_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY)
"""Errors of the system for a folder that may not be changed; EBUSY if it is a mount point."""


class DvcPointer(NamedTuple):
    """Content of `data.dvc`."""

    md5: str
    preset: str | None
    recipe_hash: str | None
    """`Pins.recipe_hash` of the pins that gave these bytes; the key `recipe` of `meta`."""


def require_dvc(project: Path) -> None:
    """Check that the project is under DVC.

    Raises:
        DataError: it is not.
    """
    with open_repo(project):
        pass


def read_pointer(project: Path) -> DvcPointer | None:
    """The content of `data.dvc`, or None if the file is absent or incomplete."""
    path = project / DATA_DVC
    if not path.exists():
        return None
    try:
        document = load_yaml(str(path))
        out = document["outs"][0]
        meta = document.get("meta") or {}
        if out["path"] != DATA:  # DVC writes this key of an output last.
            raise KeyError(DATA)
        return DvcPointer(out["md5"], meta.get("preset"), meta.get("recipe"))
    except (DvcException, AttributeError, LookupError, TypeError):
        logger.warning("%s has no md5 of %s/: DVC may have been killed while writing", path, DATA)
        return None


def require_pointer(project: Path) -> DvcPointer:
    """The content of `data.dvc`.

    Raises:
        DataError: the project is not under DVC, or `data.dvc` is absent or damaged.
    """
    require_dvc(project)
    if pointer := read_pointer(project):
        return pointer
    if (project / DATA_DVC).exists():
        raise DataError(
            "data.dvc is damaged: it has no md5 of data/",
            expected="a complete file, as DVC writes it",
            fix="restore it from git, or rebuild it with `codegen data pull`",
        )
    raise DataError(
        "data.dvc does not exist",
        expected="the md5 of a pulled corpus",
        fix="run `codegen data pull`",
    )


def pointer_md5_at(project: Path, revision: str) -> str | None:
    """The md5 in `data.dvc` of a git revision, or None if the revision has no `data.dvc`.

    Raises:
        DataError: the project is not under git, or the revision does not exist.
    """
    with open_repo(project) as repo:
        try:
            # DVC's own switch to a revision combines the revision's configuration with the current
            # secrets, and fails if these name a remote that the revision lacks (measured with
            # 3.67).
            fs = GitFileSystem(scm=repo.scm, rev=resolve_rev(repo.scm, revision))
            folder = Path(repo.root_dir).relative_to(repo.scm.root_dir)
            path = fs.join("/", *folder.parts, DATA_DVC)
            return str(load_yaml(path, fs=fs)["outs"][0]["md5"]) if fs.exists(path) else None
        except NoSCMError:
            raise DataError(
                f"{project} is not under git, according to DVC",
                expected=f"a git repository with revisions of {DATA_DVC}",
                fix="run `codegen data status` to list changed files, or put the project under git "
                "(`git init`, then `dvc config core.no_scm false`)",
            ) from None
        except RevError as error:
            raise DataError(
                str(error),
                expected="a branch, a tag or a commit",
                fix="list the revisions with `git log --oneline -- data.dvc`",
            ) from None


def is_clean(project: Path) -> bool:
    """Whether `data/` and DVC's cache both hold the committed bytes, as `dvc status` checks it."""
    with open_repo(project) as repo:
        return not repo.status(targets=[str(project / DATA_DVC)])


def compute_md5(project: Path, folder: Path) -> str:
    """The md5 that `dvc add` would compute for `folder`."""
    return str(build_tree(project, folder).hash_info.value)


def build_tree(project: Path, folder: Path) -> Tree:
    """The list of files that `dvc add` would build for `folder`."""
    with open_repo(project) as repo:
        cache, ignore = repo.cache.local, repo.dvcignore
        _, _, tree = build(cache, str(folder), repo.fs, "md5", ignore=ignore, dry_run=True)
        return cast(Tree, tree)  # `folder` is a folder, so DVC returns a tree.


def changed_paths(project: Path) -> list[str]:
    """Files below `data/` that differ from the committed files that DVC's cache knows."""
    paths = set[str]()
    with open_repo(project) as repo:
        for entries in repo.data_status(granular=True)["uncommitted"].values():
            for entry in entries:  # A renamed file is a dict of its old and new path.
                paths.update(entry.values() if isinstance(entry, dict) else [entry])
    return sorted(path for path in paths if not path.endswith("/"))


def commit(project: Path, preset: Preset, recipe_hash: str) -> DvcPointer:
    """Run `dvc add data` and record preset and recipe hash in `data.dvc`.

    Raises:
        DataError: DVC could not copy all files into its cache.
    """
    if read_pointer(project) is None:  # DVC refuses to read an incomplete file.
        (project / DATA_DVC).unlink(missing_ok=True)
    with open_repo(project) as repo:
        (stage,) = repo.add([str(project / DATA)])
        stage.meta = {"preset": preset, "recipe": recipe_hash}
        stage.dump()
    if not is_clean(project):  # `dvc add` only logs a failed copy, for example to a full disk.
        raise DataError(
            f"DVC could not copy {DATA}/ into its cache; see DVC's log above",
            expected="a clean `dvc status` after `dvc add`",
            fix=f"free disk space at {project / '.dvc' / 'cache'}, then run the same command again",
        )
    return DvcPointer(str(stage.outs[0].hash_info.value), preset, recipe_hash)


@contextmanager
def open_repo(project: Path) -> Iterator[Repo]:
    """The open DVC repository of a project; errors of DVC in the block become a `DataError`.

    Raises:
        DataError: the project is not under DVC, is inside another project or is not writable, or
            DVC failed.
    """
    try:
        with wrap_permission_errors(project), Repo(str(project)) as repo:
            # DVC also searches parent folders, and would fill a folder inside another project.
            if Path(repo.root_dir) != project.resolve():
                raise DataError(
                    f"{project} lies inside the DVC project {repo.root_dir}",
                    expected="the folder that contains .dvc/",
                    fix=f"run this in {repo.root_dir}",
                )
            repo.scm_context.quiet = True  # Without hints on `git add`.
            yield repo
    except NotDvcRepoError:
        raise DataError(
            f"{project} is not under DVC",
            expected="a folder that contains .dvc/",
            fix="run this in a clone of the project, or run `dvc init` there first",
        ) from None
    except DvcException as error:
        raise DataError(
            f"DVC failed: {error}",
            expected="DVC reads or adds data/",
            fix="run `dvc status` to see DVC's findings",
        ) from error


@contextmanager
def wrap_permission_errors(project: Path) -> Iterator[None]:
    """Convert errors of the system for a folder that may not be changed to a `DataError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PERMISSION_ERRNOS:
            raise
        raise DataError(
            f"{error.filename} is refused: {error.strerror}",
            expected=f"write permission in {project}, where DVC has a lock, and a {DATA}/ that is"
            " no mount point",
            fix=f"change that, then run the same command again; {DATA}/ was not changed",
        ) from error


Objects = dict[str, str]
"""DVC objects by md5, each with a label: a path below the project, or `DIR_OBJECT`."""


def tree_objects(tree: Tree) -> Objects:
    """The objects of a list of files. The list itself is last, so that an interrupted copy of the
    objects never has it without its files.
    """
    objects = {md5: path for path, md5 in tree_files(tree).items()}
    return {**objects, str(tree.hash_info.value): DIR_OBJECT}


def tree_files(tree: Tree) -> dict[str, str]:
    """The md5 of each file of a list, by its path below the project."""
    return {"/".join((DATA, *key)): str(hash_info.value) for key, _, hash_info in tree}


def load_tree(cache: HashFileDB, md5: str) -> Tree:
    """The list of files with this md5 from the cache.

    Raises:
        DataError: a path in it leaves the folder.
    """
    tree = Tree.load(cache, HashInfo("md5", md5))
    try:
        for path in tree_files(tree):
            require_relative_path(path)
    except ValueError as error:
        raise DataError(
            f"DVC's list of files {md5} cannot be used: {error}",
            expected=f"paths below {DATA}/",
            fix=f"do not trust the origin of {DATA_DVC} and its DVC remote",
        ) from error
    return tree


def object_exists(odb: HashFileDB, oid: str) -> bool:
    """Whether an object exists, intact or damaged."""
    return bool(odb.fs.exists(odb.oid_to_path(oid)))


def object_size(odb: HashFileDB, oid: str) -> int:
    """Bytes of an existing object."""
    return int(odb.fs.info(odb.oid_to_path(oid))["size"])


def evict_corrupt(cache: HashFileDB, objects: Mapping[str, str]) -> list[str]:
    """Remove the objects from the cache whose bytes do not have their md5; returns their names."""
    corrupt = []
    for oid in objects:
        if object_exists(cache, oid):
            _, hash_info = hash_file(cache.oid_to_path(oid), cache.fs, "md5")
            if hash_info.value != oid.removesuffix(".dir"):
                corrupt.append(oid)
    for oid in corrupt:
        with suppress(FileNotFoundError):
            cache.delete(oid)
    return corrupt


class _FileCounter(Callback):  # type: ignore[misc]  # fsspec has no types
    """Counts the files that DVC copies."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self._advance = advance

    def relative_update(self, inc: int = 1) -> None:
        self._advance(inc)

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:  # noqa: ARG002 - fsspec's names
        return Callback()  # The bytes of a file are not counted.


def copy_objects(source: HashFileDB, target: HashFileDB, oids: list[str], advance: Advance) -> None:
    """Copy objects atomically and overwrite existing objects; `advance` counts files."""
    if oids:
        paths = [source.oid_to_path(oid) for oid in oids]
        counter = _FileCounter(advance)
        target.add(paths, source.fs, oids, check_exists=False, verify=False, callback=counter)


def shorten_list(names: Iterable[str], max_listed: int) -> str:
    """The first names in sorted order, and the number of further names."""
    ordered = sorted(names)
    num_more = len(ordered) - max_listed
    return ", ".join(ordered[:max_listed]) + (f" and {num_more} more" if num_more > 0 else "")
