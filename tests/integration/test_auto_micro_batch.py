"""Micro-batch auto on real ranks: first choice, resuming, and running out of memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.training import (
    EXECUTION,
    MODEL,
    SHORT_STAGE,
    StageStopped,
    stop_after,
    toy_run,
    train_losses,
)

from components.core.errors import OutOfMemoryError
from components.training.config import TrainingExecution
from components.training.deepspeed_config import deepspeed_config
from components.training.launch.launcher import train_stage
from components.training.run_file import DEEPSPEED_FILE, LOG_FILE, RunFile, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

AUTO = EXECUTION.replace(micro_batch="auto")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """16 sequences of 64 tokens a step: 8 for each of two ranks."""
    return toy_run(tmp_path_factory.mktemp("inputs"), SHORT_STAGE)


def test_the_micro_batch_is_all_sequences_of_a_rank_if_they_fit(
    run: StageRun, tmp_path: Path
) -> None:
    eight = EXECUTION.replace(micro_batch=8)
    expected = train_losses(tmp_path / "eight", run, eight)
    assert train_losses(tmp_path / "auto", run, AUTO) == expected
    config = json.loads((tmp_path / "auto" / DEEPSPEED_FILE).read_text())
    assert config == deepspeed_config(run.config, eight, 64, on_gpu=False, precision="fp32")
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (16, 8)


def test_a_resumed_stage_keeps_its_micro_batch_and_ends_with_the_same_bits(
    run: StageRun, tmp_path: Path
) -> None:
    resumed = tmp_path / "resumed"
    uninterrupted = tmp_path / "uninterrupted"
    fixed = EXECUTION.replace(micro_batch=2, checkpoint_every_steps=2)
    with pytest.raises(StageStopped):
        train_stage(resumed, run, fixed, stop_after(resumed, 3))
    assert train_losses(resumed, run, AUTO) == train_losses(uninterrupted, run, fixed)
    assert "micro-batch 2, like the earlier attempt" in (resumed / LOG_FILE).read_text()
    assert (resumed / "model.safetensors").read_bytes() == (
        uninterrupted / "model.safetensors"
    ).read_bytes()


LIMITED = """
import resource, sys
from pathlib import Path
from components.core.errors import CodegenError
from components.training.launch.launcher import train_stage
from components.training.run_file import RunFile

file = RunFile.read(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]),) * 2)
try:
    train_stage(Path(sys.argv[2]), file.run, file.execution, lambda _: None)
except CodegenError as error:
    sys.exit(type(error).__name__)
"""


@pytest.mark.skipif(
    not hasattr(resource, "RLIMIT_DATA") or sys.platform != "linux",
    reason="Linux limits private memory",
)
def test_a_micro_batch_that_runs_out_of_memory_is_replaced_by_a_smaller_one(
    run: StageRun, tmp_path: Path
) -> None:
    """950 MB a process: one sequence takes 590 MB, eight 740, all 32 take 1.2 GB (measured)."""
    model = MODEL.replace(num_layers=16, head_dim=64)
    stage = run.config.replace(steps=3, warmup_steps=1, decay_steps=2, global_batch_tokens=32 * 64)
    deep = run.replace(model=model, config=stage)

    def train_with_limit(folder: Path, micro_batch: int | str) -> str:
        """The name of the raised error, or an empty string."""
        execution = TrainingExecution.parse(
            {"micro_batch": micro_batch, "precision": "fp32", "zero_stage": 0}
        )
        folder.mkdir()
        document = RunFile(run=deep, execution=execution).write(folder)
        arguments = [str(document), str(folder / "stage"), str(950_000_000)]
        command = [sys.executable, "-c", LIMITED, *arguments]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        return ended.stderr.strip()

    assert train_with_limit(tmp_path / "fixed", 32) == OutOfMemoryError.__name__
    assert train_with_limit(tmp_path / "auto", "auto") == ""
    config = json.loads((tmp_path / "auto" / "stage" / DEEPSPEED_FILE).read_text())
    assert config["train_micro_batch_size_per_gpu"] < 32
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] == 32
