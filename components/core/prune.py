"""Pruning of a store: which artifacts are needed, and removal of the others.

A removed artifact loses its manifest first: a local folder is renamed, and on a remote root the
manifest is deleted before the files. So a killed removal leaves a valid store, and the next one
finishes it. Limit: processes on other hosts that use the same store are not seen.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.core.artifact import Artifact, Kind
from components.core.errors import ArtifactError
from components.core.locks import exclusive_lock
from components.core.remote_errors import wrap_remote_errors
from components.core.store import (
    FOLLOWER_LOCK_SUFFIX,
    MANIFEST,
    SNAPSHOT_SUFFIX,
    USERS_LOCK,
    Store,
)

_REMOVED_FOLDER = ".removed"
"""Below the root: folders that are being deleted, or on a remote root markers with their names."""
_RESULT_KINDS = ("samples", "evaluation")
"""Results of a checkpoint, which are kept with it."""
_BUILDS = ".building"
_UNFINISHED_FOLDERS = (_BUILDS, ".partial")
"""Below the scratch folder: interrupted builds and copies, which resume."""
_STEP = re.compile(r"(?<=-step)-\d{8,}(?=-)")
"""In the label of a checkpoint inside a stage and of its results (`flows.steps.follow`)."""


class Leftover(NamedTuple):
    """A local folder that is no published artifact."""

    path: Path
    size_bytes: int
    reason: str


class PrunePlan(NamedTuple):
    """What pruning removes and keeps."""

    removed_artifacts: tuple[Artifact, ...]
    """Newest first, so that an artifact is removed before its inputs."""
    kept_artifacts: tuple[Artifact, ...]
    leftovers: tuple[Leftover, ...]


def artifact_size(artifact: Artifact) -> int:
    """Bytes of the files of an artifact."""
    return sum(file.size_bytes for file in artifact.files)


def label_group(label: str) -> str:
    """Return the kind and name of a label, without the step of a checkpoint inside a stage.

    The newest artifacts are counted in such a group. The checkpoints inside a stage are a group of
    their own beside the finished stage.
    """
    return _STEP.sub("", label).rpartition("-")[0]


def kept_builds(store: Store, kind: Kind, keep: int) -> list[Path]:
    """Return the folders of the interrupted builds of a kind that pruning keeps."""
    published = {artifact.label for artifact in store.list_artifacts(f"{kind}/*")}
    removed = {leftover.path for leftover in _unfinished_folders(store, published, keep)}
    folders = sorted((store.scratch / _BUILDS / kind).glob("*"))
    return [path for path in folders if path.is_dir() and path not in removed]


def needed_labels(artifacts: Iterable[Artifact], roots: Collection[str]) -> set[str]:
    """Return the labels of the artifacts that `roots` need.

    These are the roots, the inputs of each needed artifact, and the samples and evaluations of each
    needed checkpoint. Inputs are found by digest.

    Args:
        roots: labels.
    """
    by_digest: dict[tuple[str, str], list[Artifact]] = defaultdict(list)
    results: dict[str, list[Artifact]] = defaultdict(list)
    pending = []
    for artifact in artifacts:
        by_digest[artifact.kind, artifact.digest].append(artifact)
        if artifact.label in roots:
            pending.append(artifact)
        for parent in artifact.parents:
            if artifact.kind in _RESULT_KINDS and parent.kind == "checkpoint":
                results[parent.digest].append(artifact)
    needed: set[str] = set()
    while pending:
        artifact = pending.pop()
        if artifact.label in needed:
            continue
        needed.add(artifact.label)
        for parent in artifact.parents:
            pending += by_digest[parent.kind, parent.digest]
        if artifact.kind == "checkpoint":
            pending += results[artifact.digest]
    return needed


def plan_prune(
    store: Store, roots: Collection[str], removable: Collection[str], keep: int
) -> PrunePlan:
    """Return the plan to keep only the artifacts that `roots` need.

    Args:
        roots: labels of artifacts to keep.
        removable: labels of artifacts that may be removed; all others are kept with their inputs.
        keep: newest interrupted builds and copies to keep, for each kind and name.
    """
    with wrap_remote_errors("listing the artifacts", str(store.root)):
        artifacts = list(store.list_artifacts())
    protected = {artifact.label for artifact in artifacts} - set(removable)
    needed = needed_labels(artifacts, protected | set(roots))
    kept_artifacts = tuple(artifact for artifact in artifacts if artifact.label in needed)
    removed = [artifact for artifact in artifacts if artifact.label not in needed]
    leftovers = [
        *_interrupted_removals(store),
        *_unfinished_folders(store, {artifact.label for artifact in artifacts}, keep),
        *_cached_copies(store, kept_artifacts),
    ]
    return PrunePlan(tuple(reversed(removed)), kept_artifacts, tuple(leftovers))


@contextmanager
def exclude_users(store: Store) -> Iterator[None]:
    """Keep flow runs of this host from using the store during the block.

    Raises:
        ArtifactError: a flow run uses it.
    """
    with ExitStack() as stack:
        try:
            lock = exclusive_lock(store.scratch / USERS_LOCK, "removing artifacts", timeout_s=0)
            stack.enter_context(lock)
        except TimeoutError:
            raise ArtifactError(
                f"a flow run uses the store {store.root}",
                expected="no running flow while artifacts are removed",
                fix="wait until the run has finished, or cancel it; then run this command again",
            ) from None
        yield


def remove_artifact(store: Store, artifact: Artifact) -> bool:
    """Remove a published artifact, or finish its removal; returns False if it is being built.

    Raises:
        RemoteError: the storage does not answer or refuses.
    """
    try:
        with store.build_lock(artifact.kind, artifact.name, artifact.recipe_hash, timeout_s=0):
            if store.is_local:
                _remove_local(store, artifact)
            else:
                with wrap_remote_errors(f"removing {artifact.label}", str(store.root)):
                    _remove_remote(store, artifact.label)
    except TimeoutError:
        return False
    return True


def _remove_local(store: Store, artifact: Artifact) -> None:
    removed = Path(store.root) / _REMOVED_FOLDER / artifact.label
    shutil.rmtree(removed, ignore_errors=True)
    removed.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        Path(artifact.address).rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _remove_remote(store: Store, label: str) -> None:
    marker = f"{store.root}/{_REMOVED_FOLDER}/{label}"
    folder = f"{store.root}/{label}"
    store.fs.pipe_file(marker, b"")
    if store.fs.exists(f"{folder}/{MANIFEST}"):
        store.fs.rm_file(f"{folder}/{MANIFEST}")
    store.fs.invalidate_cache()
    if store.fs.exists(folder):
        store.fs.rm(folder, recursive=True)
    store.fs.rm_file(marker)
    store.fs.invalidate_cache()


def finish_remote_removals(store: Store) -> None:
    """Delete the files of remote artifacts whose removal was interrupted."""
    if store.is_local:
        return
    with wrap_remote_errors("finishing interrupted removals", str(store.root)):
        store.fs.invalidate_cache()
        for marker in store.fs.glob(f"{store.root}/{_REMOVED_FOLDER}/*/*"):
            label = "/".join(marker.split("/")[-2:])
            if store.fs.exists(f"{store.root}/{label}/{MANIFEST}"):
                store.fs.rm_file(marker)  # The artifact was published again.
            else:
                _remove_remote(store, label)


def remove_leftover(store: Store, leftover: Leftover) -> bool:
    """Delete a folder that is no published artifact; returns False if it is in use."""
    build = str(store.scratch / _BUILDS / leftover.path.parent.name / leftover.path.name)
    if build.endswith(SNAPSHOT_SUFFIX):
        lock = build.removesuffix(SNAPSHOT_SUFFIX) + FOLLOWER_LOCK_SUFFIX
    else:
        lock = f"{build}.lock"
    try:
        with exclusive_lock(Path(lock), f"removing {leftover.path}", timeout_s=0):
            shutil.rmtree(leftover.path, ignore_errors=True)
            Path(f"{leftover.path}.attempts.jsonl").unlink(missing_ok=True)
    except TimeoutError:
        return False
    return True


def _interrupted_removals(store: Store) -> Iterator[Leftover]:
    if store.is_local:
        for path in sorted((Path(store.root) / _REMOVED_FOLDER).glob("*/*")):
            yield Leftover(path, _folder_size(path), "interrupted removal")


def _unfinished_folders(store: Store, published: set[str], keep: int) -> Iterator[Leftover]:
    """Yield unfinished folders of published artifacts, the oldest of each kind and name, and
    snapshots, which are made again."""
    for area in _UNFINISHED_FOLDERS:
        newest: dict[str, int] = defaultdict(int)
        folders = [path for path in (store.scratch / area).glob("*/*") if path.is_dir()]
        for path in sorted(folders, key=_last_attempt_s, reverse=True):
            label = f"{path.parent.name}/{path.name}"
            group = label_group(label)
            if path.name.endswith(SNAPSHOT_SUFFIX):
                yield Leftover(path, _folder_size(path), "snapshot of a follower")
            elif label in published:
                yield Leftover(path, _folder_size(path), "unfinished, published since")
            elif newest[group] >= keep:
                yield Leftover(
                    path, _folder_size(path), f"unfinished, older than the newest {keep}"
                )
            else:
                newest[group] += 1


def _last_attempt_s(path: Path) -> float:
    attempts = Path(f"{path}.attempts.jsonl")
    return (attempts if attempts.exists() else path).stat().st_mtime


def _cached_copies(store: Store, kept_artifacts: Iterable[Artifact]) -> Iterator[Leftover]:
    """Yield local copies of remote artifacts that are not kept, and incomplete copies."""
    names = {
        f"{artifact.kind}/{artifact.name}-{artifact.digest[:12]}" for artifact in kept_artifacts
    }
    for path in sorted((store.scratch / ".cache").glob("*/*")):
        if PurePosixPath(path.parent.name, path.name).as_posix() not in names:
            yield Leftover(path, _folder_size(path), "cached copy")


def _folder_size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
