"""The checkpoints of a stage as they lie in its folder: which of them are whole, which stay, and how one goes.

A checkpoint is a folder `step-N` whose manifest names its files with their SHA-256, and has a fingerprint of itself: a bit
that changes in the number of the step would else be believed. It comes in one rename and goes in one (to `step-N.removed`),
so whatever has no ending was whole when it got its name, however a kill falls. Nothing is removed as damaged where nothing
whole is left, or where a file cannot be read for a reason that may pass. Not covered: who writes (`checkpoints`,
`snapshots`).
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

PARTIAL, UNIVERSAL, _REMOVED = ".partial", ".universal", ".removed"
_MANIFEST, _MANIFEST_FINGERPRINT = "manifest.json", "fingerprint"
_WITHOUT_OWN = {"run", "layout", "step", "num_updates", "held_out", "files"}
"""What a manifest holds that an older version wrote, which had no fingerprint of its own."""
_NAME = re.compile(r"step-(\d{8,})")
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)
"""What the system says of a file that is not there, or that its disk has lost."""


class VerifiedCheckpoint(NamedTuple):
    """A checkpoint whose every byte was compared."""

    folder: Path
    manifest: dict[str, Any]


def name_of(step: int) -> str:
    """The name of the checkpoint after a step."""
    return f"step-{step:08d}"


def commit_checkpoint(partial: Path, manifest: dict[str, Any]) -> None:
    """Make what lies in `step-N.partial` the checkpoint `step-N`; the manifest has `step` and `files` among its values."""
    write_json(partial / _MANIFEST, {**manifest, _MANIFEST_FINGERPRINT: fingerprint(manifest)})
    partial.rename(partial.with_suffix(""))


def latest_valid_checkpoint(folder: Path) -> VerifiedCheckpoint | None:
    """The newest checkpoint that is whole; newer ones that are not, and what kills have left, are removed.

    Raises:
        TrainingError: there are checkpoints and none is whole, or one cannot be read for a reason that may pass.
    """
    for ending in (PARTIAL, UNIVERSAL, _REMOVED):
        for left in folder.glob(f"step-*{ending}*"):
            _delete(left)
    damaged: list[Path] = []
    for one in _newest_first(folder):
        manifest = _verified(one)
        if manifest is not None:
            for worthless in damaged:
                logger.warning(
                    "the checkpoint %s is damaged; it is removed and one before is used", worthless
                )
                remove(worthless)
            return VerifiedCheckpoint(one, manifest)
        damaged.append(one)
    if damaged:
        raise TrainingError(
            f"all checkpoints of the stage are damaged: {', '.join(map(str, damaged))}",
            expected="one that is as it was written",
            fix=f"put one back from a copy, or remove {folder} to begin the stage again; look at the disk first",
        )
    return None


def prune_checkpoints(folder: Path, keep_last: int, keep_every_steps: int | None) -> None:
    """Remove what is neither among the last few, nor the best, nor one of those that are kept besides."""
    every = {one: _read(one) for one in _newest_first(folder)}
    kept = [one for one, manifest in every.items() if manifest is not None]
    scores = {
        one: score for one in kept if (score := (every[one] or {}).get("held_out")) is not None
    }
    best = min(scores, key=scores.__getitem__, default=None)
    for number, one in enumerate(kept):
        is_kept = (
            number < keep_last
            or one == best
            or (keep_every_steps and _step(one) % keep_every_steps == 0)
        )
        if not is_kept:
            remove(one)
    for one in every.keys() - set(kept):  # Nothing is ever read from it.
        logger.warning("the checkpoint %s is damaged; it is removed", one)
        remove(one)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint: in one move it counts no more, and then its files go."""
    gone = checkpoint.with_suffix(_REMOVED)
    _delete(gone)
    checkpoint.rename(gone)
    _delete(gone)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(
        (one for one in folder.glob("step-*") if _NAME.fullmatch(one.name)), key=_step, reverse=True
    )


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _read(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None where it is not what was written."""
    try:
        manifest = read_json(checkpoint / _MANIFEST)
        own = manifest.pop(_MANIFEST_FINGERPRINT) if _MANIFEST_FINGERPRINT in manifest else None
        is_own = (
            own == fingerprint(manifest) if own is not None else manifest.keys() <= _WITHOUT_OWN
        )
        return (
            manifest
            if is_own and manifest["step"] == _step(checkpoint) and manifest["files"]
            else None
        )
    except OSError as error:
        _require_damage(checkpoint, error)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _verified(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest, or None where it, or a file that it names, is not what was written."""
    try:
        manifest = _read(checkpoint)
        # DeepSpeed leaves scripts of its own besides.
        whole = manifest and {FileEntry(*entry) for entry in manifest["files"]} <= set(
            list_files(checkpoint)
        )
    except OSError as error:
        _require_damage(checkpoint, error)
    except TypeError:
        pass
    else:
        return manifest if whole else None
    return None


def _require_damage(checkpoint: Path, error: OSError) -> None:
    if error.errno not in _DAMAGE:
        raise TrainingError(
            f"the checkpoint {checkpoint} cannot be read: {error.strerror} ({error.filename})",
            expected="files that this user may read; nothing was removed",
            fix="mend that, then run the same command again",
        ) from error
