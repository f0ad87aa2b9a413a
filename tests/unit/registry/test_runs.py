"""The tree of runs, and everything a step says about itself, read back from the database."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Metric

from components.core.artifact import Artifact
from components.core.errors import TrackingError
from components.core.store import Store
from components.registry.client import run_writer
from components.registry.tracking import TrackedRun, Tracking

MD5 = "0123456789abcdef0123456789abcdef"


def _history(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    points = run.tracking.client.get_metric_history(run.id, name)
    return sorted((point.step, point.value) for point in points)


def _file(run: TrackedRun, name: str) -> Path:
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
def test_an_exception_ends_the_runs_and_goes_on(
    tracking: Tracking, error: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(error)),
        tracking.run("whole", experiment="tiny") as pipeline,
        pipeline.child("part") as step,
    ):
        raise error
    for run in (pipeline, step):
        assert tracking.client.get_run(run.id).info.status == status
    assert tracking.client.get_run(step.id).data.tags["error"].startswith(type(error).__name__)


def test_a_configuration_is_flattened_whole_and_cut_visibly(tracking: Tracking) -> None:
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
    assert json.loads(_file(run, "config.json").read_text()) == config


def test_figures_keep_their_names_as_far_as_mlflow_can(tracking: Tracking) -> None:
    with tracking.run("run", experiment="tiny") as run:
        run.log_metrics({"multi": {"C++": 1.5, "C": 2, "note": "text", "flag": True}}, step=7)
        with pytest.raises(ValueError, match="same to MLflow"):
            run.log_metrics({"C++": 1.0, "Cpp": 2.0})
    assert tracking.client.get_run(run.id).data.metrics == {"multi/Cpp": 1.5, "multi/C": 2.0}
    assert _history(run, "multi/Cpp") == [(7, 1.5)]


def test_a_stream_is_kept_over_steps_and_over_tokens(tracking: Tracking) -> None:
    with tracking.run("run", experiment="tiny") as run, run.metric_stream() as record:
        for step in range(1, 1501):
            record({"step": step, "tokens": step * 256, "loss": 10.0 / step})
    assert _history(run, "training/loss") == [(step, 10.0 / step) for step in range(1, 1501)]
    assert _history(run, "training_by_tokens/loss") == [
        (step * 256, 10.0 / step) for step in range(1, 1501)
    ]


def test_a_stream_that_breaks_off_keeps_what_it_had(tracking: Tracking) -> None:
    with (
        pytest.raises(RuntimeError),
        tracking.run("run", experiment="tiny") as run,
        run.metric_stream() as record,
    ):
        record({"step": 1, "tokens": 8, "loss": 2.0})
        raise RuntimeError("out of memory")
    assert _history(run, "training/loss") == [(1, 2.0)]


def _raw_corpus(folder: Path) -> Artifact:
    provenance = {"dvc_md5": MD5}
    address, digest = str(folder), "ab" * 32
    return Artifact(
        kind="raw-corpus",
        name="mono",
        address=address,
        recipe="cd" * 32,
        digest=digest,
        provenance=provenance,
    )


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
        run.log_inputs([_raw_corpus(tmp_path), prepared.artifact], "training")
    inputs = {
        one.dataset.name: one for one in tracking.client.get_run(run.id).inputs.dataset_inputs
    }
    raw, packed = inputs["raw-corpus/mono"], inputs["prepared-corpus/mono"]
    assert {tag.key: tag.value for tag in raw.tags} == {
        "mlflow.data.context": "training",
        "dvc_md5": MD5,
    }
    assert json.loads(packed.dataset.profile)["statistics"] == {"train_tokens": 3}
    assert json.loads(packed.dataset.profile)["digest"] == prepared.artifact.digest
    assert prepared.artifact.digest.startswith(packed.dataset.digest)
    assert mlflow.data.get_source(packed.dataset).uri == prepared.artifact.address


def test_a_reused_artifact_names_the_run_that_made_it(
    tracking: Tracking, make_evaluation: Callable[[float], Artifact]
) -> None:
    artifact = make_evaluation(2.5)
    with tracking.run("first", experiment="tiny") as first:
        first.log_output_artifact(artifact, reused=False)
    with tracking.run("second", experiment="tiny") as second:
        second.log_output_artifact(artifact, reused=True)
    tags = tracking.client.get_run(second.id).data.tags
    assert (tags["reused"], tags["original_run"], tags["digest"]) == (
        "true",
        first.id,
        artifact.digest,
    )
    assert tracking.client.get_run(first.id).data.tags["reused"] == "false"
    assert tracking.client.get_run(second.id).data.metrics == {"mono/Python": 2.5, "multi/Cpp": 3.5}
    assert Artifact.parse(json.loads(_file(second, "artifact.json").read_text())) == artifact


def test_files_tables_and_plots_are_kept(tracking: Tracking, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "report.html").write_text("<html>")
    figure = Figure()
    figure.subplots().plot([1, 2], [2, 1])
    with tracking.run("run", experiment="tiny") as run:
        run.log_file(tmp_path / "report.html", "page")
        run.log_table(
            "languages.json",
            [{"language": "C++", "documents": 3}, {"language": "Go", "documents": 4}],
        )
        run.figure("loss.png", figure)
    assert _file(run, "page/report.html").read_text() == "<html>"
    table = json.loads(_file(run, "languages.json").read_text())
    assert table == {"columns": ["language", "documents"], "data": [["C++", 3], ["Go", 4]]}
    assert _file(run, "loss.png").read_bytes().startswith(b"\x89PNG")


def test_system_metrics_are_sampled_while_a_run_lasts(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1"
    )  # MLflow's own setting, above ours.
    with tracking.run("run", experiment="tiny", system_metrics=True) as run:
        while (
            "system/cpu_utilization_percentage" not in tracking.client.get_run(run.id).data.metrics
        ):
            pass  # The test's time limit ends this.
    metrics = tracking.client.get_run(run.id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_many_threads_write_at_once(tracking: Tracking) -> None:
    with tracking.run("pipeline", experiment="tiny") as pipeline:

        def step(number: int) -> str:
            with pipeline.child(f"step {number}") as run:
                for batch in range(10):
                    run.log_metrics({"figure": float(batch)}, step=batch)
            return run.id

        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(step, range(8)))
    for run_id in ids:
        assert tracking.client.get_run(run_id).info.status == "FINISHED"
        assert len(tracking.client.get_metric_history(run_id, "figure")) == 10


_KILLED = """
import os, signal, sys
from pathlib import Path
from components.registry.tracking import Tracking
tracking = Tracking(sys.argv[1], Path(sys.argv[2]))
with tracking.run("pipeline", experiment="tiny") as pipeline, pipeline.child("train"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_runs_of_a_killed_process_are_closed_at_the_next_start(tracking: Tracking) -> None:
    command = [sys.executable, "-c", _KILLED, tracking.uri, str(tracking.artifacts)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    experiment = tracking.client.get_experiment_by_name("tiny").experiment_id
    assert {run.info.status for run in tracking.client.search_runs([experiment])} == {"RUNNING"}
    with tracking.run("again", experiment="tiny"):
        found = {
            run.info.run_name: run.info.status for run in tracking.client.search_runs([experiment])
        }
    assert found == {"pipeline": "KILLED", "train": "KILLED", "again": "RUNNING"}


def test_runs_of_living_processes_and_other_hosts_are_left_alone(tracking: Tracking) -> None:
    with tracking.run("mine", experiment="tiny"):
        assert tracking.mark_stale_runs_killed() == []
        with tracking.run(
            "theirs", experiment="tiny", tags={"host": f"not-{platform.node()}", "pid": "0"}
        ):
            assert tracking.mark_stale_runs_killed() == []
        reused_pid = {"pid": str(os.getpid()), "process_started": "1.0"}
        with tracking.run("before", experiment="tiny", tags=reused_pid) as before:
            assert tracking.mark_stale_runs_killed() == [before.id]


def test_figures_that_the_server_refuses_on_the_way_are_said(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_writer, "FLUSH_INTERVAL_S", 0.0)
    with tracking.run("train", experiment="tiny") as run:
        pass
    tracking.client.delete_run(run.id)
    with pytest.raises(TrackingError, match="MLflow refused while logging metrics of train"):
        run_writer.MetricBuffer(tracking.client, run.id, "train").add([Metric("loss", 1.0, 0, 1)])
