"""A real MLflow server that is killed under a run and started again: what was measured arrives, once and in order."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fixtures.tracking_server import TrackingServer, tracking_server
from fixtures.training import PLACE, STAGE, toy_run

from components.core.errors import TrackingError
from components.registry.client import run_writer
from components.registry.tracking import TrackedRun, Tracking
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics

pytestmark = [pytest.mark.apart, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[TrackingServer]:
    folder = tmp_path_factory.mktemp("server")
    with (
        closing(sqlite3.connect(empty_database)) as source,
        closing(sqlite3.connect(folder / "mlflow.db")) as copy,
    ):
        source.backup(copy)
    with tracking_server(folder) as server:
        yield server


@pytest.fixture
def server(shared_server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> TrackingServer:
    """A server that is up, whatever the test before did; MLflow's own retries are off, as in a flow."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(run_writer, "FLUSH_INTERVAL_S", 0.0)  # Each row is tried at once.
    if not shared_server.is_up:
        shared_server.start()
    return shared_server


class _Listener(logging.Handler):
    """Hears what is said of outages, and does something at the first word of one."""

    def __init__(self, fix: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.said: list[str] = []
        self._do = fix

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        if len(self.said) == 1:
            self._do()


@contextmanager
def _listening(fix: Callable[[], None] = lambda: None) -> Iterator[_Listener]:
    listener, logger = _Listener(fix), logging.getLogger("components.registry")
    logger.addHandler(listener)
    try:
        yield listener
    finally:
        logger.removeHandler(listener)


def _history(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    points = run.tracking.client.get_metric_history(run.id, name)
    assert [one.timestamp for one in points] == sorted(one.timestamp for one in points)
    return [(one.step, one.value) for one in points]


def test_training_goes_on_without_the_server_and_every_step_arrives(
    server: TrackingServer, tmp_path: Path
) -> None:
    """Killed after step 3; the ranks go on to the last step, and only then is it started again."""
    steps: list[StepMetrics] = []
    run_of_stage = toy_run(tmp_path / "inputs", STAGE)
    (tmp_path / "stage").mkdir()
    tracking = Tracking(server.uri, tmp_path)
    with (
        _listening() as heard,
        tracking.run("pipeline", experiment="tiny", system_metrics=True) as run,
        run.metric_stream() as record,
    ):

        def on_step(step: StepMetrics) -> None:
            steps.append(step)
            record(step.model_dump(exclude_none=True))
            if step.step == 3:
                server.kill()

        result = train_stage(tmp_path / "stage", run_of_stage, PLACE, on_step)
        server.start()
    assert result["steps"] == len(steps) == STAGE.steps > 4
    assert _history(run, "training/loss") == [(one.step, one.loss) for one in steps]
    assert _history(run, "training_by_tokens/loss") == [(one.tokens, one.loss) for one in steps]
    assert tracking.client.get_run(run.id).info.status == "FINISHED"
    assert "system/cpu_utilization_percentage" in tracking.client.get_run(run.id).data.metrics
    assert [one for one in heard.said if "its metrics wait" in one]


@pytest.mark.parametrize(
    "step",
    [
        lambda run: run.child("next").__enter__(),
        lambda run: run.metrics({"loss": 1.0}),
        lambda run: run.tags({"stage": "mono"}),
        lambda run: run.json("config.json", {"seed": 1}),
    ],
    ids=["a step begins", "figures", "tags", "a file"],
)
def test_what_needs_the_server_waits_for_it_and_says_so(
    server: TrackingServer, tmp_path: Path, step: Callable[[TrackedRun], object]
) -> None:
    with Tracking(server.uri, tmp_path).run("pipeline", experiment="tiny") as run:
        server.kill()
        with _listening(server.start) as heard:
            step(run)
    assert "does not answer; waiting for it, at most 600 s" in heard.said[0]
    assert "answers again, after" in heard.said[-1]


def test_a_run_whose_maker_never_heard_of_it_is_not_made_twice(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server makes the run and dies before it can say so: seen here as a call that fails after it was done."""
    tracking = Tracking(server.uri, tmp_path)
    create = tracking.client.raw_client.create_run

    def create_and_die(*arguments: object) -> object:
        made = create(*arguments)
        monkeypatch.setattr(tracking.client.raw_client, "create_run", create)
        server.kill()
        create(*arguments)  # Fails as MLflow's client does.
        return made

    monkeypatch.setattr(tracking.client.raw_client, "create_run", create_and_die)
    with _listening(server.start), tracking.run("once", experiment="once") as run:
        pass
    found = tracking.client.search_runs([run.experiment_id])
    assert [one.info.run_id for one in found] == [run.id]


def test_a_server_that_stays_away_is_one_error_and_is_waited_for_once(
    server: TrackingServer, tmp_path: Path
) -> None:
    """The step, its run and the run above all need the server; only the first of them waits."""
    tracking = Tracking(server.uri, tmp_path, patience_s=1.0)
    with (
        _listening() as heard,
        pytest.raises(TrackingError, match="did not answer again within 1 s") as caught,
        tracking.run("pipeline", experiment="tiny") as run,
        run.child("train", system_metrics=True) as step,
    ):
        server.kill()
        step.log_metrics({"loss": 1.0})
    assert "run the same command again" in caught.value.fix
    assert len([one for one in heard.said if "waiting for it" in one]) == 1
    server.start()
    step_of_now = tracking.client.get_run(step.id)
    assert step_of_now.info.status == "RUNNING", (
        "until the next start closes it, as those of killed processes"
    )


def test_a_flow_does_not_begin_without_its_server_and_a_part_of_one_waits(
    server: TrackingServer, tmp_path: Path
) -> None:
    server.kill()
    with pytest.raises(TrackingError, match="does not answer"):
        Tracking(server.uri, tmp_path).check()
    with _listening(server.start) as heard:
        Tracking(server.uri, tmp_path).check(under_way=True)
    assert "waiting for it" in heard.said[0]


def test_what_the_server_refuses_is_not_waited_for(server: TrackingServer, tmp_path: Path) -> None:
    with (
        _listening() as heard,
        Tracking(server.uri, tmp_path).run("pipeline", experiment="tiny") as run,
    ):
        run.log_params({"seed": 1})
        with pytest.raises(TrackingError, match="MLflow refused"):
            run.log_params({"seed": 2})
    assert heard.said == []
