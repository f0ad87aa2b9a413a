"""Outages of a real MLflow server, killed during a run and restarted: no metric is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.tracking_server import TrackingServer, copy_database, tracking_server
from fixtures.training import EXECUTION, STAGE, toy_run

from components.core.errors import TrackingError
from components.registry.client import run_writer
from components.registry.tracking import TrackedRun, Tracking
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics

pytestmark = [pytest.mark.process_heavy, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[TrackingServer]:
    folder = tmp_path_factory.mktemp("server")
    copy_database(empty_database, folder / "mlflow.db")
    with tracking_server(folder) as server:
        yield server


@pytest.fixture
def server(shared_server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> TrackingServer:
    """A running server; MLflow's own retries are off, as in a flow."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(run_writer, "FLUSH_INTERVAL_S", 0.0)  # Each row is written immediately.
    if not shared_server.is_up:
        shared_server.start()
    return shared_server


class _FirstRecordHandler(logging.Handler):
    """Calls a function at the first log record."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._function = function
        self._is_first = True

    def emit(self, _: logging.LogRecord) -> None:
        if self._is_first:
            self._is_first = False
            self._function()


@contextmanager
def _at_first_log_record(function: Callable[[], None]) -> Iterator[None]:
    """Call a function when the registry logs something, which it does at the start of an outage."""
    handler = _FirstRecordHandler(function)
    logger = logging.getLogger("components.registry")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _registry_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of the registry."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("components.registry") and record.levelno >= logging.WARNING
    ]


def _metric_history(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    points = run.tracking.client.get_metric_history(run.id, name)
    timestamps = [point.timestamp for point in points]
    assert timestamps == sorted(timestamps)
    return [(point.step, point.value) for point in points]


def test_training_continues_without_the_server_and_every_step_is_logged(
    server: TrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is killed after step 3 and restarted after the last step."""
    steps: list[StepMetrics] = []
    run_of_stage = toy_run(tmp_path / "inputs", STAGE)
    (tmp_path / "stage").mkdir()
    tracking = Tracking(server.uri, tmp_path)
    with (
        tracking.run("pipeline", experiment="tiny", system_metrics=True) as run,
        run.metric_stream() as record,
    ):

        def on_step(step: StepMetrics) -> None:
            steps.append(step)
            record(step.model_dump(exclude_none=True))
            if step.step == 3:
                server.kill()

        result = train_stage(tmp_path / "stage", run_of_stage, EXECUTION, on_step)
        server.start()
    assert result["steps"] == len(steps) == STAGE.steps > 4
    assert _metric_history(run, "training/loss") == [(step.step, step.loss) for step in steps]
    assert _metric_history(run, "training_by_tokens/loss") == [
        (step.tokens, step.loss) for step in steps
    ]
    stored_run = tracking.client.get_run(run.id)
    assert stored_run.info.status == "FINISHED"
    assert "system/cpu_utilization_percentage" in stored_run.data.metrics
    assert [message for message in _registry_messages(caplog) if "buffered" in message]


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.child("next").__enter__(),
        lambda run: run.log_metrics({"loss": 1.0}),
        lambda run: run.set_tags({"stage": "mono"}),
        lambda run: run.log_json("config.json", {"seed": 1}),
    ],
    ids=["child run", "metrics", "tags", "file"],
)
def test_a_call_waits_for_the_server_and_logs_start_and_end(
    server: TrackingServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    call: Callable[[TrackedRun], object],
) -> None:
    with Tracking(server.uri, tmp_path).run("pipeline", experiment="tiny") as run:
        server.kill()
        with _at_first_log_record(server.start):
            call(run)
    messages = _registry_messages(caplog)
    assert "does not answer; retrying for at most 600 s" in messages[0]
    assert "answers again after" in messages[-1]


def test_a_run_whose_creation_response_was_lost_is_created_once(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server creates the run and dies before it responds: the call fails after success."""
    tracking = Tracking(server.uri, tmp_path)
    create_run = tracking.client.raw_client.create_run

    def create_run_and_kill(*arguments: object) -> object:
        run = create_run(*arguments)
        monkeypatch.setattr(tracking.client.raw_client, "create_run", create_run)
        server.kill()
        create_run(*arguments)  # Fails as MLflow's client does.
        return run

    monkeypatch.setattr(tracking.client.raw_client, "create_run", create_run_and_kill)
    with _at_first_log_record(server.start), tracking.run("once", experiment="once") as run:
        pass
    runs = tracking.client.search_runs([run.experiment_id])
    assert [stored.info.run_id for stored in runs] == [run.id]


def test_a_long_outage_gives_one_error_and_one_wait(
    server: TrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The metrics, the child run and its parent need the server; only the first call waits."""
    tracking = Tracking(server.uri, tmp_path, retry_timeout_s=1.0)
    with (
        pytest.raises(TrackingError, match="did not answer for 1 s") as caught,
        tracking.run("pipeline", experiment="tiny") as run,
        run.child("train", system_metrics=True) as step,
    ):
        server.kill()
        step.log_metrics({"loss": 1.0})
    assert "run the same command again" in caught.value.fix
    assert len([text for text in _registry_messages(caplog) if "retrying for" in text]) == 1
    server.start()
    status = tracking.client.get_run(step.id).info.status
    assert status == "RUNNING", "the next start marks it as killed, like those of dead processes"


def test_a_flow_fails_without_its_server_and_a_subflow_waits(
    server: TrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with pytest.raises(TrackingError, match="does not answer"):
        Tracking(server.uri, tmp_path).check()
    with _at_first_log_record(server.start):
        Tracking(server.uri, tmp_path).check(wait=True)
    assert "retrying for" in _registry_messages(caplog)[0]


def test_a_rejected_call_is_not_repeated(
    server: TrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Tracking(server.uri, tmp_path).run("pipeline", experiment="tiny") as run:
        run.log_params({"seed": 1})
        with pytest.raises(TrackingError, match="MLflow failed"):
            run.log_params({"seed": 2})
    assert _registry_messages(caplog) == []
