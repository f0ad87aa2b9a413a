"""Runs of a deployment restart by themselves after a killed rank and a killed flow process."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from fixtures.prefect_stack import Stack, running_stack

from components.core.artifact import Artifact
from components.core.files import read_jsonl
from components.core.store import Store
from components.training.metrics import read_restarts
from components.training.run_file import METRICS_FILE, RESTARTS_FILE
from flows.runtime.stale_runs import RESTART_MESSAGE
from flows.settings.execution import Execution

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1500)]

NAME = "codegen-restarted"
NUM_STEPS = 100


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("restarts") / "project"
    with running_stack(folder, fixture_archives) as stack:
        yield stack


def start_training(project: Stack, name: str, **execution: Any) -> str:
    """Start a run of the stage nl; it saves a checkpoint every 5 steps."""
    parameters = copy.deepcopy(project.parameters("train-stage/tiny"))
    parameters["recipe"]["name"] = name
    stage = {"steps": NUM_STEPS, "decay_steps": NUM_STEPS - 10}
    parameters["recipe"]["training"]["stages"]["nl"] |= stage
    parameters["execution"] |= execution
    # Other tests on this machine may train at the same time.
    parameters["execution"]["training"] |= {"checkpoint_every_steps": 5, "one_per_host": False}
    return project.run("train-stage/tiny", **parameters | {"stage": "nl"})


def wait_for_steps(project: Stack, name: str, num_steps: int, num_restarts: int) -> None:
    """Wait until the attempt after a number of restarts has reached a step."""
    building = project.folder / "var/store/.building/checkpoint"

    def has_reached() -> bool:
        return any(
            len(read_restarts(folder / RESTARTS_FILE)) >= num_restarts
            and (folder / METRICS_FILE).exists()
            and sum(1 for _ in read_jsonl(folder / METRICS_FILE)) >= num_steps
            for folder in building.glob(f"{name}-nl-*")
        )

    project.until(has_reached)


def flow_process(project: Stack) -> psutil.Process:
    """The process of the only flow run."""
    children = psutil.Process(project.process.pid).children(recursive=True)
    engines = [child for child in children if "prefect.engine" in child.cmdline()]
    return min(engines, key=psutil.Process.create_time)


def checkpoint_of(project: Stack, name: str) -> Artifact:
    (checkpoint,) = [
        artifact
        for artifact in Store(project.folder / "var/store").list_artifacts()
        if artifact.name == f"{name}-nl"
    ]
    return checkpoint


def test_a_run_restarts_after_a_killed_rank_and_after_its_own_death(project: Stack) -> None:
    run = start_training(project, NAME)
    wait_for_steps(project, NAME, 12, num_restarts=0)
    rank = max(
        (process for process in project.trainers() if process.environ().get("RANK") == "1"),
        key=psutil.Process.create_time,
    )
    rank.kill()
    wait_for_steps(project, NAME, 30, num_restarts=1)
    flow_process(project).kill()
    project.until(lambda: project.state(run)["type"] == "COMPLETED")

    assert project.call(f"/flow_runs/{run}")["run_count"] == 2
    states = project.call(f"/flow_run_states/?flow_run_id={run}")
    assert sum(state["message"] == RESTART_MESSAGE for state in states) == 1
    assert "Crashed" in {state["name"] for state in states}
    checkpoint = checkpoint_of(project, NAME)
    folder = Path(checkpoint.address)
    restarts = read_restarts(folder / RESTARTS_FILE)
    assert len(restarts) == 2
    assert all(restart.resumed_step % 5 == 0 for restart in restarts)
    assert 5 <= restarts[0].resumed_step < restarts[1].resumed_step
    attempts = checkpoint.provenance["attempts"]
    assert isinstance(attempts, list)
    assert len(attempts) == 3

    tracking = Execution(project=str(project.folder)).open_tracking()
    runs = tracking.client.search_runs(
        [experiment.experiment_id for experiment in tracking.client.search_experiments()],
        f"tags.digest = '{checkpoint.digest}'",
    )
    metrics = runs[0].data.metrics
    assert metrics["training/restarts"] == 2
    assert metrics["training/lost_steps"] == sum(restart.lost_steps for restart in restarts)

    shutil.rmtree(folder)
    again = start_training(project, NAME)
    assert project.end_of(again)["type"] == "COMPLETED"
    assert not read_restarts(folder / RESTARTS_FILE)
    assert checkpoint_of(project, NAME).digest == checkpoint.digest


def test_a_run_that_crashes_too_often_fails(project: Stack) -> None:
    run = start_training(project, "codegen-crashing", max_restarts=0)
    wait_for_steps(project, "codegen-crashing", 6, num_restarts=0)
    flow_process(project).kill()
    project.until(lambda: project.state(run)["type"] == "FAILED")
    assert "max_restarts" in project.state(run)["message"]
    assert not project.trainers()
