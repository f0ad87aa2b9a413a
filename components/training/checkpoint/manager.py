"""Checkpoints inside a stage: whole or absent, verified before use, written while training goes on.

A checkpoint is written to `step-N.partial/` by all ranks (see `snapshots`), gets a manifest with the SHA-256 of each file,
and is renamed to `step-N/` in one move (see `shelf`). So a kill leaves the one before, and of a damaged one it is noticed,
and one before is used. The format inside is DeepSpeed's own. On another place (ranks, ZeRO stage) it is first converted to
DeepSpeed's universal format, beside it; the same place goes on with the same bits, another one with the same values in
another order of sums. What other rooms get is the Hugging Face folder at the end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from argparse import Namespace
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
    seal_name,
    wait_for_rank_markers,
)
from components.training.checkpoint.optimizer_state import set_num_updates
from components.training.checkpoint.retention import (
    PARTIAL,
    UNIVERSAL,
    commit_checkpoint,
    latest_valid_checkpoint,
    name_of,
    prune_checkpoints,
)
from components.training.config import TrainingExecution
from components.training.distributed import broadcast_object
from components.training.hardware import Precision
from components.training.run_file import StageRun
from components.training.step_skipping import SkipState

logger = logging.getLogger(__name__)

_TAG = "engine"
"""Folder inside a checkpoint that DeepSpeed writes."""
_BYTES_PER_PARAMETER = 16
"""fp32 weights, their master copy and Adam's two moments."""


class ResumePoint(NamedTuple):
    """A checkpoint to go on from."""

    folder: str
    step: int
    num_updates: int
    """That are in the optimizer's moments: not of batches that were left out, but of a stage whose moments were kept."""
    before: SkipState | None
    """What the next steps have to know of those up to it. None: an older version saved it, and only the metrics tell."""
    is_universal: bool
    """Whether it is to be loaded as DeepSpeed's universal format, which the engine has to be told when it is built."""

    def restore(self, engine: Any) -> None:
        """Load it into the engine; all ranks call it together."""
        groups = engine.optimizer.param_groups
        decays = [group["weight_decay"] for group in groups]
        engine.load_checkpoint(self.folder, tag=_TAG)
        if self.is_universal:
            # DeepSpeed gives every group what it finds of the first, and does not keep the step in every stage's file.
            for group, decay in zip(groups, decays, strict=True):
                group["weight_decay"] = decay
            set_num_updates(engine, self.num_updates)


class CheckpointManager:
    """The checkpoints of one stage; every method is called by all ranks together."""

    def __init__(
        self, folder: Path, run: StageRun, place: TrainingExecution, precision: Precision
    ) -> None:
        self.folder = folder
        self._place = place
        self._run = fingerprint(run)
        self._num_ranks = dist.get_world_size()
        self._layout: dict[str, Any] = {
            "num_ranks": self._num_ranks,
            "zero_stage": _zero_stage(place.zero_stage, precision),
            "precision": precision,
            "offload": [place.offload_optimizer, place.offload_parameters],
        }
        if place.tensor_parallel > 1:
            self._layout["tensor_parallel"] = place.tensor_parallel
        self._snapshots = InMemoryCheckpointEngine()
        self._writing: AsyncCheckpointWriter | None = None

    def save(
        self, engine: Any, step: int, num_updates: int, held_out: float | None, before: SkipState
    ) -> float:
        """Save after step `step`: copied now, written by a thread.

        Args:
            num_updates: that are in the optimizer's moments.
            held_out: mean bits per byte on held-out documents after it, the lower the better; None: not measured.
            before: what later steps have to know of those up to it.

        Returns:
            Seconds that training waited: for the checkpoint before it, where that was still being written, and the copy.

        Raises:
            StorageFull: there is no room for it, or there was none for the one before; what was whole is untouched.
        """
        started = time.monotonic()
        self.finish()
        partial = self.folder / f"{name_of(step)}{PARTIAL}"
        size_bytes = _BYTES_PER_PARAMETER * sum(
            _numel(parameter) for parameter in engine.module.parameters()
        )
        require_disk_space(self.folder, size_bytes, f"the checkpoint of step {step}")
        engine.checkpoint_engine = self._snapshots
        engine.save_checkpoint(str(partial), tag=_TAG, save_latest=False)
        rank, skipped = (
            dist.get_rank(),
            {"num_skipped": before.num_skipped, "losses": list(before.losses)},
        )
        known = {"step": step, "num_updates": num_updates, "held_out": held_out, "before": skipped}
        self._writing = AsyncCheckpointWriter(
            partial,
            rank,
            self._snapshots.taken(),
            None if rank else lambda: self._publish(partial, known),
        )
        return time.monotonic() - started

    def finish(self) -> None:
        """Wait until the last checkpoint lies there whole.

        Raises:
            StorageFull: there was no room for it.
        """
        if self._writing:
            self._writing.finish()
            self._writing = None
        dist.barrier()

    def find(self) -> ResumePoint | None:
        """The newest whole checkpoint of this stage, made loadable on this place.

        Raises:
            TrainingError: it was made by another run, or with ZeRO where this is without, or the other way round; or there
                are checkpoints and none is whole.
        """
        found = broadcast_object(self._find_or_not() if dist.get_rank() == 0 else None)
        if isinstance(found, TrainingError):
            raise found
        return found and ResumePoint(*found)

    def _find_or_not(self) -> ResumePoint | TrainingError | None:
        try:
            return self._find()
        except TrainingError as error:  # The other ranks wait for an answer.
            return error

    def _find(self) -> ResumePoint | TrainingError | None:
        whole = latest_valid_checkpoint(self.folder)
        if whole is None:
            return None
        folder, made_by = whole
        earlier = made_by.get("before")
        before_it = earlier and SkipState(earlier["num_skipped"], tuple(earlier["losses"]))
        if made_by["run"] != self._run:
            return TrainingError(
                f"{folder} was made by another run, {made_by['run'][:12]}",
                expected=f"a checkpoint of run {self._run[:12]}",
                fix=f"remove {self.folder} to begin the stage again, or take back the change to the recipe",
            )
        layout = made_by["layout"]
        before = layout["zero_stage"] = _zero_stage(
            layout["zero_stage"], layout["precision"]
        )  # Older ones say 0 in bf16.
        cut, cut_before = (one.get("tensor_parallel", 1) for one in (self._layout, layout))
        if layout != self._layout and cut * cut_before > 1:
            return TrainingError(
                f"{folder} was made with tensor_parallel {cut_before} on {layout['num_ranks']} ranks",
                expected="the same place as before: such a checkpoint is not converted",
                fix=f"go on with that place, or remove {self.folder} to begin the stage again",
            )
        if (
            layout == self._layout or before == self._layout["zero_stage"] == 0
        ):  # Without ZeRO every rank has all.
            return ResumePoint(
                str(folder), made_by["step"], made_by["num_updates"], before_it, is_universal=False
            )
        if 0 in (before, self._layout["zero_stage"]):
            how = (
                ""
                if layout["precision"] == self._layout["precision"]
                else f" in {layout['precision']}"
            )
            place = f"--exec training.zero_stage={before} --exec training.precision={layout['precision']}"
            return TrainingError(
                f"{folder} was made with ZeRO stage {before}{how}, and this is stage {self._layout['zero_stage']}",
                expected="the same, or two of the stages 1, 2 and 3: DeepSpeed converts no checkpoint without ZeRO",
                fix=f"go on with {place}, or remove {self.folder} to begin the stage again",
            )
        logger.info(
            "%s was made on another place (%s); converting it for %s", folder, layout, self._layout
        )
        return ResumePoint(
            str(_universal(folder)),
            made_by["step"],
            made_by["num_updates"],
            before_it,
            is_universal=True,
        )

    def _publish(self, partial: Path, known: dict[str, Any]) -> None:
        """Rank 0, in its thread: once all ranks have written, make the checkpoint count and let old ones go."""
        wait_for_rank_markers(partial, self._num_ranks)
        seals = [partial / seal_name(rank) for rank in range(self._num_ranks)]
        files = [entry for seal in seals for entry in read_json(seal)]
        for seal in seals:
            seal.unlink()
        commit_checkpoint(
            partial, {"run": self._run, "layout": self._layout, **known, "files": files}
        )
        prune_checkpoints(self.folder, self._place.keep_last, self._place.keep_every_steps)


def _universal(folder: Path) -> Path:
    """Convert a checkpoint to DeepSpeed's universal format."""
    universal = folder.with_suffix(UNIVERSAL)
    options = Namespace(
        input_folder=str(folder / _TAG),
        output_folder=str(universal / _TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):  # It prints its options.
        ds_to_universal.main(options)
    # Beside weights and moments lies a file of what else is known, under a name for ZeRO 3 or one for the others.
    names = [
        universal / _TAG / f"{begin}mp_rank_00_model_states.pt" for begin in ("", "zero_pp_rank_0_")
    ]
    for here, other in (names, names[::-1]):
        if not here.exists():
            os.link(other, here)
    _complete(universal / _TAG / "zero" / "optimizer_state.pt")
    return universal


def _complete(path: Path) -> None:
    """Settings of the optimizer, where ZeRO 3 looks for them. The step there is not ours (see `Found.restore`)."""
    state = torch.load(path, weights_only=False)
    if OPTIMIZER_STATE_DICT not in state:
        state[OPTIMIZER_STATE_DICT] = {
            "state": {0: {"step": torch.tensor(0.0)}},
            "param_groups": state["param_groups"],
        }
        torch.save(state, path)


def _zero_stage(asked: int, precision: Precision) -> int:
    """The stage that DeepSpeed runs: in bf16 at least 1 (see `deepspeed_config`)."""
    return max(asked, int(precision == "bf16"))


def _numel(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
