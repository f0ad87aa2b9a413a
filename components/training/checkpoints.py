"""Checkpoints inside a stage: whole or absent, verified before use, the last two kept.

A checkpoint is written to `step-N.partial/` by all ranks, gets a manifest with the SHA-256 of each file, and is renamed to
`step-N/` in one move. So a kill leaves the one before; a damaged one is noticed, and the one before is used. The format
inside is DeepSpeed's own and stays inside this room: what other rooms get is the Hugging Face folder at the end.
Not covered: going on with another number of processes or another ZeRO stage.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from components.core.errors import TrainingError
from components.core.files import read_json, require_free, write_json
from components.core.fingerprint import FileEntry, fingerprint, list_files
from components.training.config import CHECKPOINTS_KEPT, TrainingPlace
from components.training.distributed import from_first_rank
from components.training.run import StageRun

logger = logging.getLogger(__name__)

_TAG = "engine"
"""Folder inside a checkpoint that DeepSpeed writes."""
_MANIFEST = "manifest.json"
_BYTES_PER_PARAMETER = 16
"""fp32 weights, their master copy and Adam's two moments."""


class Checkpoints:
    """The checkpoints of one stage; every method is called by all ranks together."""

    def __init__(self, folder: Path, run: StageRun, place: TrainingPlace) -> None:
        self.folder = folder
        self._made_by = {
            "run": fingerprint(run.identity()),
            "num_processes": place.num_processes,
            "zero_stage": place.zero_stage,
        }

    def save(self, engine: Any, step: int) -> None:
        """Save after optimizer step `step`.

        Raises:
            StorageFull: there is no room for it; what was saved before is untouched.
        """
        final = self.folder / f"step-{step:08d}"
        partial = final.with_suffix(".partial")
        size_bytes = _BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in engine.module.parameters())
        require_free(self.folder, size_bytes, f"the checkpoint of step {step}")
        try:
            engine.save_checkpoint(str(partial), tag=_TAG, save_latest=False)
        except RuntimeError:
            require_free(self.folder, size_bytes, f"the checkpoint of step {step}")  # torch does not say why it failed.
            raise
        dist.barrier()
        if dist.get_rank() == 0:
            _seal(partial, {**self._made_by, "step": step})
            partial.rename(final)
            for old in self._newest_first()[CHECKPOINTS_KEPT:]:
                shutil.rmtree(old)
        dist.barrier()

    def restore(self, engine: Any) -> int:
        """Load the newest whole checkpoint into the engine and return its step; 0 where there is none.

        Raises:
            TrainingError: it was made by another run, or by another number of processes.
        """
        found = from_first_rank(self._newest_whole() if dist.get_rank() == 0 else None)
        if found is None:
            return 0
        folder, made_by = found
        if (got := {key: made_by[key] for key in self._made_by}) != self._made_by:
            raise TrainingError(
                f"{folder} was made by {_describe(got)}",
                expected=_describe(self._made_by),
                do=f"go on with those settings, or remove {self.folder} to begin the stage again",
            )
        engine.load_checkpoint(folder, tag=_TAG)
        return int(made_by["step"])

    def _newest_whole(self) -> tuple[str, dict[str, Any]] | None:
        for partial in self.folder.glob("step-*.partial"):
            shutil.rmtree(partial)
        for folder in self._newest_first():
            if (manifest := _verified_manifest(folder)) is not None:
                return str(folder), manifest
            logger.warning("the checkpoint %s is damaged; it is removed and the one before is used", folder)
            shutil.rmtree(folder)
        return None

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("step-*") if not path.suffix), reverse=True)


def _describe(made_by: dict[str, Any]) -> str:
    return f"{made_by['num_processes']} processes, ZeRO stage {made_by['zero_stage']}, run {made_by['run'][:12]}"


def _seal(folder: Path, made_by: dict[str, Any]) -> None:
    """Flush every file to disk and write down what it has to be."""
    files = list_files(folder)
    for file in files:
        with (folder / file.path).open("rb") as opened:
            os.fsync(opened.fileno())
    write_json(folder / _MANIFEST, {**made_by, "files": files})


def _verified_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None where it, or a file that it names, is not what was written."""
    try:
        manifest = read_json(folder / _MANIFEST)
        expected = {FileEntry(*entry) for entry in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if expected == {file for file in list_files(folder) if file.path != _MANIFEST} else None
