"""Pins of the sources that a recipe declares: the `.dvc` files of `dvc add` and `dvc import-url`.

`dvc add FOLDER` pins files of the project by their md5; `dvc import-url --no-download URI` pins
files elsewhere by the checksum of their storage, without a copy. A source needs no setting: it is
pinned if a `.dvc` file of the project covers all of its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

from dvc.output import Output
from dvc.repo import Repo
from dvc_data.hashfile.build import build
from dvc_data.hashfile.tree import Tree

from components.core.errors import DataError
from components.core.remote_errors import wrap_remote_errors
from components.data.dvc.dvc_objects import shorten_list
from components.data.dvc.dvc_repo import DATA_DVC, open_repo

_MAX_LISTED = 5
"""Files that an error lists; it counts the others."""


class SourcePins(NamedTuple):
    """The pins of the files of a corpus."""

    checksums: dict[str, str]
    """DVC's checksum, by the path of the `.dvc` file below the project."""
    is_complete: bool
    """Whether every file is pinned."""


class PinState(NamedTuple):
    """A `.dvc` file, and whether the files have its checksum."""

    file: str
    path: str
    """Of the pinned files: absolute, or a URI."""
    checksum: str
    difference: str
    """Empty if the files have the checksum."""
    fix: str


class _Pin(NamedTuple):
    file: str
    """The `.dvc` file below the project."""
    output: Output


def verify_pins(project: Path, uris: Iterable[str]) -> SourcePins:
    """Find the pins of files, and check that the files have not changed.

    Args:
        project: the folder with `.dvc`; without it, nothing is pinned.
        uris: absolute paths or URIs of files, folders and globs.

    Raises:
        DataError: pinned files differ from their pin; names the files.
    """
    if not (project / ".dvc").is_dir():
        return SourcePins({}, False)
    with open_repo(project) as repo:
        pins = _pins_by_path(repo)
        covering = [_covering_pin(uri, pins) for uri in uris]
        checksums = {pin.file: str(pin.output.hash_info.value) for pin in covering if pin}
        _require_unchanged(pins.values(), checksums)
    return SourcePins(dict(sorted(checksums.items())), None not in covering)


def require_unchanged(project: Path, checksums: Mapping[str, str]) -> None:
    """Check that pinned files still have these checksums.

    Raises:
        DataError: they differ; names the files.
    """
    with open_repo(project) as repo:
        _require_unchanged(_pins_by_path(repo).values(), checksums)


def compare_pins(project: Path) -> list[PinState]:
    """The state of every pin of the project but `data.dvc`, sorted by path.

    Raises:
        DataError: the project is not under DVC.
        RemoteError: the storage of an import fails.
    """
    with open_repo(project) as repo:
        return sorted(
            PinState(file, path, checksum, _difference(output, checksum), _fix(file, output))
            for path, (file, output) in _pins_by_path(repo).items()
            if file != DATA_DVC and (checksum := str(output.hash_info.value))
        )


def _pins_by_path(repo: Repo) -> dict[str, _Pin]:
    """Every file and folder that a `.dvc` file pins, by its absolute path or URI."""
    pins = {}
    for stage in repo.index.stages:
        if not stage.is_data_source or stage.is_repo_import or stage.is_db_import:
            continue
        file = repo.fs.relpath(stage.path, repo.root_dir)
        for output in (*stage.deps, *stage.outs):
            # An import that was not downloaded has no checksum, and one of a version of a bucket
            # reads that version, not the current files.
            if output.hash_info and not output.fs.version_aware:
                pins[_path_of(output)] = _Pin(file, output)
    return pins


def _path_of(output: Output) -> str:
    if output.protocol == "local":
        return str(output.fs_path)
    return str(output.fs.unstrip_protocol(output.fs_path)).rstrip("/")


def _covering_pin(uri: str, pins: Mapping[str, _Pin]) -> _Pin | None:
    return next((pins[path] for path in _path_and_parents(uri) if path in pins), None)


def _path_and_parents(uri: str) -> Iterator[str]:
    path = uri.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]


def _require_unchanged(pins: Iterable[_Pin], checksums: Mapping[str, str]) -> None:
    for file, output in pins:
        if file in checksums and (difference := _difference(output, checksums[file])):
            raise DataError(
                f"{_path_of(output)} {difference}",
                expected=f"{checksums[file]}, which {file} pins",
                fix=_fix(file, output),
            )


def _difference(output: Output, pinned: str) -> str:
    """How files differ from their checksum; empty if they have it."""
    with wrap_remote_errors("comparing it with its DVC pin", _path_of(output)):
        if not output.exists:
            return "does not exist"
        checksum = str(output.get_hash().value)
    return "" if checksum == pinned else f"has the checksum {checksum}{_changed_files(output)}"


def _fix(file: str, output: Output) -> str:
    if output.IS_DEPENDENCY:
        update = "dvc update" if output.stage.outs[0].hash_info else "dvc update --no-download"
        return f"restore the files, or run `{update} {file}` if the change is intended"
    return (
        f"run `dvc checkout --force {file}` to restore the files, or `dvc add {output}` if the "
        "change is intended"
    )


def _changed_files(output: Output) -> str:
    """The files that were added, removed or modified, as the end of a message; empty if DVC's cache
    has no pinned list, as for a single file and an import."""
    pinned = None if output.IS_DEPENDENCY else output.get_obj()
    if not isinstance(pinned, Tree):
        return ""
    before = {key: hash_info.value for key, _, hash_info in pinned}
    after = {key: hash_info.value for key, _, hash_info in _current_tree(output)}
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    return f"; changed: {shorten_list(('/'.join(key) for key in changed), _MAX_LISTED)}"


def _current_tree(output: Output) -> Tree:
    path, fs, ignore = output.fs_path, output.fs, output.dvcignore
    _, _, tree = build(output.cache, path, fs, output.hash_name, ignore=ignore, dry_run=True)
    return cast(Tree, tree)
