"""`codegen artifacts prune` on a store with two recipes, a champion and its predecessor."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fixtures.codegen_command import HEAVY, run_codegen
from fixtures.models import write_reciting
from fixtures.registered_models import LONG_CONTEXT
from fixtures.training import MODEL as MODEL_CONFIG
from fixtures.training import STAGE
from fixtures.versions import register_checkpoint

from components.core.artifact import Artifact, Kind
from components.core.errors import ArtifactError
from components.core.store import Store
from components.registry.config import StageGateConfig
from components.registry.queries import list_versions
from components.registry.stage_gate import StageGateRequest, record_stage_decision
from components.registry.tracking import TrackedRun, Tracking
from components.training.config import TrainingExecution
from components.training.run_file import RunFile, StageRun
from flows.settings.execution import Execution, setup_environment
from flows.steps.prune import prune

MODEL = "codegen-a-mono"
NUM_VERSIONS = 4


class Project:
    """A workspace whose artifacts were recorded by runs of the recipes a and b."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.execution = Execution(project=str(folder))
        self.store: Store = self.execution.open_store()
        self.tracking: Tracking = self.execution.open_tracking()
        self.made: dict[str, Artifact] = {}

    def make(
        self,
        run: TrackedRun | None,
        key: str,
        kind: Kind,
        name: str,
        parents: Mapping[str, Artifact] | None = None,
    ) -> Artifact:
        """Publish an artifact and record it in a run; checkpoints are real models."""

        def build(folder: Path) -> dict[str, int]:
            if kind == "checkpoint":
                write_reciting(folder, key, LONG_CONTEXT)
            else:
                (folder / "content.txt").write_text(key)
            return {}

        artifact = self.store.get_or_build(
            kind, name, config={"key": key}, parents=parents or {}, code_version=1, build=build
        ).artifact
        if run:
            with run.child(f"build {key}") as child:
                child.log_output_artifact(artifact, reused=False)
        self.made[key] = artifact
        return artifact

    def run_recipe_a(self, number: int) -> None:
        """Train, evaluate and register version `number`."""
        with self.tracking.run("pipeline", experiment="codegen-a") as run:
            corpus = self.make(run, f"corpus {number}", "prepared-corpus", "mono")
            mono = self.make(run, f"mono {number}", "checkpoint", MODEL, {"corpus": corpus})
            name = f"{MODEL}-humaneval"
            self.make(run, f"score {number}", "evaluation", name, {"checkpoint": mono})
            register_checkpoint(run, mono, self.store.fetch_verified(mono), name=MODEL)

    def interrupt_training(self) -> None:
        """Leave an interrupted training whose inputs are no longer the newest of their names."""
        inputs: dict[str, Artifact] = {}
        for number in (1, 2):
            with self.tracking.run("train", experiment="codegen-c") as run:
                made = {
                    "data": self.make(run, f"c corpus {number}", "prepared-corpus", "c"),
                    "tokenizer": self.make(run, f"c tokenizer {number}", "tokenizer", "c"),
                    "init_from": self.make(run, f"c nl {number}", "checkpoint", "codegen-c-nl"),
                }
            inputs = inputs or made
        folder = self.store.building_folder("checkpoint", "codegen-c-mono", "0" * 64)
        stage_run = StageRun.parse(
            {
                "stage": "mono",
                "config": STAGE,
                "model": MODEL_CONFIG,
                "seed": 1,
                **{
                    role: {"folder": artifact.address, "digest": artifact.digest}
                    for role, artifact in inputs.items()
                },
            }
        )
        folder.mkdir(parents=True)
        RunFile(run=stage_run, execution=TrainingExecution()).write(folder)

    def stop_at_gate(self) -> None:
        """Stop the older of two checkpoints at the gate of its stage."""
        for number in (1, 2):
            with self.tracking.run("train", experiment="codegen-d") as run:
                checkpoint = self.make(run, f"d nl {number}", "checkpoint", "codegen-d-nl")
                if number == 1:
                    requirement = {"metrics": ["humaneval/pass@1"], "threshold": 0.5}
                    gate = StageGateConfig.parse({"requirements": [requirement]})
                    request = StageGateRequest("nl", gate, checkpoint, {})
                    with run.child("gate of stage nl") as child:
                        record_stage_decision(child, request.decision("stopped", "ada"))

    def codegen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        overrides = ["--exec", f"project={self.folder}"]
        inherited = {key: value for key, value in os.environ.items() if key[:7] != "PREFECT"}
        return run_codegen(*arguments, *overrides, preload=HEAVY, environment=inherited)

    def published(self) -> set[str]:
        labels = {artifact.label for artifact in self.store.list_artifacts()}
        return {key for key, artifact in self.made.items() if artifact.label in labels}

    def labels(self, *keys: str) -> set[str]:
        return {self.made[key].label for key in keys}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        folder = tmp_path_factory.mktemp("project")
        project = Project(folder)
        setup_environment(project.execution, runs=False)
        for number in range(1, NUM_VERSIONS + 1):
            project.run_recipe_a(number)
        client = project.tracking.client
        client.set_registered_model_alias(MODEL, "previous", "1")
        client.set_registered_model_alias(MODEL, "champion", "2")
        for number in (1, 2):
            with project.tracking.run("prepare", experiment="codegen-b") as run:
                project.make(run, f"b corpus {number}", "prepared-corpus", "b")
        project.make(None, "not recorded", "tokenizer", "gpt2")
        project.interrupt_training()
        project.stop_at_gate()
        yield project


REMOVED = {"corpus 3", "mono 3", "score 3", "b corpus 1"}
"""With `--keep 1`: neither the newest, nor champion or previous, nor stopped at a gate, nor needed
by them or by the interrupted training."""


def test_a_dry_run_lists_exactly_the_removals_and_removes_nothing(project: Project) -> None:
    before = project.published()
    plan = prune(project.execution, keep=1, dry_run=True)
    removals = {removal.name: removal for removal in plan.removals}
    assert removals.keys() == project.labels(*REMOVED) | {f"{MODEL}/3"}
    mono = project.made["mono 3"]
    size_bytes = sum(file.size_bytes for file in mono.files)
    assert removals[mono.label].size_bytes == removals[f"{MODEL}/3"].size_bytes == size_bytes
    assert removals[f"{MODEL}/3"].reason == "copy in MLflow"
    assert plan.size_bytes == sum(removal.size_bytes for removal in plan.removals)
    assert set(plan.kept_labels) == project.labels(*(before - REMOVED))
    assert not prune(project.execution, keep=9, dry_run=True).removals
    text = project.codegen("artifacts", "prune", "--keep", "1").stdout
    assert "Nothing was removed: add --yes to remove." in text
    assert project.published() == before == set(project.made)
    assert len(list_versions(project.tracking)) == NUM_VERSIONS


def test_artifacts_stay_while_a_run_uses_the_store(project: Project) -> None:
    before = project.published()
    with (
        project.store.use("a run"),
        pytest.raises(ArtifactError, match="a flow run uses the store"),
    ):
        prune(project.execution, keep=1, dry_run=False)
    assert project.published() == before


def test_with_yes_the_listed_artifacts_and_copies_are_removed(project: Project) -> None:
    plan = prune(project.execution, keep=1, dry_run=True)
    expected = project.published() - REMOVED
    process = project.codegen("artifacts", "prune", "--keep", "1", "--yes", "--json")
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    assert document["removals"] == [removal._asdict() for removal in plan.removals]
    assert (document["removed"], document["in_use"]) == (True, [])
    assert project.published() == expected
    assert [version.version for version in list_versions(project.tracking)] == [1, 2, 4]
    for artifact in project.store.list_artifacts():
        Store(project.store.root).fetch_verified(artifact)
    assert not prune(project.execution, keep=1, dry_run=False).removals
    listed = json.loads(project.codegen("artifacts", "--json").stdout)
    assert {entry["artifact"] for entry in listed} == project.labels(*expected)
