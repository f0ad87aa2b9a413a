"""DVC's objects: the files of `data/` under the md5 of their bytes, and the list of them, whose name ends in `.dir`.

Design decision: an object counts as whole when its bytes were hashed now. DVC's own check believes every file that is
read-only, which it makes all of them, so a damaged one would pass (measured with 3.67). What is not covered: which objects
have to be where (`remote`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from fsspec.callbacks import Callback

from components.core.progress import Advance
from components.data.dvc.dvc_repo import DATA

DIR_OBJECT = "the list of files"
"""What the object whose name ends in `.dir` is called in a message."""

Objects = dict[str, str]
"""Objects by their name in DVC (md5), and what each is: a path below the project, or `LIST`, which stands last."""


def objects_of(tree: Tree) -> Objects:
    """The objects of a list of files, itself last: that is the order in which a copy of them may be interrupted."""
    return {
        **{md5: path for path, md5 in files_of(tree).items()},
        str(tree.hash_info.value): DIR_OBJECT,
    }


def files_of(tree: Tree) -> dict[str, str]:
    """The md5 of each file of a list, by its path below the project."""
    return {"/".join((DATA, *key)): str(hash_info.value) for key, _, hash_info in tree}


def load_list(cache: HashFileDB, md5: str) -> Tree:
    """The list of files that has this md5 and is in the cache."""
    return Tree.load(cache, HashInfo("md5", md5))


def exists(odb: HashFileDB, oid: str) -> bool:
    """Whether an object is there, whole or not."""
    return bool(odb.fs.exists(odb.oid_to_path(oid)))


def size_of(odb: HashFileDB, oid: str) -> int:
    """Bytes of an object that is there."""
    return int(odb.fs.info(odb.oid_to_path(oid))["size"])


def _is_whole(odb: HashFileDB, oid: str) -> bool:
    # Not `odb.check`: it believes every file that is read-only, as DVC makes all of them.
    return bool(hash_file(odb.oid_to_path(oid), odb.fs, "md5")[1].value == oid.removesuffix(".dir"))


def evict_corrupt(cache: HashFileDB, objects: Mapping[str, str]) -> list[str]:
    """Remove from the cache those of the objects that are not what their name says; returns them."""
    damaged = [oid for oid in objects if exists(cache, oid) and not _is_whole(cache, oid)]
    for oid in damaged:
        with suppress(FileNotFoundError):
            cache.delete(oid)
    return damaged


class _Counted(Callback):  # type: ignore[misc]  # fsspec has no types
    """Passes the progress of DVC's copies on to ours, a file at a time."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self._advance = advance

    def relative_update(self, inc: int = 1) -> None:
        self._advance(inc)

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:  # noqa: ARG002 - fsspec's names
        return Callback()  # The bytes of one file are not counted.


def copy_objects(source: HashFileDB, target: HashFileDB, oids: list[str], advance: Advance) -> None:
    """Copy objects, each whole or not at all, in place of what lies there; `advance` counts files."""
    if oids:
        paths = [source.oid_to_path(oid) for oid in oids]
        target.add(
            paths, source.fs, oids, check_exists=False, verify=False, callback=_Counted(advance)
        )
