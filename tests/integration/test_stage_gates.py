"""Pipelines whose stages have gates: stopped, approved by hand, passed."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixtures.prefect_stack import start_codegen
from fixtures.projects import new_project

from components.core.artifact import Artifact
from components.core.store import Store
from components.registry.tracking import Tracking
from flows.settings.recipes import tiny

if TYPE_CHECKING:
    from conftest import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1800)]

ENGLISH = "bits_per_byte/nl/English"
REASON = "<b>enough for a demonstration</b>"


class Project:
    """A project folder, and the command line in it."""

    def __init__(self, folder: Path, archives: FixtureArchives) -> None:
        self.folder, self.archives = new_project(folder), archives

    def codegen(self, *arguments: str) -> tuple[int, str]:
        """Run `codegen ...` to its end; return its exit status and output."""
        process = start_codegen(self.folder, self.archives, *arguments, OMP_NUM_THREADS="1")
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    def run(self, command: str, recipe: str, gates: dict[str, object]) -> tuple[int, str]:
        """Run a recipe with stage gates."""
        return self.codegen(
            command,
            "-r",
            recipe,
            "--set",
            f"stage_gates={json.dumps(gates)}",
            "--exec",
            "training.world_size=1",
        )

    def artifacts(self, kind: str) -> dict[str, Artifact]:
        """Return the artifacts of a kind by name."""
        store = Store(self.folder / "var/store")
        return {item.name: item for item in store.list_artifacts() if item.kind == kind}

    @property
    def tracking(self) -> Tracking:
        mlflow_folder = self.folder / "var/mlflow"
        return Tracking(f"sqlite:///{mlflow_folder}/mlflow.db", mlflow_folder / "artifacts")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives) -> Project:
    return Project(tmp_path_factory.mktemp("gates") / "project", fixture_archives)


def bound(threshold: float, **settings: object) -> dict[str, object]:
    """A gate with an upper bound on bits per byte of English."""
    return {"requirements": [{"metrics": [ENGLISH], "threshold": threshold}], **settings}


def test_a_missed_bound_stops_the_pipeline_until_it_is_approved(project: Project) -> None:
    status, output = project.run("run", "tiny", {"nl": bound(0.5)})
    assert status == 3, output
    assert set(project.artifacts("checkpoint")) == {"codegen-tiny-nl"}
    nl = project.artifacts("checkpoint")["codegen-tiny-nl"]
    evaluations = project.artifacts("evaluation")
    assert {"codegen-tiny-nl-bits-per-byte", "codegen-tiny-nl-humaneval"} <= set(evaluations)
    value = evaluations["codegen-tiny-nl-bits-per-byte"].statistics["nl"]["English"]  # type: ignore[index,call-overload]
    command = ["approve", nl.label, "--reason", REASON]
    error = output[output.rindex("✗") :].splitlines()
    assert error[0] == f"✗ stage nl did not pass its gate: {ENGLISH} is {value:.6g}"
    assert error[1].strip() == f"expected: {ENGLISH} is at most 0.5"
    assert f"codegen {' '.join(command[:3])} TEXT, or change stage_gates" in error[2]

    status, output = project.codegen(*command)
    assert status == 0, output
    status, output = project.run("run", "tiny", {"nl": bound(0.5)})
    assert status == 0, output
    checkpoints = project.artifacts("checkpoint")
    assert set(checkpoints) == {f"codegen-tiny-{stage}" for stage in ("nl", "multi", "mono")}
    assert checkpoints["codegen-tiny-nl"] == nl
    initial = {parent.role: parent.digest for parent in checkpoints["codegen-tiny-multi"].parents}
    assert initial["initial"] == nl.digest
    assert "@champion" in project.codegen("models", "list")[1]

    run = project.tracking.find_last_run("tags.stage_gate_answer = 'true'")
    assert run
    assert run.data.tags["decided_by"] == f"{getpass.getuser()} (codegen approve)"
    assert run.data.tags["checkpoint"] == nl.label
    page = (project.folder / "var/report.html").read_text()
    assert "Gates between stages" in page
    assert "&lt;b&gt;enough for a demonstration&lt;/b&gt;" in page
    assert run.data.tags["decided_at"] in page


def test_a_stage_waits_only_for_the_gate_of_its_initial_stage(project: Project) -> None:
    """The tree is nl -> (multi -> last -> next, mono). The gate after nl opens by itself; no
    reviewer answers at the gate after multi."""
    recipe = tiny()
    stages = dict(recipe.training.stages)
    stages["mono"] = stages["mono"].replace(init_stage="nl")
    stages["last"] = stages["mono"].replace(init_stage="multi", corpus="mono")
    stages["next"] = stages["last"].replace(init_stage="last")
    path = project.folder / "tree.json"
    tree = recipe.replace(name="tree", training=recipe.training.replace(stages=stages))
    path.write_text(tree.model_dump_json())
    manual = bound(8.5, approval="manual", approval_timeout_s=1)
    status, output = project.run("train", str(path), {"nl": bound(8.5), "multi": manual})
    assert status == 3, output
    names = [name for name in project.artifacts("checkpoint") if name.startswith("tree")]
    assert sorted(names) == ["tree-mono", "tree-multi", "tree-nl"]
    assert "stage multi did not pass its gate: no answer within 1 s" in output
    run = project.tracking.find_last_run("tags.stage_gate = 'passed'")
    assert run
    assert (run.data.tags["stage"], run.data.tags["decided_by"]) == (
        "nl",
        f"{getpass.getuser()} (flow train)",
    )
    # The reviewer was asked after the last stage that could be trained.
    assert output.index("✓ train mono") < output.index("waits up to")
