"""`data.dvc`: which bytes of `data/` this project stands on, kept with DVC's own library.

Design decision: DVC computes every md5, so that `dvc status`, `dvc add` and we can never disagree; beside it, `meta` in
`data.dvc` says which preset and which pins gave those bytes. Files are ordinary writable copies (DVC's default: reflink
where the file system can, else copy). Hard links would halve the disk (measured on ext4), but an edit of `data/` would
then reach DVC's cache too (measured: the cached file is lost); at 153 MB, the second copy is the cheaper of the two.
What is not covered: remotes (`remote`) and what differs between two versions (`differences`).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.fs import GitFileSystem
from dvc.repo import Repo
from dvc.scm import NoSCMError, RevError, resolve_rev
from dvc.utils.serialize import load_yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.tree import Tree

from components.core.errors import DataError
from components.data.config import Preset

logger = logging.getLogger(__name__)

DATA = "data"
DATA_DVC = "data.dvc"
_REFUSALS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY)
"""How the system refuses to change a folder; the last one that a mount point be renamed."""


class DvcPointer(NamedTuple):
    """What `data.dvc` states."""

    md5: str
    preset: str | None
    recipe: str | None
    """Fingerprint of the pins (`Pins.recipe`) that gave these bytes."""


def require_dvc(project: Path) -> None:
    """Check that the project is under DVC.

    Raises:
        DataError: it is not.
    """
    with repository(project):
        pass


def committed(project: Path) -> DvcPointer | None:
    """What the project commits itself to, or None where there is no whole `data.dvc`."""
    path = project / DATA_DVC
    if not path.exists():
        return None
    try:
        document = load_yaml(str(path))
        out, meta = document["outs"][0], document.get("meta") or {}
        if out["path"] != DATA:  # The last key that DVC writes of an output.
            raise KeyError(DATA)
        return DvcPointer(out["md5"], meta.get("preset"), meta.get("recipe"))
    except (DvcException, AttributeError, LookupError, TypeError):
        logger.warning("%s states no md5 of %s/: was a pull killed while DVC wrote it?", path, DATA)
        return None


def require_committed(project: Path) -> DvcPointer:
    """What `data.dvc` commits.

    Raises:
        DataError: the project is not under DVC, nothing is committed yet, or `data.dvc` is damaged.
    """
    require_dvc(project)
    if found := committed(project):
        return found
    if (project / DATA_DVC).exists():
        raise DataError(
            "data.dvc is damaged: it states no md5 of data/",
            expected="a file that DVC wrote whole",
            fix="take it back from git, or write it anew with `codegen data pull`",
        )
    raise DataError(
        "data.dvc does not exist",
        expected="the md5 of a pulled corpus",
        fix="run `codegen data pull`",
    )


def is_clean(project: Path) -> bool:
    """Whether `dvc status` finds nothing: `data/` and DVC's cache both hold the committed bytes."""
    with repository(project) as repo:
        return not repo.status(targets=[str(project / DATA_DVC)])


def md5_of(project: Path, folder: Path) -> str:
    """The md5 that `dvc add` would give to `folder`, without adding it."""
    return str(list_of(project, folder).hash_info.value)


def list_of(project: Path, folder: Path) -> Tree:
    """The list of files that `dvc add` would make of `folder`, without adding it."""
    with repository(project) as repo:
        _, _, tree = build(
            repo.cache.local, str(folder), repo.fs, "md5", ignore=repo.dvcignore, dry_run=True
        )
        return cast(Tree, tree)  # Of a folder it is a list.


def changed_paths(project: Path) -> list[str]:
    """Files below `data/` that are not as committed, as far as DVC's cache knows the committed ones."""
    with repository(project) as repo:
        changes = repo.data_status(granular=True)["uncommitted"]
        entries = [entry for kind in changes.values() for entry in kind]
        paths = [
            path for one in entries for path in (one.values() if isinstance(one, dict) else [one])
        ]  # Renamed: old and new.
        return sorted({path for path in paths if not path.endswith("/")})


def commit(project: Path, preset: Preset, recipe: str) -> DvcPointer:
    """`dvc add data`, and note in `data.dvc` where the bytes come from.

    Raises:
        DataError: DVC could not take all files into its cache.
    """
    if (
        committed(project) is None
    ):  # DVC would refuse to read the rest of a file that a kill cut off.
        (project / DATA_DVC).unlink(missing_ok=True)
    with repository(project) as repo:
        (stage,) = repo.add([str(project / DATA)])
        stage.meta = {"preset": preset, "recipe": recipe}
        stage.dump()
    if not is_clean(
        project
    ):  # `dvc add` only logs a file that it could not copy, e.g. to a full disk.
        raise DataError(
            f"DVC could not take {DATA}/ into its cache, as its log says",
            expected="`dvc status` to be clean after `dvc add`",
            fix=f"make room where {project / '.dvc' / 'cache'} lies, then run the same command again",
        )
    return DvcPointer(str(stage.outs[0].hash_info.value), preset, recipe)


def committed_at(project: Path, revision: str) -> str | None:
    """The md5 that `data.dvc` states in a git revision, or None where that has no `data.dvc`.

    Raises:
        DataError: the project is not under git, or has no such revision.
    """
    with repository(project) as repo:
        try:
            # Not DVC's own switch to a revision: that reads the configuration of then with the secrets of now, and fails
            # where these name a remote that the revision does not have (measured with 3.67).
            fs = GitFileSystem(scm=repo.scm, rev=resolve_rev(repo.scm, revision))
            folder = Path(repo.root_dir).relative_to(repo.scm.root_dir)
            path = fs.join("/", *folder.parts, DATA_DVC)
            return str(load_yaml(path, fs=fs)["outs"][0]["md5"]) if fs.exists(path) else None
        except NoSCMError:
            raise DataError(
                f"{project} is not under git as far as DVC sees it",
                expected=f"a git repository, whose revisions of {DATA_DVC} are compared",
                fix="run `codegen data status`, which names what differs from the committed bytes, or put the project under "
                "git (`git init`, and `dvc config core.no_scm false` where DVC was begun without)",
            ) from None
        except RevError as error:
            raise DataError(
                str(error),
                expected="a branch, a tag or a commit",
                fix="list them with `git log --oneline -- data.dvc`",
            ) from None


@contextmanager
def repository(project: Path) -> Iterator[Repo]:
    """The project's DVC repository, open; what DVC raises inside becomes a `DataError`.

    Raises:
        DataError: the project is not under DVC, lies inside another project, may not be written to, or DVC failed.
    """
    try:
        with wrap_permission_errors(project), Repo(str(project)) as repo:
            if (
                Path(repo.root_dir) != project.resolve()
            ):  # DVC looks upwards; we would fill a folder inside the project.
                raise DataError(
                    f"{project} lies inside the DVC project {repo.root_dir}",
                    expected="the folder that holds .dvc/",
                    fix=f"run this in {repo.root_dir}",
                )
            repo.scm_context.quiet = (
                True  # What to `git add` is for us to say, not for DVC to print.
            )
            yield repo
    except NotDvcRepoError:
        raise DataError(
            f"{project} is not under DVC",
            expected="a folder with .dvc/ in it",
            fix="run this in a clone of the project, or `dvc init` there first",
        ) from None
    except DvcException as error:
        raise DataError(
            f"DVC failed: {error}",
            expected="DVC to read or add data/",
            fix="run `dvc status` to see what it finds",
        ) from error


@contextmanager
def wrap_permission_errors(project: Path) -> Iterator[None]:
    """Turn what the system says of folders that may not be changed into a `DataError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise DataError(
            f"{error.filename} is refused: {error.strerror}",
            expected=f"a folder {project} that this user may write to, since DVC keeps a lock in it, and a {DATA}/ in it "
            "that can be replaced: no mount point",
            fix=f"mend that, and run the same command again; {DATA}/ is as it was",
        ) from error
