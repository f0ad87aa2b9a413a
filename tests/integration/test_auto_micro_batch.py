"""Micro-batch auto on real ranks: what it settles on, what a stage goes on with, and what does not fit after all."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.training import MODEL, EXECUTION, STAGE, toy_run

from components.core.errors import OutOfMemory
from components.training.config import TrainingExecution
from components.training.deepspeed_config import deepspeed_config
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import DEEPSPEED_FILE, LOG_FILE, WORK_FOLDER, RunFile, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.apart]

AUTO = EXECUTION.replace(micro_batch="auto")
STEPS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """16 sequences of 64 tokens a step: 8 for each of two ranks."""
    return toy_run(
        tmp_path_factory.mktemp("inputs"), STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=5)
    )


def losses(folder: Path, run: StageRun, place: TrainingExecution) -> list[float]:
    seen: list[StepMetrics] = []
    train_stage(folder, run, place, seen.append)
    return [one.loss for one in seen]


def test_all_of_a_ranks_sequences_where_they_fit_and_deepspeed_is_told_so(
    run: StageRun, tmp_path: Path
) -> None:
    assert losses(tmp_path / "auto", run, AUTO) == losses(
        tmp_path / "eight", run, EXECUTION.replace(micro_batch=8)
    )
    told = json.loads((tmp_path / "auto" / DEEPSPEED_FILE).read_text())
    assert told == deepspeed_config(
        run.config, EXECUTION.replace(micro_batch=8), 64, on_gpu=False, bf16=False
    )
    assert (told["train_batch_size"], told["train_micro_batch_size_per_gpu"]) == (16, 8)


def test_a_stage_goes_on_with_the_micro_batch_that_it_had_to_the_same_bits(
    run: StageRun, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(metrics: StepMetrics) -> None:
        if metrics.step >= 3 and list((tmp_path / "resumed" / WORK_FOLDER).glob("step-*[0-9]")):
            raise Enough

    two = EXECUTION.replace(micro_batch=2, checkpoint_every_steps=2)
    with pytest.raises(Enough):
        train_stage(tmp_path / "resumed", run, two, stop)
    assert losses(tmp_path / "resumed", run, AUTO) == losses(tmp_path / "whole", run, two)
    assert "micro-batch 2, as before" in (tmp_path / "resumed" / LOG_FILE).read_text()
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("resumed", "whole")
    ]
    assert weights[0] == weights[1]


LIMITED = """
import resource, sys
from pathlib import Path
from components.core.errors import CodegenError
from components.training.launch.launcher import train_stage
from components.training.run_file import RunFile

file = RunFile.read(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]),) * 2)
try:
    train_stage(Path(sys.argv[2]), file.run, file.place, lambda _: None)
except CodegenError as error:
    sys.exit(type(error).__name__)
"""


@pytest.mark.skipif(
    not hasattr(resource, "RLIMIT_DATA") or sys.platform != "linux",
    reason="Linux limits private memory",
)
def test_what_does_not_fit_in_the_first_two_steps_is_tried_smaller(
    run: StageRun, tmp_path: Path
) -> None:
    """950 MB a process: one sequence takes 590 MB, eight 740, all 32 take 1.2 GB (measured)."""
    model = MODEL.replace(num_layers=16, head_dim=64)
    stage = run.config.replace(steps=3, warmup_steps=1, decay_steps=2, global_batch_tokens=32 * 64)
    deep = run.replace(model=model, config=stage)

    def trained(folder: Path, micro_batch: int | str) -> str:
        place = TrainingExecution.parse(
            {"micro_batch": micro_batch, "precision": "fp32", "zero_stage": 0}
        )
        folder.mkdir()
        document = RunFile(run=deep, execution=place).write(folder)
        command = [
            sys.executable,
            "-c",
            LIMITED,
            str(document),
            str(folder / "stage"),
            str(950_000_000),
        ]
        return subprocess.run(
            command, stderr=subprocess.PIPE, text=True, check=False
        ).stderr.strip()

    assert trained(tmp_path / "fixed", 32) == OutOfMemory.__name__
    assert trained(tmp_path / "auto", "auto") == ""
    settled = json.loads((tmp_path / "auto" / "stage" / DEEPSPEED_FILE).read_text())
    assert settled["train_micro_batch_size_per_gpu"] < 32
    assert settled["train_micro_batch_size_per_gpu"] * settled["gradient_accumulation_steps"] == 32
