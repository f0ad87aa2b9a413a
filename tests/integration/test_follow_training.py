"""Evaluation of the checkpoints of a stage that was killed, and that is resumed meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.prefect_stack import start_codegen
from fixtures.processes import kill_process_tree_when
from fixtures.projects import new_project
from mlflow import MlflowClient

from components.core.artifact import Artifact
from components.core.fingerprint import sha256_file
from components.core.store import Store
from components.evaluation.bits_per_byte import run_bits_per_byte

if TYPE_CHECKING:
    from conftest import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1800)]

STEPS = 30
FIRST_SAVED = (4, 8, 12)
"""The training is killed after the last of these; it may have saved further checkpoints by then."""
BATCH_TOKENS = 4 * 256
RECIPE = ("-r", "tiny", "--stage", "nl", "--set", f"training.stages.nl.steps={STEPS}")
EXECUTION = tuple(
    word
    for field in (
        "world_size=2",
        "micro_batch=1",
        "zero_stage=2",
        "checkpoint_every_steps=4",
        "keep_last=9",
        "eval_interval=0",
    )
    for word in ("--exec", f"training.{field}")
)
WEIGHTS = "model.safetensors"


class Project:
    """A project folder, and the command line in it."""

    def __init__(self, folder: Path, archives: FixtureArchives) -> None:
        self.folder, self.archives = new_project(folder), archives
        self.store = Store(folder / "var/store")

    def start(self, *arguments: str) -> Any:
        return start_codegen(self.folder, self.archives, *arguments, OMP_NUM_THREADS="1")

    def codegen(self, *arguments: str) -> str:
        """Run `codegen ...`, which must succeed, and return its output."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        return str(output)

    def start_follower(self, *options: str) -> Any:
        """Start to follow the training, with a benchmark of a single problem."""
        problem = {"task_id": "mine/1", "prompt": "def f():\n", "entry_point": "f"}
        test = "def check(candidate):\n    assert candidate() == 1\n"
        path = self.folder / "mine.jsonl"
        path.write_text(json.dumps({**problem, "test": test}) + "\n")
        benchmarks = ("--benchmark", "bits-per-byte", "--benchmark", str(path))
        return self.start("eval", "follow", *RECIPE, *benchmarks, *options, "--json")

    def end_follower(self, follower: Any) -> list[dict[str, Any]]:
        """Wait for a follower, and return the evaluated checkpoints."""
        output, _ = follower.communicate(timeout=900)
        assert follower.returncode == 0, output
        return list(json.loads(output[output.index("\n[\n") :]))

    def saved_steps(self) -> tuple[int, ...]:
        """Return the steps of the checkpoints in the folder of the training."""
        folders = self.folder.glob("var/store/.building/checkpoint/codegen-tiny-nl-*/work/step-*")
        names = [folder.name.removeprefix("step-") for folder in folders]
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def artifacts(self) -> dict[str, Artifact]:
        return {artifact.label: artifact for artifact in self.store.list_artifacts()}


def test_each_checkpoint_of_a_training_is_evaluated_once(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    project = Project(tmp_path / "project", fixture_archives)
    refused = project.start("eval", "follow", *RECIPE)
    output, _ = refused.communicate(timeout=900)
    assert refused.returncode == 1
    assert "stage nl of codegen-tiny is not in training" in output

    training = project.start("train", *RECIPE, *EXECUTION)
    kill_process_tree_when(training, lambda: FIRST_SAVED[-1] in project.saved_steps())
    saved = project.saved_steps()
    assert saved[:3] == FIRST_SAVED

    points = project.end_follower(project.start_follower())
    assert [point["step"] for point in points] == list(saved)
    assert [point["tokens"] for point in points] == [step * BATCH_TOKENS for step in saved]
    assert {point["metrics"]["mine/pass@1"] for point in points} == {0.0}
    assert project.saved_steps() == saved  # Still there to resume from.
    artifacts = project.artifacts()
    assert [artifacts[point["checkpoint"]].digest for point in points] == [
        point["digest"] for point in points
    ]
    assert not list(project.folder.glob("var/store/.building/*/*.snapshot"))
    assert _logged_metrics(project, "evaluation") == {
        point["step"]: point["metrics"]["bits_per_byte/nl/English"] for point in points
    }

    # A stage of only 4 steps has the same weights, and the same bits per byte by hand.
    steps = f"training.stages.nl.steps={FIRST_SAVED[0]}"
    project.codegen("train", *RECIPE, "--set", steps, *EXECUTION)
    short = next(
        artifact
        for artifact in project.artifacts().values()
        if artifact.kind == "checkpoint"
        and artifact.statistics["steps"] == FIRST_SAVED[0]
        and artifact.name == "codegen-tiny-nl"
    )
    followed = Path(artifacts[points[0]["checkpoint"]].address)
    assert sha256_file(followed / WEIGHTS) == sha256_file(Path(short.address) / WEIGHTS)
    prepared = {
        artifact.name: artifact.address
        for artifact in artifacts.values()
        if artifact.kind == "prepared-corpus"
    }
    (tmp_path / "by-hand").mkdir()
    expected = run_bits_per_byte(
        tmp_path / "by-hand",
        checkpoint=Path(short.address),
        prepared=prepared,
        max_sequences=16,
    )
    values = points[0]["metrics"]
    for corpus in ("nl", "multi", "mono"):
        for language, value in expected[corpus].items():
            assert values[f"bits_per_byte/{corpus}/{language}"] == pytest.approx(value, rel=1e-12)

    # A follower that waits sees the resumed training to its end; earlier checkpoints are reused.
    follower = project.start_follower("--wait")
    project.codegen("train", *RECIPE, *EXECUTION)
    finished = project.end_follower(follower)
    assert project.saved_steps() == ()
    assert finished[: len(points)] == points
    assert finished[-1]["step"] == STEPS
    assert finished[-1]["checkpoint"] == _label_of_stage(project)
    tokens = _logged_metrics(project, "evaluation_by_tokens")
    assert list(tokens) == [point["tokens"] for point in finished]


def _label_of_stage(project: Project) -> str:
    """Return the label of the finished stage."""
    (label,) = (
        label
        for label, artifact in project.artifacts().items()
        if artifact.name == "codegen-tiny-nl" and artifact.statistics.get("steps") == STEPS
    )
    return label


def _logged_metrics(project: Project, family: str) -> dict[int, float]:
    """Return bits per byte of English in the MLflow run of the last follower, by step."""
    client = MlflowClient(f"sqlite:///{project.folder}/var/mlflow/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(
        experiments,
        "attributes.run_name = 'follow nl codegen-tiny'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    trained_by = client.get_run(run.data.tags["training_run"])
    assert trained_by.info.run_name.startswith("train nl ")
    metrics = client.get_metric_history(run.info.run_id, f"{family}/bits_per_byte/nl/English")
    return {metric.step: metric.value for metric in metrics}
