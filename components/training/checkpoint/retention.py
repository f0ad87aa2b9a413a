"""The checkpoint folders of a stage: commit, verification, retention and removal.

A checkpoint is a folder `step-N` whose manifest contains the SHA-256 of its files and a fingerprint
of itself. It is created and removed by a rename (from `step-N.partial`, to `step-N.removed`), so a
folder without a suffix is complete. If no checkpoint is valid, or a file cannot be read for a
reason that may be temporary, nothing is removed.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import TrainingError
from components.core.files import read_json, write_json
from components.core.fingerprint import FileEntry, fingerprint, list_files

logger = logging.getLogger(__name__)

ENGINE_FOLDER = "engine"
"""DeepSpeed's folder inside a checkpoint."""
PARTIAL_SUFFIX = ".partial"
UNIVERSAL_SUFFIX = ".universal"
_REMOVED_SUFFIX = ".removed"
_MANIFEST = "manifest.json"
_MANIFEST_FINGERPRINT = "fingerprint"
SCORE_KEY = "held_out_bits_per_byte"
_NAME = re.compile(r"step-(\d{8,})")
_DAMAGE_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)
"""Errors of a file that is absent or lost by the disk; other errors may be temporary."""


class VerifiedCheckpoint(NamedTuple):
    """A checkpoint whose files have the digests of its manifest."""

    folder: Path
    manifest: dict[str, Any]
    damaged_steps: tuple[int, ...] = ()
    """Steps of newer checkpoints, which were damaged and are removed."""


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint after a step."""
    return f"step-{step:08d}"


def commit_checkpoint(partial: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which contains `step` and `files`, and rename `step-N.partial`."""
    document = {**manifest, _MANIFEST_FINGERPRINT: fingerprint(manifest)}
    write_json(partial / _MANIFEST, document)
    partial.rename(partial.with_suffix(""))


def latest_valid_checkpoint(folder: Path) -> VerifiedCheckpoint | None:
    """The newest valid checkpoint. Removes newer damaged ones, and remains of interrupted writes.

    Raises:
        TrainingError: all checkpoints are damaged, or a read error may be temporary.
    """
    for suffix in (PARTIAL_SUFFIX, UNIVERSAL_SUFFIX, _REMOVED_SUFFIX):
        for path in folder.glob(f"step-*{suffix}*"):
            _delete(path)
    damaged: list[Path] = []
    for checkpoint in newest_first(folder):
        manifest = verify_checkpoint(checkpoint)
        if manifest is None:
            damaged.append(checkpoint)
            continue
        for path in damaged:
            logger.warning("the checkpoint %s is damaged; removing it, using an older one", path)
            remove_checkpoint(path)
        return VerifiedCheckpoint(checkpoint, manifest, tuple(map(step_of, damaged)))
    if damaged:
        raise TrainingError(
            f"all checkpoints of the stage are damaged: {', '.join(map(str, damaged))}",
            expected="at least one undamaged checkpoint",
            fix=f"check the disk; then restore a checkpoint from a backup, or remove {folder} to "
            "restart the stage",
        )
    return None


def prune_checkpoints(folder: Path, keep_last: int, keep_every_steps: int | None) -> None:
    """Delete all but the newest, the best by held-out score, and every `keep_every_steps`-th."""
    manifests = {}
    for checkpoint in newest_first(folder):
        manifest = _read_manifest(checkpoint)
        if manifest is not None:
            manifests[checkpoint] = manifest
            continue
        logger.warning("the checkpoint %s is damaged; removing it", checkpoint)
        remove_checkpoint(checkpoint)
    scores = {
        checkpoint: manifest[SCORE_KEY]
        for checkpoint, manifest in manifests.items()
        if manifest.get(SCORE_KEY) is not None
    }
    retained = set(list(manifests)[:keep_last])
    if scores:
        retained.add(min(scores, key=scores.__getitem__))
    if keep_every_steps:
        retained |= {path for path in manifests if step_of(path) % keep_every_steps == 0}
    for checkpoint in manifests:
        if checkpoint not in retained:
            remove_checkpoint(checkpoint)


def remove_checkpoint(checkpoint: Path) -> None:
    """Rename a checkpoint, which invalidates it atomically, and delete its files."""
    removed = checkpoint.with_suffix(_REMOVED_SUFFIX)
    _delete(removed)
    checkpoint.rename(removed)
    _delete(removed)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def newest_first(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, the newest first."""
    checkpoints = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(checkpoints, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def _read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None if it is absent or damaged."""
    try:
        manifest: dict[str, Any] = read_json(checkpoint / _MANIFEST)
        expected_fingerprint = manifest.pop(_MANIFEST_FINGERPRINT)
        is_valid = (
            fingerprint(manifest) == expected_fingerprint
            and manifest["step"] == step_of(checkpoint)
            and manifest["files"]
        )
        return manifest if is_valid else None
    except OSError as error:
        _raise_if_temporary(checkpoint, error)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def verify_checkpoint(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest, or None if it or a file in it is damaged."""
    manifest = _read_manifest(checkpoint)
    if manifest is None:
        return None
    try:
        expected_files = {FileEntry(*entry) for entry in manifest["files"]}
        # DeepSpeed writes further files that are in no manifest.
        return manifest if expected_files <= set(list_files(checkpoint)) else None
    except OSError as error:
        _raise_if_temporary(checkpoint, error)
    except TypeError:
        pass
    return None


def _raise_if_temporary(checkpoint: Path, error: OSError) -> None:
    if error.errno not in _DAMAGE_ERRNOS:
        raise TrainingError(
            f"the checkpoint {checkpoint} cannot be read: {error.strerror} ({error.filename})",
            expected="files that this user may read; nothing was removed",
            fix="fix the cause, then run the same command again",
        ) from error
