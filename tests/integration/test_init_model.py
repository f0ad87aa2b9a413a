"""A recipe that starts from a model as it is released, and leaves out earlier stages: real flows, a real tiny stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fixtures.training import MODEL, STAGE, toy_run
from test_command_line import assert_three_lines, codegen
from transformers import AutoModelForCausalLM, AutoTokenizer, CodeGenTokenizerFast

from components.core.artifact import Artifact, Kind
from components.core.errors import CodegenError, ConfigError
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.transformer import CodeGen
from components.tokenizer.config import TokenizerConfig
from components.training.config import Stages, TrainingExecution
from flows.prepare import PreparedData
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny
from flows.train import train

pytestmark = [pytest.mark.apart, pytest.mark.timeout(300)]

# Two steps that move no weight further than rounding: what comes out tells what it started from.
STILL = STAGE.replace(
    steps=2, warmup_steps=1, decay_steps=1, learning_rate=1e-9, min_learning_rate=0.0
)
PLACE = TrainingExecution(
    micro_batch=16, zero_stage=0, precision="fp32", device="cpu", eval_interval=0
)


class World(NamedTuple):
    """A place to run in, what preparation would have made there, and a released model beside it."""

    execution: Execution
    corpora: PreparedData
    released: Path
    weights: CodeGen

    def recipe(self, **training: object) -> Recipe:
        stages = Stages(nl=STILL, multi=STILL, mono=STILL)
        base = tiny().replace(model=MODEL, tokenizer=TokenizerConfig(num_merges=0))
        return base.replace(
            training={"stages": stages.model_dump(), "initial": str(self.released), **training}
        )

    def train(self, recipe: Recipe) -> dict[str, Artifact]:
        return train(recipe, self.execution, self.corpora)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    (root / "project").mkdir()
    execution = Execution(project=str(root / "project"), training=PLACE)
    run = toy_run(root / "inputs")
    store = execution.open_store()

    def kept(kind: Kind, name: str, folder: str) -> Artifact:
        def build(into: Path) -> dict[str, object]:
            shutil.copytree(folder, into, dirs_exist_ok=True)
            return {}

        return store.get_or_build(
            kind, name, config={"name": name}, parents={}, code_version=1, build=build
        ).artifact

    tokenizer = kept("tokenizer", "gpt2-0", run.tokenizer.folder)
    prepared = {
        name: kept("prepared-corpus", name, run.data.folder) for name in ("nl", "multi", "mono")
    }
    corpora = PreparedData(raw={}, tokenizer=tokenizer, prepared=prepared, validations={})
    weights = CodeGen(MODEL, seed=11)
    return World(execution, corpora, released(weights, Path(run.tokenizer.folder), root), weights)


def released(model: CodeGen, tokenizer: Path, root: Path, name: str = "My Model") -> Path:
    """With the files that `transformers` writes, and nothing of ours."""
    folder, ours = root / name, root / f"{name} as ours"
    ours.mkdir()
    save_checkpoint(model, tokenizer, ours)
    AutoModelForCausalLM.from_pretrained(ours).save_pretrained(folder)
    wrapped = AutoTokenizer.from_pretrained(ours).backend_tokenizer
    CodeGenTokenizerFast(tokenizer_object=wrapped).save_pretrained(folder)
    return folder


def assert_same_weights(checkpoint: Artifact, model: CodeGen) -> None:
    for one, other in zip(
        load_checkpoint(Path(checkpoint.address)).parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_last_stage_alone_starts_from_a_released_folder(world: World, tmp_path: Path) -> None:
    checkpoints = world.train(world.recipe(start_stage="mono"))
    assert list(checkpoints) == ["mono"]
    assert_same_weights(checkpoints["mono"], world.weights)
    store = world.execution.open_store()
    (imported,) = (
        one
        for one in store.list_artifacts()
        if one.kind == "checkpoint" and one.statistics.get("imported")
    )
    assert imported.name == "my-model"
    parents = {one.role: one.digest for one in checkpoints["mono"].parents}
    assert parents["initial"] == imported.digest
    assert imported in store.lineage(checkpoints["mono"])

    elsewhere = tmp_path / "of another name"
    shutil.copytree(world.released, elsewhere)
    again = world.train(world.recipe(start_stage="mono", initial=str(elsewhere)))
    assert again == checkpoints, "the digest counts, not the path"

    further = world.train(world.recipe(start_stage="multi", initial=checkpoints["mono"].label))
    assert list(further) == ["multi", "mono"]
    assert {one.role: one.digest for one in further["multi"].parents}["initial"] == checkpoints[
        "mono"
    ].digest
    assert {one.role: one.digest for one in further["mono"].parents}["initial"] == further[
        "multi"
    ].digest


def test_a_later_stage_can_begin_with_new_weights(world: World) -> None:
    (checkpoint,) = world.train(world.recipe(start_stage="mono", initial=None)).values()
    assert "initial" not in {one.role for one in checkpoint.parents}
    assert_same_weights(checkpoint, CodeGen(MODEL, seed=tiny().seed))


def test_what_cannot_be_started_from_is_found_before_anything_is_trained(
    world: World, tmp_path: Path
) -> None:
    wide = released(
        CodeGen(MODEL.replace(num_layers=3, padded_vocab_size=384)), world.released, tmp_path
    )
    foreign = tmp_path / "foreign"
    shutil.copytree(world.released, foreign)
    text = json.loads((foreign / "tokenizer.json").read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (foreign / "tokenizer.json").write_text(json.dumps(text))
    incomplete = tmp_path / "incomplete"
    shutil.copytree(world.released, incomplete)
    (incomplete / "config.json").unlink()
    larger = world.recipe().replace(tokenizer=TokenizerConfig(num_merges=20))
    before = {
        one.label
        for one in world.execution.open_store().list_artifacts()
        if not one.statistics.get("imported")
    }

    assert_refused(
        world,
        world.recipe(initial=str(wide)),
        r"has num_layers 3, padded_vocab_size 384$",
        "--set model.num_layers=3 ",
    )
    assert_refused(
        world,
        world.recipe(initial=str(foreign)),
        r"another tokenizer: '[AB]' has the id",
        "GPT-2's vocabulary",
    )
    assert_refused(
        world, larger, r"My Model has 0 merges and 295 ids$", "--set tokenizer.num_merges=0$"
    )
    assert_refused(
        world,
        world.recipe(initial=str(tmp_path / "none")),
        r"there is no model '.*none'$",
        "codegen artifacts",
    )
    assert_refused(
        world,
        world.recipe(initial=str(incomplete)),
        r"config\.json does not exist",
        "restore the folder",
    )
    kept = Stages(nl=STILL, multi=STILL, mono=STILL.replace(optimizer_state="inherit")).model_dump()
    assert_refused(
        world,
        world.recipe(start_stage="mono", stages=kept),
        r"has no optimizer\.safetensors, and stage mono is to keep",
        r"training\.stages\.mono\.optimizer_state to reset",
    )
    assert {
        one.label
        for one in world.execution.open_store().list_artifacts()
        if not one.statistics.get("imported")
    } == before


def assert_refused(world: World, recipe: Recipe, got: str, fix: str) -> None:
    with pytest.raises(CodegenError, match=f"(?m){got}") as refused:
        world.train(recipe)
    refused.match(f"(?m)fix: .*{fix}")


def test_moments_of_nobody_cannot_be_kept(world: World) -> None:
    kept = Stages(nl=STILL, multi=STILL, mono=STILL.replace(optimizer_state="inherit")).model_dump()
    with pytest.raises(ConfigError, match="mono is the first stage"):
        world.recipe(start_stage="mono", initial=None, stages=kept)


def test_a_last_stage_before_the_first_is_three_lines(tmp_path: Path) -> None:
    first = ("--set", "training.start_stage=mono")
    done = codegen(
        "train", "-r", "tiny", "--stage", "multi", *first, "--exec", f"project={tmp_path}"
    )
    assert_three_lines(done, "the last stage is to be multi, and training begins with mono")
    assert not (tmp_path / "var/store").exists()
