"""A stage whose rank is stopped by SIGSTOP: the launcher names the rank and ends all of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fixtures.training import EXECUTION, checkpoint_steps, processes_of_rank, toy_run

from components.core.artifact import content_digest
from components.core.errors import StageStalledError
from components.core.fingerprint import list_files
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics, read_restarts
from components.training.run_file import LOG_FILE, RESTARTS_FILE, StageRun

pytestmark = [pytest.mark.process_heavy, pytest.mark.timeout(600)]

LIMITS = {"stall_factor": 1.0, "stall_min_s": 5.0}
"""Limits that a busy machine reaches only if it does not run a rank at all for seconds."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return toy_run(tmp_path_factory.mktemp("inputs"))


def stall_rank_1(folder: Path, run: StageRun, execution: TrainingExecution) -> StageStalledError:
    """Train until a checkpoint exists, stop rank 1, and return the error of the stage."""
    stopped: list[int] = []

    def stop(metrics: StepMetrics) -> None:
        if metrics.step >= 6 and checkpoint_steps(folder) and not stopped:
            _, rank = processes_of_rank(folder, 1)
            rank.send_signal(signal.SIGSTOP)
            stopped.append(rank.pid)

    with pytest.raises(StageStalledError) as stalled:
        train_stage(folder, run, execution, stop)
    assert f"rank 1 (process {stopped[0]} on " in stalled.value.got
    return stalled.value


def test_a_stopped_rank_is_named_and_the_stage_resumes_to_the_same_bits(
    run: StageRun, tmp_path: Path
) -> None:
    uninterrupted, folder = tmp_path / "uninterrupted", tmp_path / "stage"
    uninterrupted.mkdir()
    folder.mkdir()
    train_stage(uninterrupted, run, EXECUTION, lambda _: None)

    error = stall_rank_1(folder, run, EXECUTION.replace(**LIMITS))
    stopped, waiting = error.got.index("rank 1 (process"), error.got.index("rank 0 (process")
    assert stopped < waiting, "the rank that blocks the others is first"
    assert ", stopped): step " in error.got[stopped:waiting]
    assert "gather_values (distributed.py:" in error.got[waiting:], (
        "the function in which the other rank waits"
    )
    log = (folder / LOG_FILE).read_text()
    assert "stalled: rank 1 (process" in log
    assert "_gather_batch_stats" in log.partition("stalled: rank 0")[2]
    for rank in (0, 1):
        assert not processes_of_rank(folder, rank)

    num_done = max(checkpoint_steps(folder))
    train_stage(folder, run, EXECUTION, lambda _: None)
    (restart,) = read_restarts(folder / RESTARTS_FILE)
    assert restart.resumed_step == num_done
    assert restart.lost_steps >= 0
    assert content_digest(list_files(folder)) == content_digest(list_files(uninterrupted))
