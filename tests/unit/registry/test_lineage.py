"""Each checkpoint is one logged model, registered or not: with its figures, the corpora behind them, and tags."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import LoggedModel

from components.core.artifact import Artifact
from components.core.store import Store
from components.registry.lineage import size_name
from components.registry.tracking import TrackedRun, Tracking
from components.registry.versions import register

MD5 = "0123456789abcdef0123456789abcdef.dir"


def _raw(folder: Path) -> Artifact:
    about = {
        "address": str(folder),
        "recipe": "cd" * 32,
        "digest": "ab" * 32,
        "provenance": {"dvc_md5": MD5},
    }
    return Artifact(kind="raw-corpus", name="mono", **about)


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "train.bin").write_bytes(b"ids")
        return {"train_tokens": 3}

    store, raw = Store(tmp_path / "store"), _raw(tmp_path)
    about = {"config": {}, "parents": {"raw": raw}, "code_version": 1}
    return store.get_or_build("prepared-corpus", "mono", **about, build=build).artifact


@pytest.fixture
def train(
    tmp_path: Path, corpus: Artifact, huggingface_folder: Path
) -> Callable[[TrackedRun, float], Artifact]:
    """What a flow does for a stage, but for the training."""

    def make(run: TrackedRun, learning_rate: float) -> Artifact:
        def build(folder: Path) -> dict[str, float]:
            shutil.copytree(huggingface_folder, folder, dirs_exist_ok=True)
            (folder / "training.json").write_text(str(learning_rate))
            return {"num_parameters": 214_912, "steps": 12, "tokens": 3072, "final_loss": 5.5}

        config, parents = {"stage": {"learning_rate": learning_rate}}, {"corpus": corpus}
        run.log_params(config)
        run.log_inputs([_raw(tmp_path)], "raw")  # As the flow that prepares does.
        run.log_inputs(parents.values(), "checkpoint")
        store = Store(tmp_path / "store")
        about = {"config": config, "parents": parents, "code_version": 1}
        built = store.get_or_build("checkpoint", "codegen-tiny-mono", **about, build=build)
        run.log_output_artifact(built.artifact, reused=built.reused)
        return built.artifact

    return make


def _evaluate(run: TrackedRun, checkpoint: Artifact, corpus: Artifact, folder: Path) -> None:
    def build(into: Path) -> dict[str, object]:
        (into / "results.json").write_text("{}")
        return {"protocol": "abc", "mono": {"Python": 2.5}, "humaneval": {"canonical": 3.0}}

    parents = {"checkpoint": checkpoint, "mono": corpus}
    run.log_inputs(parents.values(), "evaluation")
    about = {"config": {}, "parents": parents, "code_version": 1}
    built = Store(folder / "store").get_or_build(
        "evaluation", "codegen-tiny-mono-bits-per-byte", **about, build=build
    )
    run.log_output_artifact(built.artifact, reused=built.reused, benchmark="bits_per_byte")


def _models(run: TrackedRun) -> list[LoggedModel]:
    return list(run.tracking.client.search_logged_models([run.experiment_id]))


def test_a_checkpoint_that_nobody_registers_is_a_logged_model(
    tracking: Tracking, corpus: Artifact, train
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
    (model,) = _models(run)
    assert (model.name, str(model.status)) == (
        checkpoint.label.removeprefix("checkpoint/"),
        "READY",
    )
    assert model.source_run_id == run.id
    assert model.params == {"stage.learning_rate": "0.001"}
    wanted = {
        "stage": "mono",
        "size": "215K",
        "corpus": f"mono-{corpus.recipe[:12]}",
        "checkpoint_digest": checkpoint.digest,
    }
    assert wanted.items() <= model.tags.items()
    assert {"git_commit", "git_dirty", "address", "recipe"} <= model.tags.keys()
    on = ("prepared-corpus/mono", corpus.digest[:36])
    found = {
        (one.key, one.value, one.step, one.dataset_name, one.dataset_digest)
        for one in model.metrics
    }
    assert found == {
        ("final_loss", 5.5, 12, *on),
        ("num_parameters", 214_912.0, 12, *on),
        ("steps", 12.0, 12, *on),
        ("tokens", 3072.0, 12, *on),
    }
    record = tracking.client.get_run(run.id)
    assert [one.model_id for one in record.outputs.model_outputs] == [model.model_id]
    assert {
        "stage": "mono",
        "size": "215K",
        "corpus": f"mono-{corpus.recipe[:12]}",
    }.items() <= record.data.tags.items()


def test_a_reused_checkpoint_stays_one_model_and_another_is_another(
    tracking: Tracking, train
) -> None:
    with tracking.run("first", experiment="tiny") as first:
        train(first, 1e-3)
    with tracking.run("second", experiment="tiny") as second:
        train(second, 1e-3)
        (model,) = _models(second)
        assert [
            one.model_id for one in tracking.client.get_run(second.id).outputs.model_outputs
        ] == [model.model_id]
        assert len(model.metrics) == 4, "those of the run that made it, and no second ones"
    with tracking.run("third", experiment="tiny") as third:
        train(third, 2e-3)
    assert len({one.name for one in _models(third)}) == 2


def test_what_was_measured_of_a_checkpoint_is_the_models_with_the_corpus(
    tracking: Tracking, corpus: Artifact, train, tmp_path: Path
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
    for _ in range(2):  # The second time it is reused.
        with tracking.run("bits per byte of mono", experiment="tiny") as run:
            _evaluate(run, checkpoint, corpus, tmp_path)
    (model,) = _models(run)
    found = [
        (one.key, one.value, one.dataset_name)
        for one in model.metrics
        if one.key.startswith("bits_per_byte")
    ]
    assert sorted(found, key=str) == [
        ("bits_per_byte/humaneval/canonical", 3.0, None),
        ("bits_per_byte/mono/Python", 2.5, "prepared-corpus/mono"),
    ]
    record = tracking.client.get_run(run.id)
    assert [one.model_id for one in record.inputs.model_inputs] == [model.model_id]
    assert {"stage": "mono", "size": "215K"}.items() <= record.data.tags.items()
    assert record.data.metrics["bits_per_byte/mono/Python"] == 2.5


def test_a_model_that_is_measured_under_another_recipe_is_the_same_one(
    tracking: Tracking, corpus: Artifact, train, tmp_path: Path
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
    with tracking.run("HumanEval", experiment="starter") as other:
        _evaluate(other, checkpoint, corpus, tmp_path)
    assert _models(other) == []
    assert "bits_per_byte/mono/Python" in {one.key for one in _models(run)[0].metrics}


def test_a_training_run_states_the_dvc_md5_of_its_corpus(tracking: Tracking, train) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        train(run, 1e-3)
    inputs = {
        one.dataset.name: one for one in tracking.client.get_run(run.id).inputs.dataset_inputs
    }
    tags = {tag.key: tag.value for tag in inputs["prepared-corpus/mono"].tags}
    assert tags == {"mlflow.data.context": "checkpoint", "dvc_md5": MD5}


def test_registration_completes_the_model_that_is_there(
    tracking: Tracking, train, tmp_path: Path
) -> None:
    with tracking.run("train mono", experiment="tiny") as run:
        checkpoint = train(run, 1e-3)
        before = _models(run)[0]
        about = {"name": "codegen-tiny-mono", "stage": "mono", "evaluations": {}, "dvc_md5": MD5}
        about |= {"parity": lambda _: 0.0, "max_logit_difference": 1e-4}
        register(checkpoint, Path(checkpoint.address), run=run, **about)
    (after,) = _models(run)
    assert after.model_id == before.model_id
    version = tracking.client.get_model_version("codegen-tiny-mono", "1")
    assert version.tags["model_id"] == before.model_id
    assert json.loads(after.tags["mlflow.modelVersions"]) == [
        {"name": "codegen-tiny-mono", "version": "1"}
    ]
    assert {
        key: version.tags[key] for key in ("stage", "size", "corpus", "git_commit", "git_dirty")
    } == {key: after.tags[key] for key in ("stage", "size", "corpus", "git_commit", "git_dirty")}


def test_an_experiment_shows_runs_and_models_also_where_an_earlier_version_made_it(
    tracking: Tracking,
) -> None:
    tracking.client.create_experiment("old")
    for name in ("old", "new"):
        with tracking.run("run", experiment=name):
            pass
        tags = tracking.client.get_experiment_by_name(name).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_part_carries_the_family_of_the_whole(tracking: Tracking) -> None:
    with (
        tracking.run("pipeline", experiment="tiny", tags={"family": "tiny"}) as whole,
        whole.child("train") as part,
        part.child("train mono") as step,
    ):
        pass
    assert tracking.client.get_run(step.id).data.tags["family"] == "tiny"


def test_sizes_are_named_as_people_do() -> None:
    sizes = {
        999: "999",
        214_912: "215K",
        355_871_744: "356M",
        2_778_664_960: "2.78B",
        16_032_153_600: "16B",
    }
    assert {num: size_name(num) for num in sizes} == sizes
