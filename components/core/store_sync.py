"""Copies of artifacts between two stores: a laptop's folder and the root that a team shares, say.

Design decision: a copy is a publication like any other. Its files arrive first, each proven by its SHA-256 where it arrived,
and the manifest, byte for byte the original's, is written last; so a copy that was killed is no copy, and the next attempt
goes on with the files that are there. What is published is never overwritten. What is not covered: two machines that copy
one artifact to one remote root at the same moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import fsspec

from components.core.artifact import Artifact, content_digest
from components.core.errors import ArtifactError, RemoteError
from components.core.files import (
    atomic_write_path,
    remove_unfinished,
    require_disk_space,
    write_atomic,
)
from components.core.fingerprint import FileEntry, fingerprint, sha256_file
from components.core.progress import Advance, track
from components.core.remote_errors import wrap_remote_errors
from components.core.store import MANIFEST, Store

logger = logging.getLogger(__name__)

_PARTIAL_SUFFIX = ".arriving"
"""Folder below a local store's root for copies that are under way: on the same disk, so that a move is one step."""


class CopyResult(NamedTuple):
    """An artifact as the target store has it now."""

    artifact: Artifact
    num_files: int
    """Files that had to be copied: fewer than it has where a killed attempt left some, none where it was published."""
    was_there: bool


def copy_with_lineage(artifact: Artifact, source: Store, target: Store) -> list[CopyResult]:
    """Copy an artifact and everything in `source` that it was made from, parents first; see `copy_artifact`."""
    with wrap_remote_errors(f"looking up {artifact.label}", _where(source)):
        lineage = source.lineage(artifact)
    return [copy_artifact(one, source, target) for one in lineage]


def copy_artifact(artifact: Artifact, source: Store, target: Store) -> CopyResult:
    """Publish a copy of an artifact of `source` in `target`, at the address of its recipe.

    Raises:
        ArtifactError: the artifact is damaged, contradicts itself, or `target` has other bytes under the same recipe.
        RemoteError: one of the two places does not answer, or does not keep what is written to it.
        StorageFull: no room for the files.
    """
    manifest = _manifest(artifact, source)
    with target.build_lock(artifact.kind, artifact.name, artifact.recipe_hash):
        with wrap_remote_errors(f"looking for {artifact.label}", _where(target)):
            target.fs.invalidate_cache()  # Another process may have published since this one listed the folder.
            found = target.find(artifact.kind, artifact.name, artifact.recipe_hash)
        if found:
            _require_equal(found, artifact)
            return CopyResult(found, 0, was_there=True)
        with track(
            f"copying {artifact.label}", sum(file.size_bytes for file in artifact.files), "bytes"
        ) as advance:
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
    """The bytes of the manifest, whose content has to agree with itself: it may come from a stranger."""
    with wrap_remote_errors(f"reading the manifest of {artifact.label}", _where(source)):
        manifest = bytes(source.fs.cat_file(f"{artifact.address}/{MANIFEST}"))
    climbing = [file.path for file in artifact.files if not _stays_inside(file.path)]
    wrong = (
        f"it names the file {climbing[0]!r}, outside its folder" if climbing
        else f"it calls itself {artifact.label}" if not artifact.address.endswith(f"/{artifact.label}")
        else "its digest is not that of its files" if content_digest(artifact.files) != artifact.digest
        else "its recipe is not the fingerprint of its description" if _recipe(manifest) != artifact.recipe_hash
        else ""
    )  # fmt: skip
    if wrong:
        raise ArtifactError(
            f"the manifest at {artifact.address} contradicts itself: {wrong}",
            expected="a manifest as this project publishes it",
            fix=f"trust nothing in {artifact.address}: remove it, and copy the artifact there again from where it was made",
        )
    return manifest


def _recipe(manifest: bytes) -> str:
    return fingerprint(json.loads(manifest)["recipe"])


def _where(store: Store) -> str:
    return store.root if store.is_local else str(store.fs.unstrip_protocol(store.root))


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and path != MANIFEST


def _require_equal(found: Artifact, artifact: Artifact) -> None:
    if found.digest != artifact.digest:
        raise ArtifactError(
            f"{found.address} is published with digest {found.digest[:12]}, the copy would have {artifact.digest[:12]}",
            expected="equal recipes to give equal bytes",
            fix="find out which of the two is right (`codegen lineage LABEL`), then remove the other by hand",
        )


# -- to this machine -----------------------------------------------------------------------------------------------


def _copy_here(
    artifact: Artifact, source: Store, target: Store, manifest: bytes, advance: Advance
) -> int:
    """Copy to a local store. Returns how many files had to be copied."""
    arriving = (
        Path(target.root)
        / _PARTIAL_SUFFIX
        / artifact.kind
        / f"{artifact.name}-{artifact.recipe_hash[:12]}"
    )
    place = Path(target.address(artifact.kind, artifact.name, artifact.recipe_hash))
    if (
        place.exists() and not arriving.exists()
    ):  # A killed attempt got as far as the move, not to the manifest.
        arriving.parent.mkdir(parents=True, exist_ok=True)
        place.rename(arriving)
    shutil.rmtree(
        place, ignore_errors=True
    )  # Without a manifest it is the unfinished build of what now arrives whole.
    arriving.mkdir(parents=True, exist_ok=True)
    remove_unfinished(arriving)
    _remove_unlisted_files(arriving, artifact)
    missing = [file for file in artifact.files if not _is_whole(arriving / file.path, file)]
    advance(
        sum(file.size_bytes for file in artifact.files) - sum(file.size_bytes for file in missing)
    )
    require_disk_space(
        arriving, sum(file.size_bytes for file in missing), f"the copy of {artifact.label}"
    )
    for file in missing:
        with atomic_write_path(arriving / file.path) as temporary:
            with wrap_remote_errors(f"fetching {file.path} of {artifact.label}", _where(source)):
                source.fs.get_file(f"{artifact.address}/{file.path}", str(temporary))
            if not _is_whole(temporary, file):
                raise _damaged(
                    artifact,
                    file,
                    sha256_file(temporary),
                    f"remove {artifact.address} and copy it there again",
                )
        advance(file.size_bytes)
    place.parent.mkdir(parents=True, exist_ok=True)
    arriving.rename(place)
    write_atomic(place / MANIFEST, manifest)
    return len(missing)


def _remove_unlisted_files(folder: Path, artifact: Artifact) -> None:
    known = {file.path for file in artifact.files}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink()


def _is_whole(path: Path, file: FileEntry) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == file.size_bytes
        and sha256_file(path) == file.sha256
    )


# -- to another machine --------------------------------------------------------------------------------------------


def _copy_away(
    artifact: Artifact, source: Store, target: Store, manifest: bytes, advance: Advance
) -> int:
    """Copy to a remote store; every file is read back to be proven. Returns how many files had to be copied."""
    with wrap_remote_errors(f"reading {artifact.label}", _where(source)):
        folder = source.fetch_verified(artifact)
    address = target.address(artifact.kind, artifact.name, artifact.recipe_hash)
    num_copied = 0
    with wrap_remote_errors(f"copying {artifact.label}", _where(target)):
        for file in artifact.files:
            if not _is_there(target.fs, f"{address}/{file.path}", file):
                target.fs.put_file(str(folder / file.path), f"{address}/{file.path}")
                if (found := _sha256(target.fs, f"{address}/{file.path}")) != file.sha256:
                    raise _damaged(
                        artifact,
                        file,
                        found,
                        "run the same command again; if it stays so, distrust that storage",
                    )
                num_copied += 1
            advance(file.size_bytes)
        target.fs.pipe_file(f"{address}/{MANIFEST}", manifest)
        if target.fs.cat_file(f"{address}/{MANIFEST}") != manifest:
            raise RemoteError(
                f"{address}/{MANIFEST} is not what was written",
                expected="storage that keeps what it is given",
                fix="remove that file, then run the same command again; if it stays so, distrust that storage",
            )
    return num_copied


def _is_there(fs: fsspec.AbstractFileSystem, path: str, file: FileEntry) -> bool:
    """Whether an earlier attempt left this file whole."""
    if not fs.exists(path) or fs.size(path) != file.size_bytes:
        return False
    return _sha256(fs, path) == file.sha256


def _sha256(fs: fsspec.AbstractFileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as stream:
        for piece in _pieces(stream):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(stream: fsspec.spec.AbstractBufferedFile) -> Iterator[bytes]:
    while piece := stream.read(
        2**20
    ):  # Bytes at once: few enough to hold, many enough for the network (assumption).
        yield piece


def _damaged(artifact: Artifact, file: FileEntry, found: str, fix: str) -> ArtifactError:
    return ArtifactError(
        f"{file.path} of {artifact.label} arrived with SHA-256 {found}",
        expected=f"{file.size_bytes:,} bytes with SHA-256 {file.sha256}",
        fix=fix,
    )
