"""kill -9 of every process of a stage at 20 moments of a seeded choice: it always goes on, and ends with the same bits.

The stage saves after every step. Every other kill falls as soon as a checkpoint is being written; the others some
milliseconds, by the seed, after one was saved.
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
from fixtures.training import EXECUTION, STAGE, toy_run

from components.core.network import free_port
from components.training.launch.commands import launch_commands
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics, read_metrics
from components.training.run_file import METRICS_FILE, RESULT_FILE, WORK_FOLDER, RunFile, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]

KILLS = 20
SEED = 7
MOST_S = 0.5
"""After a save, until the kill."""
PATIENCE_S = 120.0
LASTING = EXECUTION.replace(checkpoint_every_steps=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    stage = STAGE.replace(steps=160, decay_steps=150, global_batch_tokens=32 * 64)
    return toy_run(tmp_path_factory.mktemp("inputs"), stage)


def test_killed_at_many_moments(run: StageRun, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected: list[StepMetrics] = []
    train_stage(whole, run, LASTING, expected.append)

    chance, in_a_save = random.Random(SEED), 0  # noqa: S311
    for number in range(KILLS):
        kill_an_attempt(killed, run, chance, in_a_save=number % 2 == 1)
        assert not (killed / RESULT_FILE).exists(), (
            f"finished before kill {number + 1}: the stage is too short for this test"
        )
        in_a_save += bool(list((killed / WORK_FOLDER).glob("*.partial")))
    assert in_a_save >= KILLS // 4
    went_on_after = set(
        re.findall(r"goes on after step (\d+);", (killed / "attempts.log").read_text())
    )
    assert len(went_on_after) >= KILLS // 2 - 1, "attempts go on from what those before had saved"

    seen: list[StepMetrics] = []
    train_stage(killed, run, LASTING, seen.append)
    assert [(one.step, one.loss, one.grad_norm) for one in seen] == [
        (one.step, one.loss, one.grad_norm) for one in expected
    ]
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def kill_an_attempt(folder: Path, run: StageRun, chance: random.Random, *, in_a_save: bool) -> None:
    """Start the stage, let it go on, and kill its whole process group."""
    (command,) = launch_commands(
        RunFile(run=run, execution=LASTING).write(folder), LASTING, free_port(), os.environ
    )
    before, saved = inode(folder / METRICS_FILE), newest_save(folder)
    with (folder / "attempts.log").open("ab") as log:
        attempt = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: attempt.poll() is not None or stepped(folder, before, saved), "a step")
        if in_a_save:
            wait_until(
                lambda: (
                    attempt.poll() is not None or list((folder / WORK_FOLDER).glob("*.partial"))
                ),
                "a save",
            )
        else:
            wait_until(
                lambda: attempt.poll() is not None or newest_save(folder) > saved, "a checkpoint"
            )
            time.sleep(chance.uniform(0, MOST_S))
    finally:
        os.killpg(attempt.pid, signal.SIGKILL)
        attempt.wait()


def stepped(folder: Path, before: int | None, saved: int) -> bool:
    """Whether this attempt has reported a step of its own: it first writes the metrics anew, up to what was saved."""
    lines = (
        read_metrics(folder / METRICS_FILE)
        if inode(folder / METRICS_FILE) not in (None, before)
        else []
    )
    return bool(lines) and lines[-1].step > saved


def newest_save(folder: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max(
        (int(one.name[-8:]) for one in (folder / WORK_FOLDER).glob("step-*[0-9]")), default=0
    )


def inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def wait_until(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} within {PATIENCE_S} s")
        time.sleep(0.002)
