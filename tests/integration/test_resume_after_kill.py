"""SIGKILL of all processes of a stage at 20 moments: it resumes, and ends with the same bits.

The stage saves after every step. Every other kill happens while a checkpoint is being written, the
others a random time after a checkpoint.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.training import EXECUTION, STAGE, checkpoint_steps, toy_run

from components.core.network import free_port
from components.training.launch.commands import launch_commands
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics, read_metrics
from components.training.run_file import METRICS_FILE, RESULT_FILE, WORK_FOLDER, RunFile, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]

NUM_KILLS = 20
SEED = 7
MAX_DELAY_S = 0.5
"""Between a checkpoint and the kill."""
TIMEOUT_S = 120.0
SAVING_EXECUTION = EXECUTION.replace(checkpoint_every_steps=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    stage = STAGE.replace(steps=160, decay_steps=150, global_batch_tokens=32 * 64)
    return toy_run(tmp_path_factory.mktemp("inputs"), stage)


def test_a_stage_that_is_killed_20_times_ends_with_the_same_bits(
    run: StageRun, tmp_path: Path
) -> None:
    uninterrupted = tmp_path / "uninterrupted"
    killed = tmp_path / "killed"
    uninterrupted.mkdir()
    killed.mkdir()
    expected: list[StepMetrics] = []
    train_stage(uninterrupted, run, SAVING_EXECUTION, expected.append)

    rng = random.Random(SEED)  # noqa: S311
    num_during_save = 0
    for number in range(NUM_KILLS):
        run_and_kill(killed, run, rng, during_save=number % 2 == 1)
        assert not (killed / RESULT_FILE).exists(), (
            f"finished before kill {number + 1}: the stage is too short"
        )
        num_during_save += bool(list((killed / WORK_FOLDER).glob("*.partial")))
    assert num_during_save >= NUM_KILLS // 4
    log = (killed / "attempts.log").read_text()
    resumed_steps = set(re.findall(r"resumes after step (\d+);", log))
    assert len(resumed_steps) >= NUM_KILLS // 2 - 1, "attempts resume from earlier checkpoints"

    steps: list[StepMetrics] = []
    train_stage(killed, run, SAVING_EXECUTION, steps.append)
    assert [(step.step, step.loss, step.grad_norm) for step in steps] == [
        (step.step, step.loss, step.grad_norm) for step in expected
    ]
    assert (killed / "model.safetensors").read_bytes() == (
        uninterrupted / "model.safetensors"
    ).read_bytes()


def run_and_kill(folder: Path, run: StageRun, rng: random.Random, *, during_save: bool) -> None:
    """Start the stage, and kill its process group after it has made progress."""
    (command,) = launch_commands(
        RunFile(run=run, execution=SAVING_EXECUTION).write(folder),
        SAVING_EXECUTION,
        free_port(),
        os.environ,
    )
    metrics_inode = inode(folder / METRICS_FILE)
    saved_step = newest_checkpoint(folder)
    with (folder / "attempts.log").open("ab") as log:
        attempt = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait_for(condition: Callable[[], object], event: str) -> None:
        wait_until(lambda: attempt.poll() is not None or condition(), event)

    try:
        wait_for(lambda: has_stepped(folder, metrics_inode, saved_step), "a step")
        if during_save:
            wait_for(lambda: list((folder / WORK_FOLDER).glob("*.partial")), "a save")
        else:
            wait_for(lambda: newest_checkpoint(folder) > saved_step, "a checkpoint")
            time.sleep(rng.uniform(0, MAX_DELAY_S))
    finally:
        os.killpg(attempt.pid, signal.SIGKILL)
        attempt.wait()


def has_stepped(folder: Path, previous_inode: int | None, saved_step: int) -> bool:
    """Whether this attempt has reported a step. It first replaces the metrics file."""
    if inode(folder / METRICS_FILE) in (None, previous_inode):
        return False
    lines = read_metrics(folder / METRICS_FILE)
    return bool(lines) and lines[-1].step > saved_step


def newest_checkpoint(folder: Path) -> int:
    """The step of the newest checkpoint; 0 without checkpoints."""
    return max(checkpoint_steps(folder), default=0)


def inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def wait_until(condition: Callable[[], object], event: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {TIMEOUT_S} s for {event}")
        time.sleep(0.002)
