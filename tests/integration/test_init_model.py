"""Recipes that start from a released model and skip earlier stages: real flows, a tiny stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fixtures.toy_corpora import store_toy_corpora
from fixtures.training import MODEL, STAGE, toy_run
from test_command_line import assert_three_lines, codegen
from transformers import AutoModelForCausalLM, AutoTokenizer, CodeGenTokenizerFast

from components.core.artifact import Artifact
from components.core.errors import CodegenError, ConfigError
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.transformer import CodeGen
from components.tokenizer.config import TokenizerConfig
from components.training.config import TrainingExecution
from flows.prepare import PreparedData
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny
from flows.train import train

pytestmark = [pytest.mark.process_heavy, pytest.mark.timeout(300)]

FROZEN = STAGE.replace(
    steps=2, warmup_steps=1, decay_steps=1, learning_rate=1e-9, min_learning_rate=0.0
)
"""Two steps that change no weight beyond rounding, so the result shows the initial weights."""
STAGES = {
    "nl": FROZEN,
    "multi": FROZEN.replace(init_stage="nl"),
    "mono": FROZEN.replace(init_stage="multi"),
}
INHERITING = STAGES | {"mono": STAGES["mono"].replace(optimizer_state="inherit")}
EXECUTION = TrainingExecution(
    micro_batch=16, zero_stage=0, precision="fp32", device="cpu", eval_interval=0
)


class Project(NamedTuple):
    """An execution config, prepared corpora, and a released model."""

    execution: Execution
    corpora: PreparedData
    released: Path
    weights: CodeGen

    def recipe(self, **training: object) -> Recipe:
        base = tiny().replace(model=MODEL, tokenizer=TokenizerConfig(num_merges=0))
        return base.replace(
            training={
                "stages": STAGES,
                "init_from": str(self.released),
                "max_epochs": None,
                **training,
            }
        )

    def train(self, recipe: Recipe) -> dict[str, Artifact]:
        return train(recipe, self.execution, self.corpora)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    (root / "project").mkdir()
    execution = Execution(project=str(root / "project"), training=EXECUTION)
    run = toy_run(root / "inputs")
    corpora = store_toy_corpora(execution, run)
    weights = CodeGen(MODEL, seed=11)
    return Project(execution, corpora, release(weights, Path(run.tokenizer.folder), root), weights)


def release(model: CodeGen, tokenizer: Path, root: Path, name: str = "My Model") -> Path:
    """Save a model with the files that `transformers` writes."""
    folder = root / name
    checkpoint = root / f"{name} checkpoint"
    checkpoint.mkdir()
    save_checkpoint(model, tokenizer, checkpoint)
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder)
    backend = AutoTokenizer.from_pretrained(checkpoint).backend_tokenizer
    CodeGenTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return folder


def assert_same_weights(checkpoint: Artifact, model: CodeGen) -> None:
    trained = load_checkpoint(Path(checkpoint.address))
    for parameter, expected in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)


def parent_digests(artifact: Artifact) -> dict[str, str]:
    """The digests of an artifact's parents by role."""
    return {parent.role: parent.digest for parent in artifact.parents}


def test_the_last_stage_starts_from_a_released_folder(project: Project, tmp_path: Path) -> None:
    checkpoints = project.train(project.recipe(start_stage="mono"))
    assert list(checkpoints) == ["mono"]
    assert_same_weights(checkpoints["mono"], project.weights)
    store = project.execution.open_store()
    (imported,) = (
        artifact
        for artifact in store.list_artifacts()
        if artifact.kind == "checkpoint" and artifact.statistics.get("imported")
    )
    assert imported.name == "my-model"
    assert parent_digests(checkpoints["mono"])["initial"] == imported.digest
    assert imported in store.lineage(checkpoints["mono"])

    copy = tmp_path / "another name"
    shutil.copytree(project.released, copy)
    again = project.train(project.recipe(start_stage="mono", init_from=str(copy)))
    assert again == checkpoints, "the digest identifies the model, not its path"

    later = project.train(project.recipe(start_stage="multi", init_from=checkpoints["mono"].label))
    assert list(later) == ["multi", "mono"]
    assert parent_digests(later["multi"])["initial"] == checkpoints["mono"].digest
    assert parent_digests(later["mono"])["initial"] == later["multi"].digest


def test_a_later_stage_can_start_from_new_weights(project: Project) -> None:
    (checkpoint,) = project.train(project.recipe(start_stage="mono", init_from=None)).values()
    assert "initial" not in parent_digests(checkpoint)
    assert_same_weights(checkpoint, CodeGen(MODEL, seed=tiny().seed))


def test_an_unsuitable_model_is_refused_before_training(project: Project, tmp_path: Path) -> None:
    other_shape = release(
        CodeGen(MODEL.replace(num_layers=3, padded_vocab_size=384)), project.released, tmp_path
    )
    other_tokenizer = tmp_path / "other-tokenizer"
    shutil.copytree(project.released, other_tokenizer)
    document = json.loads((other_tokenizer / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other_tokenizer / "tokenizer.json").write_text(json.dumps(document))
    incomplete = tmp_path / "incomplete"
    shutil.copytree(project.released, incomplete)
    (incomplete / "config.json").unlink()
    larger = project.recipe().replace(tokenizer=TokenizerConfig(num_merges=20))
    labels = built_artifacts(project)

    assert_refused(
        project,
        project.recipe(init_from=str(other_shape)),
        r"has num_layers 3, padded_vocab_size 384$",
        "--set model.num_layers=3 ",
    )
    assert_refused(
        project,
        project.recipe(init_from=str(other_tokenizer)),
        r"another tokenizer: '[AB]' has the id",
        "GPT-2's vocabulary",
    )
    assert_refused(
        project, larger, r"My Model has 0 merges and 295 ids$", "--set tokenizer.num_merges=0$"
    )
    assert_refused(
        project,
        project.recipe(init_from=str(tmp_path / "none")),
        r"there is no model '.*none'$",
        "codegen artifacts",
    )
    assert_refused(
        project,
        project.recipe(init_from=str(incomplete)),
        r"config\.json does not exist",
        "restore the folder",
    )
    assert_refused(
        project,
        project.recipe(start_stage="mono", stages=INHERITING),
        r"has no optimizer\.safetensors, and stage mono inherits",
        r"training\.stages\.mono\.optimizer_state to reset",
    )
    assert built_artifacts(project) == labels


def built_artifacts(project: Project) -> set[str]:
    return {
        artifact.label
        for artifact in project.execution.open_store().list_artifacts()
        if not artifact.statistics.get("imported")
    }


def assert_refused(project: Project, recipe: Recipe, got: str, fix: str) -> None:
    with pytest.raises(CodegenError, match=f"(?m){got}") as refused:
        project.train(recipe)
    refused.match(f"(?m)fix: .*{fix}")


def test_optimizer_state_cannot_be_inherited_without_a_model(project: Project) -> None:
    with pytest.raises(ConfigError, match="mono is the first stage"):
        project.recipe(start_stage="mono", init_from=None, stages=INHERITING)


def test_a_last_stage_before_the_first_stage_is_refused_in_three_lines(tmp_path: Path) -> None:
    first = ("--set", "training.start_stage=mono")
    done = codegen(
        "train", "-r", "tiny", "--stage", "multi", *first, "--exec", f"project={tmp_path}"
    )
    assert_three_lines(
        done, "the last stage is multi, to which the first stage, mono, does not lead"
    )
    assert not (tmp_path / "var/store").exists()
