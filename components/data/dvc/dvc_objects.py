"""DVC's objects: files under their md5, and lists of files, in the cache or in a remote.

An object (a file under its md5, or the list of files, whose name ends in `.dir`) is checked by
hashing its bytes. DVC's own check trusts every read-only file, and DVC makes all objects read-only,
so that check accepts a damaged object (measured with 3.67).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from fsspec.callbacks import Callback

from components.core.errors import DataError
from components.core.paths import require_relative_path
from components.core.progress import Advance
from components.data.dvc.dvc_repo import DATA, DATA_DVC

DIR_OBJECT = "the list of files"
"""Label of the `.dir` object in messages."""

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


def copy_objects(
    source: HashFileDB, target: HashFileDB, oids: list[str], advance: Advance, *, verify: bool
) -> None:
    """Copy objects atomically and overwrite existing objects; `advance` counts files.

    With `verify`, DVC hashes each copy and removes damaged copies without an error.
    """
    if oids:
        paths = [source.oid_to_path(oid) for oid in oids]
        counter = _FileCounter(advance)
        target.add(paths, source.fs, oids, check_exists=False, verify=verify, callback=counter)


def shorten_list(names: Iterable[str], max_listed: int) -> str:
    """The first names in sorted order, and the number of further names."""
    ordered = sorted(names)
    num_more = len(ordered) - max_listed
    return ", ".join(ordered[:max_listed]) + (f" and {num_more} more" if num_more > 0 else "")
