"""The DVC repository of a project, and its pointer file `data.dvc`.

DVC computes each md5, so `dvc status` and this code always agree. `meta` in `data.dvc` states the
preset and the recipe hash of the pins. Files of `data/` are writable copies (DVC's default: a
reflink if possible, else a copy). Hard links would halve the disk space, but an edit of `data/`
would overwrite the file in DVC's cache (both measured on ext4).
"""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from dvc.dirs import site_cache_dir
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.fs import GitFileSystem
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK
from dvc.rwlock import SCHEMA as RWLOCK_SCHEMA
from dvc.scm import NoSCMError, RevError, resolve_rev
from dvc.utils.serialize import load_yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.tree import Tree
from voluptuous import Invalid

from components.core.errors import DataError
from components.data.config import Preset

logger = logging.getLogger(__name__)

DATA = "data"
DATA_DVC = "data.dvc"
_STATE = ".dvc/tmp/state"
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
            path = _path_in_git(repo, fs)
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


def differs_from_head(project: Path) -> bool | None:
    """Whether `data.dvc` differs from the last commit of git; None without git or a commit."""
    with open_repo(project) as repo:
        try:
            fs = GitFileSystem(scm=repo.scm, rev=resolve_rev(repo.scm, "HEAD"))
        except (NoSCMError, RevError):
            return None
        path = _path_in_git(repo, fs)
        content = fs.cat_file(path) if fs.exists(path) else None
        return bool(content != (project / DATA_DVC).read_bytes())


def _path_in_git(repo: Repo, fs: GitFileSystem) -> str:
    folder = Path(repo.root_dir).relative_to(repo.scm.root_dir)
    return str(fs.join("/", *folder.parts, DATA_DVC))


def is_clean(project: Path) -> bool:
    """Whether `data/` and DVC's cache both hold the committed bytes, as `dvc status` checks it."""
    with open_repo(project) as repo:
        return not repo.status(targets=[str(project / DATA_DVC)])


def compute_md5(project: Path, folder: Path) -> str:
    """The md5 that `dvc add` would compute for `folder`."""
    return str(build_tree(project, folder).hash_info.value)


def build_tree(project: Path, folder: Path) -> Tree:
    """The list of files that `dvc add` would build for `folder`.

    Raises:
        DataError: a file is a link without a target, for example into a pruned cache.
    """
    with open_repo(project) as repo:
        cache, ignore = repo.cache.local, repo.dvcignore
        try:
            _, _, tree = build(cache, str(folder), repo.fs, "md5", ignore=ignore, dry_run=True)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            raise DataError(
                f"{error.filename} is a link without a target, or was removed meanwhile",
                expected=f"files, or links to existing files, below {DATA}/",
                fix="run `codegen data pull`, which restores the committed files",
            ) from error
        return cast(Tree, tree)  # `folder` is a folder, so DVC returns a tree.


def changed_paths(project: Path) -> list[str]:
    """Files below `data/` that differ from the committed files that DVC's cache knows."""
    paths = set[str]()
    with open_repo(project) as repo:
        for entries in repo.data_status(granular=True)["uncommitted"].values():
            for entry in entries:  # A renamed file is a dict of its old and new path.
                paths.update(entry.values() if isinstance(entry, dict) else [entry])
    return sorted(path for path in paths if path.startswith(f"{DATA}/") and not path.endswith("/"))


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
        with wrap_permission_errors(project), _open_with_state(project) as repo:
            # DVC also searches parent folders, and would fill a folder inside another project.
            if Path(repo.root_dir) != project.resolve():
                raise DataError(
                    f"{project} lies inside the DVC project {repo.root_dir}",
                    expected="the folder that contains .dvc/",
                    fix=f"run this in {repo.root_dir}",
                )
            repo.scm_context.quiet = True  # Without hints on `git add`.
            _remove_torn_rwlock(repo)
            yield repo
    except NotDvcRepoError:
        raise DataError(
            f"{project} is not under DVC",
            expected="a folder that contains .dvc/",
            fix="run this in a clone of the project, or run `dvc init` there first",
        ) from None
    except LockError as error:
        raise DataError(
            f"another DVC process uses {project}: {error}",
            expected="no other DVC process in the project",
            fix="wait until it has ended, then run the same command again; if no process with that "
            f"PID is DVC, remove {project / '.dvc' / 'tmp' / RWLOCK_FILE} first",
        ) from error
    except DvcException as error:
        raise DataError(
            f"DVC failed: {error}",
            expected="DVC reads or adds data/",
            fix="correct the cause that DVC names, then run the same command again; `git checkout "
            "-- .dvc/config data.dvc dvc.yaml dvc.lock params.yaml` restores DVC's files",
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"DVC's table of known hashes failed: {error}",
            expected=f"a readable SQLite database below {_state_folder(project)}",
            fix="free disk space, or remove that folder, which is rebuilt; then run the same "
            "command again",
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"DVC cannot store a path that is not UTF-8: {_name_in(error)}",
            expected=f"names of files below {DATA}/, and of the project folder, in UTF-8",
            fix="rename that file or folder, then run the same command again",
        ) from error


def _name_in(error: UnicodeEncodeError) -> str:
    """The name around the character that could not be encoded."""
    before = re.split(r'[\s"]', error.object[: error.start])[-1]
    after = re.split(r'[\s"]', error.object[error.start :])[0]
    return before + after


def _state_folder(project: Path) -> Path:
    """DVC's state (a table of known hashes), inside the project if DVC_SITE_CACHE_DIR is not set.

    DVC's default is a folder below /var/tmp with a predictable name. It holds pickled objects, and
    another user may create it first.
    """
    return Path(site_cache_dir(str(project / _STATE)))


def _open_with_state(project: Path) -> Repo:
    """Open the repository; a damaged state inside the project is rebuilt."""
    state = project / _STATE
    config = {"core": {"site_cache_dir": str(state)}} if (project / ".dvc").is_dir() else None
    try:
        return Repo(str(project), config=config)
    except sqlite3.DatabaseError as error:
        # Another class is, for example, a full disk. Repositories share a folder of the user's.
        if type(error) is not sqlite3.DatabaseError or _state_folder(project) != state:
            raise
        logger.warning("%s is damaged and is rebuilt", state)
        shutil.rmtree(state)
        return Repo(str(project), config=config)


def _remove_torn_rwlock(repo: Repo) -> None:
    """Remove DVC's list of readers and writers if a killed process left it incomplete.

    DVC truncates and writes the file under a lock, and refuses to read an incomplete file.
    """
    path = Path(repo.tmp_dir) / RWLOCK_FILE
    if not _is_torn(path):
        return
    with make_lock(str(path.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir):
        if _is_torn(path):  # Else another process was just writing.
            logger.warning("%s is incomplete, as after a kill, and was removed", path)
            path.unlink()


def _is_torn(path: Path) -> bool:
    try:
        RWLOCK_SCHEMA(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return False
    except (ValueError, Invalid):
        return True
    return False


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
