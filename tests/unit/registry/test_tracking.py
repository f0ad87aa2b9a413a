"""Runs and everything a step logs, read back from the database; and the lock of a model."""

import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from fixtures.versions import DVC_MD5, NAME, make_raw_corpus
from mlflow.entities import Metric

from components.core.artifact import Artifact
from components.core.errors import TrackingError
from components.core.store import Store
from components.registry.client import run_writer
from components.registry.tracking import TrackedRun, Tracking


def _metric_history(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    points = run.tracking.client.get_metric_history(run.id, name)
    return sorted((point.step, point.value) for point in points)


def _download(run: TrackedRun, name: str) -> Path:
    uri = f"runs:/{run.id}/{name}"
    return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=run.tracking.uri))


def test_steps_are_children_of_the_pipeline(tracking: Tracking) -> None:
    with (
        tracking.run("tiny, first", experiment="tiny") as pipeline,
        pipeline.child("train mono", tags={"stage": "mono"}) as step,
        tracking.child(step.id, "export") as export,
    ):
        pass
    runs = {run.info.run_name: run for run in tracking.client.search_runs([pipeline.experiment_id])}
    assert set(runs) == {"tiny, first", "train mono", "export"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["train mono"].data.tags["mlflow.parentRunId"] == pipeline.id
    assert runs["export"].data.tags["mlflow.parentRunId"] == step.id
    assert runs["train mono"].data.tags["stage"] == "mono"
    assert runs["train mono"].data.tags["git_dirty"] in ("true", "false", "unknown")
    assert tracking.client.get_experiment_by_name("tiny").experiment_id == export.experiment_id
    assert mlflow.active_run() is None


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no data"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_exception_ends_the_runs_and_propagates(
    tracking: Tracking, error: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(error)),
        tracking.run("pipeline", experiment="tiny") as pipeline,
        pipeline.child("step") as step,
    ):
        raise error
    for run in (pipeline, step):
        assert tracking.client.get_run(run.id).info.status == status
    assert tracking.client.get_run(step.id).data.tags["error"].startswith(type(error).__name__)


def test_a_config_is_logged_flat_and_as_json_and_long_values_are_marked_as_cut(
    tracking: Tracking,
) -> None:
    config = {
        "stages": {f"s{i}": {"steps": i} for i in range(150)},
        "names": ["a", "b"],
        "text": "x" * 7000,
        "none": None,
    }
    with tracking.run("run", experiment="tiny") as run:
        run.log_params(config)
    params = tracking.client.get_run(run.id).data.params
    assert len(params) == 153
    assert params["stages.s149.steps"] == "149"
    assert params["names"] == '["a", "b"]'
    assert params["none"] == "null"
    assert len(params["text"]) <= 6000
    assert params["text"].endswith("[cut: 7000 characters]")
    assert json.loads(_download(run, "config.json").read_text()) == config


def test_metric_names_are_converted_for_mlflow_and_stay_distinct(tracking: Tracking) -> None:
    with tracking.run("run", experiment="tiny") as run:
        run.log_metrics({"multi": {"C++": 1.5, "C": 2, "note": "text", "flag": True}}, step=7)
        with pytest.raises(ValueError, match="equal in MLflow"):
            run.log_metrics({"C++": 1.0, "Cpp": 2.0})
    assert tracking.client.get_run(run.id).data.metrics == {"multi/Cpp": 1.5, "multi/C": 2.0}
    assert _metric_history(run, "multi/Cpp") == [(7, 1.5)]


def test_a_metric_stream_is_logged_over_steps_and_over_tokens(tracking: Tracking) -> None:
    with tracking.run("run", experiment="tiny") as run, run.metric_stream() as record:
        for step in range(1, 1501):
            record({"step": step, "tokens": step * 256, "loss": 10.0 / step})
    steps = range(1, 1501)
    assert _metric_history(run, "training/loss") == [(step, 10.0 / step) for step in steps]
    assert _metric_history(run, "training_by_tokens/loss") == [
        (step * 256, 10.0 / step) for step in steps
    ]


def test_an_interrupted_metric_stream_keeps_its_rows(tracking: Tracking) -> None:
    with (
        pytest.raises(RuntimeError),
        tracking.run("run", experiment="tiny") as run,
        run.metric_stream() as record,
    ):
        record({"step": 1, "tokens": 8, "loss": 2.0})
        raise RuntimeError("out of memory")
    assert _metric_history(run, "training/loss") == [(1, 2.0)]


def test_corpora_are_datasets_with_md5_digest_and_counts(
    tracking: Tracking, tmp_path: Path
) -> None:
    def build(folder: Path) -> dict[str, int]:
        (folder / "train.bin").write_bytes(b"ids")
        return {"train_tokens": 3}

    prepared = Store(tmp_path / "store").get_or_build(
        "prepared-corpus", "mono", config={}, parents={}, code_version=1, build=build
    )
    with tracking.run("run", experiment="tiny") as run:
        run.log_inputs([make_raw_corpus(tmp_path), prepared.artifact], "training")
    dataset_inputs = tracking.client.get_run(run.id).inputs.dataset_inputs
    by_name = {dataset_input.dataset.name: dataset_input for dataset_input in dataset_inputs}
    raw, packed = by_name["raw-corpus/mono"], by_name["prepared-corpus/mono"]
    assert {tag.key: tag.value for tag in raw.tags} == {
        "mlflow.data.context": "training",
        "dvc_md5": DVC_MD5,
    }
    assert json.loads(packed.dataset.profile)["statistics"] == {"train_tokens": 3}
    assert json.loads(packed.dataset.profile)["digest"] == prepared.artifact.digest
    assert prepared.artifact.digest.startswith(packed.dataset.digest)
    assert mlflow.data.get_source(packed.dataset).uri == prepared.artifact.address


def test_a_reused_artifact_names_the_run_that_built_it(
    tracking: Tracking, make_evaluation: Callable[[float], Artifact]
) -> None:
    artifact = make_evaluation(2.5)
    with tracking.run("first", experiment="tiny") as first:
        first.log_output_artifact(artifact, reused=False)
    with tracking.run("second", experiment="tiny") as second:
        second.log_output_artifact(artifact, reused=True)
    record = tracking.client.get_run(second.id).data
    assert record.tags["reused"] == "true"
    assert record.tags["original_run"] == first.id
    assert record.tags["digest"] == artifact.digest
    assert tracking.client.get_run(first.id).data.tags["reused"] == "false"
    assert record.metrics == {"mono/Python": 2.5, "multi/Cpp": 3.5}
    assert Artifact.parse(json.loads(_download(second, "artifact.json").read_text())) == artifact


def test_files_and_tables_are_uploaded(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    rows = [{"language": "C++", "documents": 3}, {"language": "Go", "documents": 4}]
    with tracking.run("run", experiment="tiny") as run:
        run.log_file(tmp_path / "report.html", "page")
        run.log_table("languages.json", rows)
    assert _download(run, "page/report.html").read_text() == "<html>"
    table = json.loads(_download(run, "languages.json").read_text())
    assert table == {"columns": ["language", "documents"], "data": [["C++", 3], ["Go", 4]]}


def test_system_metrics_are_sampled_during_a_run(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow's setting overrides our interval.
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with tracking.run("run", experiment="tiny", system_metrics=True) as run:
        metrics: dict[str, float] = {}
        while "system/cpu_utilization_percentage" not in metrics:  # until the test's timeout
            metrics = tracking.client.get_run(run.id).data.metrics
    metrics = tracking.client.get_run(run.id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_many_threads_write_concurrently(tracking: Tracking) -> None:
    with tracking.run("pipeline", experiment="tiny") as pipeline:

        def write_step(number: int) -> str:
            with pipeline.child(f"step {number}") as run:
                for batch in range(10):
                    run.log_metrics({"metric": float(batch)}, step=batch)
            return run.id

        with ThreadPoolExecutor(4) as pool:
            run_ids = list(pool.map(write_step, range(8)))
    for run_id in run_ids:
        assert tracking.client.get_run(run_id).info.status == "FINISHED"
        assert len(tracking.client.get_metric_history(run_id, "metric")) == 10


_KILLED_PIPELINE = """
import os, signal, sys
from pathlib import Path
from components.registry.tracking import Tracking
tracking = Tracking(sys.argv[1], Path(sys.argv[2]))
with tracking.run("pipeline", experiment="tiny") as pipeline, pipeline.child("train"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_start_marks_runs_of_a_killed_process(tracking: Tracking) -> None:
    command = [sys.executable, "-c", _KILLED_PIPELINE, tracking.uri, str(tracking.artifacts)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    experiment_id = tracking.client.get_experiment_by_name("tiny").experiment_id

    def statuses() -> dict[str, str]:
        runs = tracking.client.search_runs([experiment_id])
        return {run.info.run_name: run.info.status for run in runs}

    assert statuses() == {"pipeline": "RUNNING", "train": "RUNNING"}
    with tracking.run("again", experiment="tiny"):
        assert statuses() == {"pipeline": "KILLED", "train": "KILLED", "again": "RUNNING"}


def test_only_runs_of_dead_processes_of_this_host_are_stale(tracking: Tracking) -> None:
    with tracking.run("alive", experiment="tiny"):
        assert tracking.mark_stale_runs_killed() == []
        remote = {"host": f"not-{platform.node()}", "pid": "0"}
        with tracking.run("remote", experiment="tiny", tags=remote):
            assert tracking.mark_stale_runs_killed() == []
        reused_pid = {"pid": str(os.getpid()), "process_started": "1.0"}
        with tracking.run("dead", experiment="tiny", tags=reused_pid) as dead:
            assert tracking.mark_stale_runs_killed() == [dead.id]


def test_metrics_that_the_server_rejects_are_an_error(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_writer, "FLUSH_INTERVAL_S", 0.0)
    with tracking.run("train", experiment="tiny") as run:
        pass
    tracking.client.delete_run(run.id)
    buffer = run_writer.MetricBuffer(tracking.client, run.id, "train")
    with pytest.raises(TrackingError, match="logging metrics of train"):
        buffer.add([Metric("loss", 1.0, 0, 1)])


class LogWaiter(logging.Handler):
    """Waits for a log record."""

    def __init__(self) -> None:
        super().__init__()
        self.has_record = threading.Event()

    def emit(self, _: logging.LogRecord) -> None:
        self.has_record.set()


@pytest.fixture
def lock_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder for the locks of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def lock_log() -> Iterator[LogWaiter]:
    """Waits for the log record of a process that waits for a lock."""
    waiter = LogWaiter()
    logger = logging.getLogger("components.core.locks")
    logger.addHandler(waiter)
    yield waiter
    logger.removeHandler(waiter)


def test_the_model_lock_is_shared_by_workspaces_of_one_server(
    lock_folder: Path, lock_log: LogWaiter
) -> None:
    first = Tracking("http://ada:secret@tracking:5000", lock_folder / "first")
    second = Tracking("http://grace:other@tracking:5000/", lock_folder / "second")
    has_entered = threading.Event()

    def change_model() -> None:
        with second.model_lock(NAME):
            has_entered.set()

    thread = threading.Thread(target=change_model, daemon=True)
    with first.model_lock(NAME):
        thread.start()
        assert lock_log.has_record.wait(30)
        assert not has_entered.is_set()
    thread.join(30)
    assert has_entered.is_set()


def test_the_model_lock_ignores_other_models_and_servers(lock_folder: Path) -> None:
    tracking = Tracking("http://tracking:5000", lock_folder)
    other_server = Tracking("http://tracking:5001", lock_folder)
    with (
        tracking.model_lock(NAME),
        tracking.model_lock("codegen-tiny-nl"),
        other_server.model_lock(NAME),
    ):
        pass


@pytest.mark.parametrize(
    ("shortest_s", "duration_s", "expected_s"),
    [
        (2.0, 0.0, 2.0),
        (2.0, 2_000.0, 2.0),
        (2.0, 5_000.0, 5.0),
        (2.0, 60_000.0, 60.0),
        (2.0, 10_000_000.0, 60.0),
        (300.0, 10_000_000.0, 300.0),  # set by the user
    ],
)
def test_the_interval_of_system_metrics_grows_with_a_run(
    shortest_s: float, duration_s: float, expected_s: float
) -> None:
    assert run_writer.sample_interval_s(shortest_s, duration_s) == expected_s
