"""Logged models: one per checkpoint, registered or not, with metrics, their corpora, and tags."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.versions import DVC_MD5, NAME, make_raw_corpus, register_checkpoint
from mlflow.entities import LoggedModel

from components.core.artifact import Artifact
from components.core.store import Store
from components.registry.lineage import size_name
from components.registry.tracking import TrackedRun, Tracking


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "train.bin").write_bytes(b"ids")
        return {"train_tokens": 3}

    prepared = Store(tmp_path / "store").get_or_build(
        "prepared-corpus",
        "mono",
        config={},
        parents={"raw": make_raw_corpus(tmp_path)},
        code_version=1,
        build=build,
    )
    return prepared.artifact


@pytest.fixture
def train(
    tmp_path: Path, corpus: Artifact, huggingface_folder: Path
) -> Callable[[TrackedRun, float], Artifact]:
    """Log a stage as a flow does, without the training."""

    def log_stage(run: TrackedRun, learning_rate: float) -> Artifact:
        def build(folder: Path) -> dict[str, float]:
            shutil.copytree(huggingface_folder, folder, dirs_exist_ok=True)
            (folder / "training.json").write_text(str(learning_rate))
            return {"num_parameters": 214_912, "steps": 12, "tokens": 3072, "final_loss": 5.5}

        config = {"stage": {"learning_rate": learning_rate}}
        parents = {"corpus": corpus}
        run.log_params(config)
        run.log_inputs([make_raw_corpus(tmp_path)], "raw")  # As the flow `prepare` does.
        run.log_inputs(parents.values(), "checkpoint")
        result = Store(tmp_path / "store").get_or_build(
            "checkpoint",
            "codegen-tiny-mono",
            config=config,
            parents=parents,
            code_version=1,
            build=build,
        )
        run.log_output_artifact(result.artifact, reused=result.reused)
        return result.artifact

    return log_stage


def _evaluate(run: TrackedRun, checkpoint: Artifact, corpus: Artifact, store: Path) -> None:
    def build(folder: Path) -> dict[str, object]:
        (folder / "results.json").write_text("{}")
        return {"protocol": "abc", "mono": {"Python": 2.5}, "humaneval": {"canonical": 3.0}}

    parents = {"checkpoint": checkpoint, "mono": corpus}
    run.log_inputs(parents.values(), "evaluation")
    result = Store(store).get_or_build(
        "evaluation",
        "codegen-tiny-mono-bits-per-byte",
        config={},
        parents=parents,
        code_version=1,
        build=build,
    )
    run.log_output_artifact(result.artifact, reused=result.reused, benchmark="bits_per_byte")


def _output_model_ids(run: TrackedRun) -> list[str]:
    outputs = run.tracking.client.get_run(run.id).outputs.model_outputs
    return [output.model_id for output in outputs]


def _models(run: TrackedRun) -> list[LoggedModel]:
    return list(run.tracking.client.search_logged_models([run.experiment_id]))


def test_an_unregistered_checkpoint_is_a_logged_model(
    tracking: Tracking, corpus: Artifact, train
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
    (model,) = _models(run)
    assert model.name == checkpoint.label.removeprefix("checkpoint/")
    assert str(model.status) == "READY"
    assert model.source_run_id == run.id
    assert model.params == {"stage.learning_rate": "0.001"}
    tags = {"stage": "mono", "size": "215K", "corpus": f"mono-{corpus.recipe_hash[:12]}"}
    assert tags.items() <= model.tags.items()
    assert model.tags["checkpoint_digest"] == checkpoint.digest
    assert {"git_commit", "git_dirty", "address", "recipe"} <= model.tags.keys()
    metrics = {
        (metric.key, metric.value, metric.step, metric.dataset_name, metric.dataset_digest)
        for metric in model.metrics
    }
    dataset = ("prepared-corpus/mono", corpus.digest[:36])
    assert metrics == {
        ("final_loss", 5.5, 12, *dataset),
        ("num_parameters", 214_912.0, 12, *dataset),
        ("steps", 12.0, 12, *dataset),
        ("tokens", 3072.0, 12, *dataset),
    }
    assert _output_model_ids(run) == [model.model_id]
    assert tags.items() <= tracking.client.get_run(run.id).data.tags.items()


def test_a_reused_checkpoint_has_one_model_and_another_checkpoint_its_own(
    tracking: Tracking, train
) -> None:
    with tracking.run("first", experiment="tiny") as first:
        train(first, 1e-3)
    with tracking.run("second", experiment="tiny") as second:
        train(second, 1e-3)
        (model,) = _models(second)
        assert _output_model_ids(second) == [model.model_id]
        assert len(model.metrics) == 4, "only the metrics of the first run"
    with tracking.run("third", experiment="tiny") as third:
        train(third, 2e-3)
    assert len({model.name for model in _models(third)}) == 2


def test_evaluation_metrics_belong_to_the_model_with_their_corpus(
    tracking: Tracking, corpus: Artifact, train, tmp_path: Path
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
    for _ in range(2):  # The second time it is reused.
        with tracking.run("bits per byte of mono", experiment="tiny") as run:
            _evaluate(run, checkpoint, corpus, tmp_path / "store")
    (model,) = _models(run)
    metrics = [
        (metric.key, metric.value, metric.dataset_name)
        for metric in model.metrics
        if metric.key.startswith("bits_per_byte")
    ]
    assert sorted(metrics, key=str) == [
        ("bits_per_byte/humaneval/canonical", 3.0, None),
        ("bits_per_byte/mono/Python", 2.5, "prepared-corpus/mono"),
    ]
    record = tracking.client.get_run(run.id)
    assert [entry.model_id for entry in record.inputs.model_inputs] == [model.model_id]
    assert {"stage": "mono", "size": "215K"}.items() <= record.data.tags.items()
    assert record.data.metrics["bits_per_byte/mono/Python"] == 2.5


def test_an_evaluation_in_another_experiment_uses_the_same_model(
    tracking: Tracking, corpus: Artifact, train, tmp_path: Path
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
    with tracking.run("HumanEval", experiment="starter") as other:
        _evaluate(other, checkpoint, corpus, tmp_path / "store")
    assert _models(other) == []
    (model,) = _models(run)
    assert "bits_per_byte/mono/Python" in {metric.key for metric in model.metrics}


def test_a_training_run_has_the_dvc_md5_of_its_corpus(tracking: Tracking, train) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        train(run, 1e-3)
    dataset_inputs = tracking.client.get_run(run.id).inputs.dataset_inputs
    by_name = {dataset_input.dataset.name: dataset_input for dataset_input in dataset_inputs}
    tags = {tag.key: tag.value for tag in by_name["prepared-corpus/mono"].tags}
    assert tags == {"mlflow.data.context": "checkpoint", "dvc_md5": DVC_MD5}


def test_registration_uses_the_existing_logged_model(
    tracking: Tracking, train, tmp_path: Path
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
        (logged,) = _models(run)
        register_checkpoint(run, checkpoint, Path(checkpoint.address))
    (registered,) = _models(run)
    assert registered.model_id == logged.model_id
    version = tracking.client.get_model_version(NAME, "1")
    assert version.tags["model_id"] == logged.model_id
    assert json.loads(registered.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": "1"}]
    for key in ("stage", "size", "corpus", "git_commit", "git_dirty"):
        assert version.tags[key] == registered.tags[key]


def test_mlflow_shows_runs_and_models_of_new_and_existing_experiments(
    tracking: Tracking,
) -> None:
    tracking.client.create_experiment("old")
    for name in ("old", "new"):
        with tracking.run("run", experiment=name):
            pass
        tags = tracking.client.get_experiment_by_name(name).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_child_runs_inherit_the_family(tracking: Tracking) -> None:
    with (
        tracking.run("pipeline", experiment="tiny", tags={"family": "tiny"}) as pipeline,
        pipeline.child("train") as train_run,
        train_run.child("train mono") as step,
    ):
        pass
    assert tracking.client.get_run(step.id).data.tags["family"] == "tiny"


def test_sizes_have_three_digits_and_a_unit() -> None:
    sizes = {
        999: "999",
        214_912: "215K",
        355_871_744: "356M",
        2_778_664_960: "2.78B",
        16_032_153_600: "16B",
    }
    assert {num: size_name(num) for num in sizes} == sizes
