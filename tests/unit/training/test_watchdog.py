"""The median step of the watchdog."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fixtures.training import MODEL, STAGE

from components.core.errors import StageStalledError
from components.training.config import TrainingExecution
from components.training.launch import watchdog as watchdog_module
from components.training.launch.heartbeat import HeartbeatWriter
from components.training.launch.watchdog import Watchdog
from components.training.metrics import StepMetrics
from components.training.run_file import WORK_FOLDER, ArtifactInput, RunFile, StageRun


def step(number: int, step_s: float) -> StepMetrics:
    return StepMetrics(
        step=number,
        loss=1.0,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens=number * STAGE.global_batch_tokens,
        tokens_per_s=STAGE.global_batch_tokens / step_s,
        mfu=0.5,
        elapsed_s=step_s * number,
        time_left_s=0.0,
    )


def test_steps_of_earlier_attempts_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "_CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(watchdog_module, "_STACK_TIMEOUT_S", 0.0)
    source = ArtifactInput(folder=str(tmp_path), digest="0")
    run = StageRun(stage="nl", config=STAGE, model=MODEL, seed=7, data=source, tokenizer=source)
    execution = TrainingExecution(world_size=1, stall_factor=1.0, stall_min_s=0.01)
    watchdog = Watchdog(tmp_path, RunFile(run=run, execution=execution))
    with HeartbeatWriter(tmp_path / WORK_FOLDER, rank=0) as heartbeat:
        heartbeat.report("reading a batch", 3)
        watchdog.record_steps([step(number, 1_000.0) for number in (1, 2, 3)])
        heartbeat.report("computing the loss", 4)
        watchdog.record_steps([step(4, 0.02)])
        watchdog.check()
        time.sleep(0.1)
        with pytest.raises(StageStalledError) as stalled:
            watchdog.check()
    assert "the median step of 0.02 s" in stalled.value.expected
