"""Checks of `train_stage` before it starts a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.training import MODEL, STAGE

from components.core.artifact import OBSERVED_DIR
from components.core.errors import ArtifactError, BudgetError, ConfigError, TrainingError
from components.core.files import write_json
from components.training.config import Budget, TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.run_file import (
    RESULT_FILE,
    RUN_FILE,
    USAGE_FILE,
    ArtifactInput,
    RunFile,
    StageRun,
    input_digests,
)


@pytest.fixture
def run(tmp_path: Path) -> StageRun:
    return StageRun(
        stage="nl",
        config=STAGE,
        model=MODEL,
        seed=7,
        data=ArtifactInput(folder=str(tmp_path), digest="corpus"),
        tokenizer=ArtifactInput(folder=str(tmp_path), digest="tokenizer"),
    )


def has_started(folder: Path) -> bool:
    return (folder / RUN_FILE).exists()


def test_a_batch_that_does_not_divide_over_the_processes_is_refused(
    run: StageRun, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="set world_size to 2"):
        train_stage(tmp_path / "stage", run, TrainingExecution(world_size=3), print)
    assert not has_started(tmp_path / "stage")


def test_an_absent_input_is_refused(run: StageRun, tmp_path: Path) -> None:
    broken = run.replace(init_from={"folder": str(tmp_path / "gone"), "digest": "0123456789abcdef"})
    with pytest.raises(ArtifactError, match="as the input initial") as refused:
        train_stage(tmp_path / "stage", broken, TrainingExecution(), print)
    assert str(tmp_path / "gone") in refused.value.got
    assert not has_started(tmp_path / "stage")


def test_a_finished_stage_is_not_trained_again(run: StageRun, tmp_path: Path) -> None:
    write_json(tmp_path / RESULT_FILE, {"run": run.identity(), "result": {"steps": 5}})
    assert train_stage(tmp_path, run, TrainingExecution(), print) == {"steps": 5}
    with pytest.raises(TrainingError, match="the result of another run"):
        train_stage(tmp_path, run.replace(seed=8), TrainingExecution(), print)
    assert not has_started(tmp_path)


def test_the_digests_of_the_inputs_are_read_from_the_folder_of_a_stage(
    run: StageRun, tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    assert input_digests(folder) == set()
    path = RunFile(run=run, execution=TrainingExecution()).write(folder)
    assert input_digests(folder) == {"corpus", "tokenizer"}
    later = run.replace(init_from={"folder": "/nl", "digest": "nl"})
    RunFile(run=later, execution=TrainingExecution()).write(folder)
    assert input_digests(folder) == {"corpus", "tokenizer", "nl"}
    (folder / OBSERVED_DIR).mkdir()
    path.rename(folder / OBSERVED_DIR / RUN_FILE)  # As when the weights are complete.
    assert input_digests(folder) == {"corpus", "tokenizer", "nl"}
    write_json(path, {"run": {"data": "corpus"}})
    with pytest.raises(TrainingError, match="does not name the inputs of the stage"):
        input_digests(folder)


def test_the_identity_of_a_run_contains_digests_and_no_paths(run: StageRun, tmp_path: Path) -> None:
    moved = run.replace(data={"folder": "/elsewhere", "digest": "corpus"})
    assert moved.identity() == run.identity()
    assert (
        run.replace(data={"folder": str(tmp_path), "digest": "other"}).identity() != run.identity()
    )
    path = RunFile(run=run, execution=TrainingExecution(micro_batch=2)).write(tmp_path)
    assert RunFile.read(path) == RunFile(run=run, execution=TrainingExecution(micro_batch=2))
    assert RunFile.read(path).run.identity() == run.identity()


def test_time_whose_metrics_are_lost_counts_before_ranks_start(
    run: StageRun, tmp_path: Path
) -> None:
    write_json(tmp_path / USAGE_FILE, {"elapsed_s": 9_000.0, "device_s": 9_000.0})
    execution = TrainingExecution(budget=Budget(hours=2.0))
    with pytest.raises(BudgetError, match=r"did not start: training has used 2\.5 hours"):
        train_stage(tmp_path, run, execution, print)
    assert not has_started(tmp_path)
