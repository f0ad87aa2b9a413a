"""Copies of artifacts between two stores, e.g. a local folder and the shared root of a team.

The files are copied first and verified by SHA-256 at the target, then the manifest is written byte
for byte. So an interrupted copy is unfinished, and the next attempt resumes with the files that
were copied. A published artifact is never overwritten. Two hosts that copy the same artifact to the
same remote root at the same time are not serialized.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import fsspec

from components.core.artifact import Artifact, content_digest
from components.core.errors import ArtifactError, RemoteError
from components.core.files import (
    atomic_write_path,
    parse_json,
    remove_unfinished,
    require_disk_space,
    write_atomic,
)
from components.core.fingerprint import FileEntry, fingerprint, sha256_file
from components.core.paths import resolve_inside
from components.core.progress import Advance, track
from components.core.remote_errors import wrap_remote_errors
from components.core.store import MANIFEST, Store

logger = logging.getLogger(__name__)

_PARTIAL_FOLDER = ".partial"
"""Folder below the root of a local store for unfinished copies: on the same disk, so that a rename
publishes them."""


class CopyResult(NamedTuple):
    """The copy of an artifact in the target store."""

    artifact: Artifact
    num_files: int
    """Files that this call copied."""
    was_there: bool


def copy_with_lineage(artifact: Artifact, source: Store, target: Store) -> list[CopyResult]:
    """Copy an artifact and its ancestors in `source`, parents first; see `copy_artifact`."""
    with wrap_remote_errors(f"looking up {artifact.label}", _where(source)):
        lineage = source.lineage(artifact)
    return [copy_artifact(ancestor, source, target) for ancestor in lineage]


def copy_artifact(artifact: Artifact, source: Store, target: Store) -> CopyResult:
    """Copy an artifact from `source` to `target` and publish it there.

    Raises:
        ArtifactError: the artifact is damaged or inconsistent, or `target` has other bytes for the
            same recipe.
        RemoteError: a store does not answer, or does not store the bytes written to it.
        DiskFullError: no space for the files.
    """
    manifest = _manifest(artifact, source)
    with target.build_lock(artifact.kind, artifact.name, artifact.recipe_hash):
        with wrap_remote_errors(f"looking for {artifact.label}", _where(target)):
            # Another process may have published the artifact since the last listing.
            target.fs.invalidate_cache()
            published = target.find(artifact.kind, artifact.name, artifact.recipe_hash)
        if published:
            _require_equal(published, artifact)
            return CopyResult(published, 0, was_there=True)
        total_bytes = sum(file.size_bytes for file in artifact.files)
        with track(f"copying {artifact.label}", total_bytes, "bytes") as advance:
            copy = _copy_here if target.is_local else _copy_away
            num_files = copy(artifact, source, target, manifest, advance)
    copied = target.load(target.address(artifact.kind, artifact.name, artifact.recipe_hash))
    logger.info(
        "copied %s to %s: %d of %d files",
        copied.label,
        _where(target),
        num_files,
        len(copied.files),
    )
    return CopyResult(copied, num_files, was_there=False)


def _manifest(artifact: Artifact, source: Store) -> bytes:
    """Return the bytes of the manifest after a consistency check: the store may be shared with
    others."""
    with wrap_remote_errors(f"reading the manifest of {artifact.label}", _where(source)):
        manifest = bytes(source.fs.cat_file(f"{artifact.address}/{MANIFEST}"))
    problem = ""
    if any(file.path == MANIFEST for file in artifact.files):
        problem = "it lists itself as a file"
    elif not artifact.address.endswith(f"/{artifact.label}"):
        problem = f"its label is {artifact.label}"
    elif content_digest(artifact.files) != artifact.digest:
        problem = "its digest is not that of its files"
    elif fingerprint(parse_json(manifest)["recipe"]) != artifact.recipe_hash:
        problem = "its recipe hash is not the fingerprint of its description"
    if problem:
        raise ArtifactError(
            f"the manifest at {artifact.address} is inconsistent: {problem}",
            expected="a manifest as codegen publishes it",
            fix=f"do not trust {artifact.address}: remove it, and copy the artifact again from "
            "its origin",
        )
    return manifest


def _where(store: Store) -> str:
    return store.root if store.is_local else str(store.fs.unstrip_protocol(store.root))


def _require_equal(published: Artifact, artifact: Artifact) -> None:
    if published.digest != artifact.digest:
        raise ArtifactError(
            f"{published.address} has digest {published.digest[:12]}, the copy would have "
            f"{artifact.digest[:12]}",
            expected="equal bytes for equal recipes",
            fix="compare both with `codegen lineage LABEL`, then remove the wrong artifact",
        )


# -- to this machine


def _copy_here(
    artifact: Artifact, source: Store, target: Store, manifest: bytes, advance: Advance
) -> int:
    """Copy to a local store; returns the number of copied files."""
    partial = Path(target.root) / _PARTIAL_FOLDER / artifact.label
    folder = Path(target.address(artifact.kind, artifact.name, artifact.recipe_hash))
    if folder.exists() and not partial.exists():
        # An earlier attempt was killed between the rename and the manifest.
        partial.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(partial)
    shutil.rmtree(folder, ignore_errors=True)  # An unfinished build of the same artifact.
    partial.mkdir(parents=True, exist_ok=True)
    remove_unfinished(partial)
    _remove_unlisted_files(partial, artifact)
    missing = [file for file in artifact.files if not _is_whole(partial / file.path, file)]
    missing_bytes = sum(file.size_bytes for file in missing)
    advance(sum(file.size_bytes for file in artifact.files) - missing_bytes)
    require_disk_space(partial, missing_bytes, f"the copy of {artifact.label}")
    for file in missing:
        with atomic_write_path(_target_path(partial, file)) as temporary:
            with wrap_remote_errors(f"fetching {file.path} of {artifact.label}", _where(source)):
                source.fs.get_file(f"{artifact.address}/{file.path}", str(temporary))
            if not _is_whole(temporary, file):
                fix = f"remove {artifact.address} and copy it there again"
                raise _damaged(artifact, file, sha256_file(temporary), fix)
        advance(file.size_bytes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)
    write_atomic(folder / MANIFEST, manifest)
    return len(missing)


def _target_path(folder: Path, file: FileEntry) -> Path:
    try:
        return resolve_inside(folder, file.path)
    except ValueError as error:  # An earlier attempt creates no links.
        raise ArtifactError(
            f"{folder} has been changed: {error}",
            expected="a folder that only codegen changes",
            fix=f"remove {folder} and run the same command again",
        ) from error


def _remove_unlisted_files(folder: Path, artifact: Artifact) -> None:
    listed = {file.path for file in artifact.files}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def _is_whole(path: Path, file: FileEntry) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == file.size_bytes
        and sha256_file(path) == file.sha256
    )


# -- to another machine


def _copy_away(
    artifact: Artifact, source: Store, target: Store, manifest: bytes, advance: Advance
) -> int:
    """Copy to a remote store and read every file back; returns the number of copied files."""
    with wrap_remote_errors(f"reading {artifact.label}", _where(source)):
        folder = source.fetch_verified(artifact)
    address = target.address(artifact.kind, artifact.name, artifact.recipe_hash)
    num_copied = 0
    with wrap_remote_errors(f"copying {artifact.label}", _where(target)):
        for file in artifact.files:
            if not _is_there(target.fs, f"{address}/{file.path}", file):
                target.fs.put_file(str(folder / file.path), f"{address}/{file.path}")
                if (sha256 := _sha256(target.fs, f"{address}/{file.path}")) != file.sha256:
                    fix = "run the same command again; if the error persists, replace that storage"
                    raise _damaged(artifact, file, sha256, fix)
                num_copied += 1
            advance(file.size_bytes)
        target.fs.pipe_file(f"{address}/{MANIFEST}", manifest)
        if target.fs.cat_file(f"{address}/{MANIFEST}") != manifest:
            raise RemoteError(
                f"{address}/{MANIFEST} differs from the bytes written",
                expected="storage that stores the bytes written to it",
                fix="remove that file, then run the same command again; if the error persists, "
                "replace that storage",
            )
    return num_copied


def _is_there(fs: fsspec.AbstractFileSystem, path: str, file: FileEntry) -> bool:
    """Return whether an earlier attempt copied this file completely."""
    if not fs.exists(path) or fs.size(path) != file.size_bytes:
        return False
    return _sha256(fs, path) == file.sha256


def _sha256(fs: fsspec.AbstractFileSystem, path: str) -> str:
    with fs.open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damaged(artifact: Artifact, file: FileEntry, sha256: str, fix: str) -> ArtifactError:
    return ArtifactError(
        f"{file.path} of {artifact.label} has SHA-256 {sha256} after the copy",
        expected=f"{file.size_bytes:,} bytes with SHA-256 {file.sha256}",
        fix=fix,
    )
