"""Checkpoints inside a stage: atomic, verified before use, written while training continues.

All ranks write a checkpoint to `step-N.partial/` (see `async_writer`); rank 0 adds a manifest with
the SHA-256 of each file and renames the folder to `step-N/` (see `retention`). The files are in
DeepSpeed's format. For another parallel layout (ranks, ZeRO stage) they are converted to
DeepSpeed's universal format: the same layout resumes with the same bits, another layout with the
same values and another order of sums.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from deepspeed.checkpoint import ds_to_universal
from deepspeed.checkpoint.constants import OPTIMIZER_STATE_DICT

from components.core.errors import TrainingError
from components.core.files import read_json, require_disk_space
from components.core.fingerprint import fingerprint
from components.training.checkpoint.async_writer import (
    AsyncCheckpointWriter,
    InMemoryCheckpointEngine,
    rank_marker_name,
    wait_for_rank_markers,
)
from components.training.checkpoint.optimizer_state import set_num_updates
from components.training.checkpoint.retention import (
    ENGINE_FOLDER,
    PARTIAL_SUFFIX,
    SCORE_KEY,
    UNIVERSAL_SUFFIX,
    checkpoint_name,
    commit_checkpoint,
    latest_valid_checkpoint,
    prune_checkpoints,
)
from components.training.config import Precision, TrainingExecution
from components.training.deepspeed_config import effective_zero_stage
from components.training.distributed import broadcast_object
from components.training.run_file import StageRun
from components.training.step_skipping import SkipState

logger = logging.getLogger(__name__)

_BYTES_PER_PARAMETER = 16
"""fp32 weights, their master copy and Adam's two moments."""


class ResumePoint(NamedTuple):
    """A checkpoint to resume from."""

    folder: str
    step: int
    num_updates: int
    """Updates in the optimizer's moments, inherited updates included."""
    skip_state: SkipState
    is_universal: bool
    """The checkpoint is in DeepSpeed's universal format; the engine must be built for it."""
    damaged_steps: tuple[int, ...] = ()
    """Steps of newer checkpoints, which were damaged."""

    def restore(self, engine: Any) -> None:
        """Load the checkpoint into the engine. All ranks call this together."""
        groups = engine.optimizer.param_groups
        weight_decays = [group["weight_decay"] for group in groups]
        engine.load_checkpoint(self.folder, tag=ENGINE_FOLDER)
        if self.is_universal:
            # DeepSpeed loads the first group's settings into every group, and does not save the
            # step for every ZeRO stage.
            for group, weight_decay in zip(groups, weight_decays, strict=True):
                group["weight_decay"] = weight_decay
            set_num_updates(engine, self.num_updates)


class CheckpointManager:
    """The checkpoints of a stage. All ranks call every method together."""

    def __init__(
        self, folder: Path, run: StageRun, execution: TrainingExecution, precision: Precision
    ) -> None:
        self.folder = folder
        self._execution = execution
        self._run_fingerprint = fingerprint(run)
        self._num_ranks = dist.get_world_size()
        self._layout: dict[str, Any] = {
            "num_ranks": self._num_ranks,
            "zero_stage": effective_zero_stage(execution.zero_stage, precision),
            "precision": precision,
            "offload": [execution.offload_optimizer, execution.offload_parameters],
            "tensor_parallel": execution.tensor_parallel,
        }
        self._memory_engine = InMemoryCheckpointEngine()
        self._writer: AsyncCheckpointWriter | None = None

    def save(
        self, engine: Any, step: int, num_updates: int, score: float | None, skip_state: SkipState
    ) -> float:
        """Save the state after a step: copied now, written in a thread.

        Args:
            num_updates: updates in the optimizer's moments.
            score: mean bits per byte on held-out documents, lower is better; None: not evaluated.
            skip_state: of the steps so far.

        Returns:
            Seconds that training waited, for the previous checkpoint and the copy.

        Raises:
            DiskFullError: no space for this or the previous checkpoint.
        """
        start_s = time.monotonic()
        self.finish()
        folder = self.folder / f"{checkpoint_name(step)}{PARTIAL_SUFFIX}"
        num_parameters = sum(map(_num_elements, engine.module.parameters()))
        size_bytes = _BYTES_PER_PARAMETER * num_parameters
        require_disk_space(self.folder, size_bytes, f"the checkpoint of step {step}")
        engine.checkpoint_engine = self._memory_engine
        engine.save_checkpoint(str(folder), tag=ENGINE_FOLDER, save_latest=False)
        manifest = {
            "run_fingerprint": self._run_fingerprint,
            "layout": self._layout,
            "step": step,
            "num_updates": num_updates,
            SCORE_KEY: score,
            "skip_state": {
                "num_skipped": skip_state.num_skipped,
                "num_overflows": skip_state.num_overflows,
                "losses": list(skip_state.losses),
            },
        }
        rank = dist.get_rank()
        on_written = partial(self._commit, folder, manifest) if rank == 0 else None
        copies = self._memory_engine.drain()
        self._writer = AsyncCheckpointWriter(folder, rank, copies, on_written)
        return time.monotonic() - start_s

    def finish(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            DiskFullError: no space for it.
        """
        if self._writer:
            self._writer.finish()
            self._writer = None
        dist.barrier()

    def find_resume_point(self) -> ResumePoint | None:
        """The newest valid checkpoint, converted to this parallel layout if necessary.

        Raises:
            TrainingError: the checkpoint is of another run or cannot be converted to this layout,
                or all checkpoints are damaged.
        """
        outcome: ResumePoint | TrainingError | None = None
        if dist.get_rank() == 0:
            try:
                outcome = self._find_resume_point()
            except TrainingError as error:
                outcome = error  # Raised on all ranks, which wait for the broadcast.
        outcome = broadcast_object(outcome)
        if isinstance(outcome, TrainingError):
            raise outcome
        return outcome

    def _find_resume_point(self) -> ResumePoint | None:
        checkpoint = latest_valid_checkpoint(self.folder)
        if checkpoint is None:
            return None
        folder, manifest, damaged_steps = checkpoint
        if manifest["run_fingerprint"] != self._run_fingerprint:
            raise TrainingError(
                f"{folder} is a checkpoint of another run, {manifest['run_fingerprint'][:12]}",
                expected=f"a checkpoint of run {self._run_fingerprint[:12]}",
                fix=f"remove {self.folder} to restart the stage, or undo the change of the recipe",
            )
        layout = manifest["layout"]
        is_universal = False
        if layout != self._layout:
            self._check_convertible(folder, layout)
            # Without ZeRO every rank has the full state, so nothing is converted.
            is_universal = layout["zero_stage"] > 0
        if is_universal:
            logger.info("converting %s from %s to %s", folder, layout, self._layout)
            folder = _convert_to_universal(folder)
        skip_state = manifest["skip_state"]
        return ResumePoint(
            folder=str(folder),
            step=manifest["step"],
            num_updates=manifest["num_updates"],
            skip_state=SkipState(
                skip_state["num_skipped"], skip_state["num_overflows"], tuple(skip_state["losses"])
            ),
            is_universal=is_universal,
            damaged_steps=damaged_steps,
        )

    def _check_convertible(self, folder: Path, layout: dict[str, Any]) -> None:
        """Raise TrainingError if a checkpoint of another layout cannot be used."""
        if max(layout["tensor_parallel"], self._layout["tensor_parallel"]) > 1:
            raise TrainingError(
                f"{folder} was written with tensor_parallel {layout['tensor_parallel']} on "
                f"{layout['num_ranks']} ranks",
                expected="the same execution config: such a checkpoint cannot be converted",
                fix=f"resume with that execution config, or remove {self.folder} to restart the "
                "stage",
            )
        zero_stage, precision = layout["zero_stage"], layout["precision"]
        if (zero_stage == 0) != (self._layout["zero_stage"] == 0):
            suffix = "" if precision == self._layout["precision"] else f" in {precision}"
            raise TrainingError(
                f"{folder} was written with ZeRO stage {zero_stage}{suffix}, and this is stage "
                f"{self._layout['zero_stage']}",
                expected="the same stage, or both of 1, 2 and 3: DeepSpeed cannot convert a "
                "checkpoint without ZeRO",
                fix=f"resume with --exec training.zero_stage={zero_stage} "
                f"--exec training.precision={precision}, or remove {self.folder} to restart the "
                "stage",
            )

    def _commit(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Commit the checkpoint once all ranks have written. Runs in the thread of rank 0."""
        wait_for_rank_markers(folder, self._num_ranks)
        files = []
        for rank in range(self._num_ranks):
            marker = folder / rank_marker_name(rank)
            files += read_json(marker)
            marker.unlink()
        commit_checkpoint(folder, {**manifest, "files": files})
        prune_checkpoints(self.folder, self._execution.keep_last, self._execution.keep_every_steps)


def _convert_to_universal(folder: Path) -> Path:
    """Convert a checkpoint to DeepSpeed's universal format, beside it."""
    universal = folder.with_suffix(UNIVERSAL_SUFFIX)
    options = Namespace(
        input_folder=str(folder / ENGINE_FOLDER),
        output_folder=str(universal / ENGINE_FOLDER),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # The converter prints its options.
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        ds_to_universal.main(options)
    # The name of this file differs between ZeRO 3 and ZeRO 1 and 2. Provide both names.
    names = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
    path, zero_3_path = (universal / ENGINE_FOLDER / name for name in names)
    if not path.exists():
        os.link(zero_3_path, path)
    elif not zero_3_path.exists():
        os.link(path, zero_3_path)
    _add_optimizer_settings(universal / ENGINE_FOLDER / "zero" / "optimizer_state.pt")
    return universal


def _add_optimizer_settings(path: Path) -> None:
    """Add the optimizer's settings where ZeRO 3 reads them. `ResumePoint.restore` sets the step."""
    state = torch.load(path, weights_only=False)
    if OPTIMIZER_STATE_DICT not in state:
        state[OPTIMIZER_STATE_DICT] = {
            "state": {0: {"step": torch.tensor(0.0)}},
            "param_groups": state["param_groups"],
        }
        torch.save(state, path)


def _num_elements(parameter: Any) -> int:
    """Elements of the full parameter; with ZeRO 3 the parameter itself is partitioned."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
