"""The document that crosses the boundary between a flow and the trainer: `run.json`.

It names everything that one stage needs, as plain JSON: no pickle, no environment, nothing from the flow's memory. The
folder it lies in is the folder that is filled, so an output path is known in one place only: copy `run.json` to an empty
folder, and the same command makes the same files there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.artifact import OBSERVED_DIR
from components.core.config import Config
from components.core.files import read_json, write_json
from components.model.config import ModelConfig
from components.training.config import StageConfig, TrainingExecution

CODE_VERSION = 1
"""Raised when the same run would give other weights."""

RUN = "run.json"
RESULT = "training.json"
"""What was run and what came of it. It is written last: where it lies, the stage is finished."""
WORK = "work"
"""Folder of whatever is only needed until the stage is finished."""
METRICS = f"{OBSERVED_DIR}metrics.jsonl"
DEEPSPEED = f"{OBSERVED_DIR}deepspeed.json"
"""What DeepSpeed was configured with, the last time that the stage was begun."""
LOG = f"{OBSERVED_DIR}train.log"
OPTIMIZER = "optimizer.safetensors"
"""Adam's moments beside the weights, where a next stage keeps them (`moments`)."""


class ArtifactInput(Config):
    """A folder to read from, and the digest of the artifact that it holds."""

    folder: str
    digest: str


class StageRun(Config):
    """One stage of training, with its inputs: decides the weights, up to the rounding that a place brings."""

    stage: str
    """nl, multi or mono."""
    config: StageConfig
    model: ModelConfig
    seed: int
    """Of the first weights (only without `initial`) and of the order of the sequences."""
    data: ArtifactInput
    """A prepared corpus."""
    tokenizer: ArtifactInput
    """Copied into the checkpoint, so that it can be used by itself."""
    initial: ArtifactInput | None = None
    """The previous stage's checkpoint, or the model that training starts from: its weights are taken, its optimizer where
    `config` says so. None: new weights."""
    save_optimizer_state: bool = False
    """Adam's moments are left beside the weights, for a next stage that keeps them."""

    def identity(self) -> dict[str, Any]:
        """What decides the result: everything but the paths, as plain JSON values."""
        values = super().identity()
        for role in values.keys() & {"data", "tokenizer", "initial"}:
            values[role] = values[role]["digest"]
        return values


class RunFile(Config):
    """The content of `run.json`."""

    run: StageRun
    place: TrainingExecution
    micro_batch_upper_bound: int | None = None
    """Where micro_batch is auto: one that did not fit."""

    def write(self, folder: Path) -> Path:
        """Write `run.json` into the folder to fill, and return its path."""
        write_json(folder / RUN, self.model_dump(mode="json"))
        return folder / RUN

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Raises ConfigError for a field that is unknown, missing or of the wrong type."""
        return cls.parse(read_json(path))
