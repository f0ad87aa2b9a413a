"""`run.json`, the file that passes a stage from a flow to the trainer, and the files of a stage.

The file contains everything that the stage needs as plain JSON: no pickle, no environment
variables. The trainer fills the folder of the file: with a copy of `run.json` in an empty folder,
the same command makes the same files there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.artifact import OBSERVED_DIR
from components.core.config import Config, Seed
from components.core.errors import TrainingError
from components.core.files import read_json, write_json
from components.model.config import ModelConfig
from components.training.budget import Usage
from components.training.config import StageConfig, TrainingExecution

CODE_VERSION = 1
"""Raised when the same run would give other weights."""

RUN_FILE = "run.json"
RESULT_FILE = "training.json"
"""The run and its statistics. Written last: the stage is finished if this file exists."""
WORK_FOLDER = "work"
"""Files that are needed only until the stage is finished: checkpoints, locks, failure report."""
METRICS_FILE = f"{OBSERVED_DIR}metrics.jsonl"
RESTARTS_FILE = f"{OBSERVED_DIR}restarts.jsonl"
"""A line for each attempt that continued an interrupted attempt."""
DEEPSPEED_FILE = f"{OBSERVED_DIR}deepspeed.json"
"""The DeepSpeed configuration of the stage's last attempt."""
LOG_FILE = f"{OBSERVED_DIR}train.log"
USAGE_FILE = f"{OBSERVED_DIR}usage.json"
"""Time and devices that the stage has used over all attempts. Before the stage is finished: until
its last attempt loaded the model."""
MONITOR_FOLDER = f"{OBSERVED_DIR}monitors"
"""Default folder of the logs of DeepSpeed's monitors."""
OPTIMIZER_FILE = "optimizer.safetensors"
"""Adam's moments beside the weights, for a next stage that inherits them."""


class ArtifactInput(Config):
    """An input folder and the digest of the artifact in it."""

    folder: str
    digest: str


class StageRun(Config):
    """A training stage and its inputs: everything that decides the weights, up to rounding."""

    stage: str
    """nl, multi or mono."""
    config: StageConfig
    model: ModelConfig
    seed: Seed
    """Of new weights and of the order of the sequences."""
    data: ArtifactInput
    """A prepared corpus."""
    tokenizer: ArtifactInput
    """Copied into the checkpoint."""
    init_from: ArtifactInput | None = None
    """Checkpoint whose weights the stage starts from, and whose optimizer state it inherits if
    `config.optimizer_state` is inherit. None: new weights."""
    save_optimizer_state: bool = False
    """Save Adam's moments beside the weights, for a next stage that inherits them."""

    def identity(self) -> dict[str, Any]:
        """Return the run for hashing: its inputs count by digest, not by folder."""
        values = super().identity()
        for role in values.keys() & {"data", "tokenizer", "init_from"}:
            values[role] = values[role]["digest"]
        return values

    def inputs(self) -> dict[str, ArtifactInput | None]:
        """The inputs by role."""
        return {"data": self.data, "tokenizer": self.tokenizer, "initial": self.init_from}


def input_digests(folder: Path) -> set[str]:
    """Return the digests of the inputs of a stage; empty if it has not started.

    Also reads the `run.json` of another version of codegen.

    Raises:
        JsonError, TrainingError: `run.json` is damaged or has another form.
    """
    path = next(filter(Path.exists, (folder / RUN_FILE, folder / OBSERVED_DIR / RUN_FILE)), None)
    if path is None:
        return set()
    try:
        run = read_json(path)["run"]
        inputs = (run["data"], run["tokenizer"], run.get("init_from"))
        return {str(item["digest"]) for item in inputs if item}
    except (LookupError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path} does not name the inputs of the stage: {error!r:.300}",
            expected="the file that codegen wrote when it started the training",
            fix=f"start the training again, which writes it again, or remove {folder}",
        ) from error


class RunFile(Config):
    """The content of `run.json`."""

    run: StageRun
    execution: TrainingExecution
    monitor_folder: str | None = None
    """Folder for the logs of DeepSpeed's monitors. None: `MONITOR_FOLDER` of the stage."""
    earlier_stages: Usage = Usage()
    """Usage of the stages that were trained before, for the budget."""
    micro_batch_upper_bound: int | None = None
    """With micro_batch auto: a micro-batch that ran out of memory; smaller sizes are tried."""

    def write(self, folder: Path) -> Path:
        """Write `run.json` into the folder of the stage, and return its path."""
        write_json(folder / RUN_FILE, self.model_dump(mode="json"))
        return folder / RUN_FILE

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Raises ConfigError for a field that is unknown, missing or of the wrong type."""
        return cls.parse(read_json(path))
