"""The whole pipeline on small archives without network: uninterrupted, and killed three times.

Each run is a process with its own project folder, DVC repository, SQLite files, Prefect home.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixtures.prefect_stack import start_codegen
from fixtures.processes import kill_process_tree_when

from components.core.artifact import Artifact
from components.core.network import free_port
from components.core.provenance import provenance
from components.core.store import Store

if TYPE_CHECKING:
    from conftest import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ("nl", "multi", "mono")


class Project:
    """A new project folder, and the command line in it."""

    def __init__(self, folder: Path, archives: FixtureArchives) -> None:
        self.folder, self.archives = folder, archives
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"],
            cwd=folder,
            check=True,
            timeout=60,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `codegen ...` in a new session."""
        mtpb = os.environ.get("CODEGEN_MTPB")
        variables = {"CODEGEN_MTPB": str(Path(mtpb).resolve())} if mtpb else {}
        return start_codegen(self.folder, self.archives, *arguments, **variables)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run `codegen ...` to its end; return its exit status and output."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=400)
        return process.returncode, output

    def run_until_killed(self, condition: Callable[[], bool], *arguments: str) -> None:
        """Run `codegen ...`; `kill -9` its process tree as soon as `condition` holds."""
        kill_process_tree_when(self.start(*arguments), condition)

    @property
    def store(self) -> Store:
        return Store(self.folder / "var/store")

    def artifacts(self) -> dict[str, Artifact]:
        return {artifact.label: artifact for artifact in self.store.list_artifacts()}

    def is_building(self, kind: str) -> bool:
        """Whether an artifact of a kind is being built."""
        return any(path.is_dir() for path in (self.folder / "var/store/.building" / kind).glob("*"))


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> tuple[Project, str]:
    """A project with a completed `codegen run`, and its output."""
    project = Project(tmp_path_factory.mktemp("finished") / "project", fixture_archives)
    status, output = project.run("run", "--recipe", "tiny")
    assert status == 0, output
    return project, output


def test_every_step_published_its_artifact(finished: tuple[Project, str]) -> None:
    project, output = finished
    names = {f"{artifact.kind}/{artifact.name}" for artifact in project.store.list_artifacts()}
    expected = {"validation/raw", "validation/prepared", "tokenizer/gpt2-500"}
    expected |= {f"prepared-corpus/{stage}" for stage in STAGES}
    expected |= {f"checkpoint/codegen-tiny-{stage}" for stage in STAGES}
    expected |= {
        f"evaluation/codegen-tiny-{stage}-{benchmark}"
        for stage in STAGES
        for benchmark in ("bits-per-byte", "humaneval")
    }
    assert expected <= names
    assert ("evaluation/codegen-tiny-mono-mtpb" in names) == bool(os.environ.get("CODEGEN_MTPB"))
    assert 'href="samples.html"' in (project.folder / "var/report.html").read_text()
    samples = (project.folder / "var/samples.html").read_text()
    assert all(f"{name}, HumanEval/0, at" in samples for name in ("NL", "Multi", "Mono"))
    assert "codegen ui" in output


def test_each_stage_starts_from_the_weights_of_the_previous_stage(
    finished: tuple[Project, str],
) -> None:
    project, _ = finished
    checkpoints = {
        artifact.name.rsplit("-", 1)[1]: artifact
        for artifact in project.store.list_artifacts()
        if artifact.kind == "checkpoint"
    }
    parents = {
        stage: {parent.role: parent.digest for parent in checkpoint.parents}
        for stage, checkpoint in checkpoints.items()
    }
    assert "initial" not in parents["nl"]
    assert parents["multi"]["initial"] == checkpoints["nl"].digest
    assert parents["mono"]["initial"] == checkpoints["multi"].digest


def test_every_evaluation_has_the_raw_corpora_in_its_lineage(finished: tuple[Project, str]) -> None:
    project, _ = finished
    evaluation = next(
        artifact
        for artifact in project.store.list_artifacts()
        if artifact.name == "codegen-tiny-mono-bits-per-byte"
    )
    roots = {
        parent.name
        for artifact in project.store.lineage(evaluation)
        for parent in artifact.parents
        if parent.kind == "raw-corpus"
    }
    assert roots == {"nl", "multi", "mono", "vocabulary"}


def test_the_dataset_card_is_in_the_workspace_and_in_mlflow(
    finished: tuple[Project, str],
) -> None:
    project, _ = finished
    card = (project.folder / "var/dataset-card.md").read_text()
    logged_cards = [
        path.read_text()
        for path in (project.folder / "var/mlflow/artifacts").rglob("dataset-card.md")
    ]
    assert set(logged_cards) == {card}
    assert project.run("data", "card", "--recipe", "tiny") == (0, card)
    assert all(
        artifact.digest in card
        for artifact in project.store.list_artifacts()
        if artifact.kind == "prepared-corpus"
    )


def test_the_champion_loads_with_mlflow_and_with_transformers(
    finished: tuple[Project, str],
) -> None:
    project, _ = finished
    script = """
import sys, mlflow, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db")
pipe = mlflow.transformers.load_model("models:/codegen-tiny-mono@champion")
from components.registry.tracking import Tracking
from components.registry.versions import download
mlflow_folder = Path(sys.argv[1]) / "var/mlflow"
tracking = Tracking(f"sqlite:///{mlflow_folder}/mlflow.db", mlflow_folder / "artifacts")
folder = download(tracking, "models:/codegen-tiny-mono@champion", Path(sys.argv[1]) / "pulled")
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = tokenizer("def f(x):", return_tensors="pt")
with torch.no_grad():
    assert torch.equal(pipe.model(**prompt).logits, model(**prompt).logits)
print("same logits of shape", tuple(model(**prompt).logits.shape))
"""
    process = subprocess.run(
        [sys.executable, "-c", script, str(project.folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "same logits of shape (1, " in process.stdout, process.stderr


def provenance_by_label(project: Project) -> dict[str, object]:
    return {label: artifact.provenance for label, artifact in project.artifacts().items()}


def test_a_second_run_reuses_all_artifacts(finished: tuple[Project, str]) -> None:
    project, _ = finished
    before = provenance_by_label(project)
    status, output = project.run("run", "--recipe", "tiny")
    assert status == 0, output
    assert provenance_by_label(project) == before
    assert not re.findall(r"✓ (?:train|prepare|validate|build) .* \d+\.\d s", output)
    assert len(re.findall(r"✓ train \w+ +reused", output)) == len(STAGES)
    assert "already champion" in output


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_run_killed_three_times_has_the_same_digests(
    finished: tuple[Project, str], tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    uninterrupted, _ = finished
    project = Project(tmp_path / "project", fixture_archives)

    def has_trained_three_steps() -> bool:
        logs = list(
            (project.folder / "var/store/.building/checkpoint").glob(
                "*-multi-*/observed/metrics.jsonl"
            )
        )
        return bool(logs) and len(logs[0].read_text().splitlines()) >= 3

    for condition in (
        lambda: project.is_building("prepared-corpus"),
        has_trained_three_steps,
        lambda: project.is_building("evaluation"),
    ):
        project.run_until_killed(condition, "run", "--recipe", "tiny")
    status, output = project.run("run", "--recipe", "tiny")
    assert status == 0, output
    assert _digests(project) == _digests(uninterrupted)
    assert not [
        path for path in (project.folder / "var/store/.building").glob("*/*") if path.is_dir()
    ]


def _digests(project: Project) -> dict[str, str]:
    """Return the digests by label; a label also identifies the digests of the parents."""
    return {label: artifact.digest for label, artifact in project.artifacts().items()}


def test_mlflow_runs_of_steps_are_children_of_their_flow(finished: tuple[Project, str]) -> None:
    project, _ = finished
    script = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db")
runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
names = {run.info.run_id: run.info.run_name for run in runs}
rows = []
for run in runs:
    parent = names.get(run.data.tags.get("mlflow.parentRunId"))
    rows.append([run.info.run_name, run.info.status, parent])
print(json.dumps(rows))
"""
    process = subprocess.run(
        [sys.executable, "-c", script, str(project.folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    runs = json.loads(process.stdout.splitlines()[-1])
    assert {status for _, status, _ in runs} == {"FINISHED"}
    parents = {name: parent for name, _, parent in runs}
    checkpoint = next(
        artifact
        for artifact in project.store.list_artifacts()
        if artifact.name == "codegen-tiny-multi"
    )
    assert parents[f"train multi {checkpoint.recipe_hash[:6]}"] == "train"
    assert parents["train"] == "pipeline codegen-tiny"
    assert parents["pipeline codegen-tiny"] is None


def test_training_starts_from_a_registered_model(
    finished: tuple[Project, str],
) -> None:
    """Only the last stage, from the registered Multi model: its checkpoint exists and is reused."""
    project, _ = finished
    before = _digests(project)
    sets = (
        "--set",
        "training.start_stage=mono",
        "--set",
        "training.init_from=codegen-tiny-multi@champion",
    )
    status, output = project.run("run", "--recipe", "tiny", *sets)
    assert status == 0, output
    assert re.findall(r"✓ train (\w+) +reused", output) == ["mono"]
    assert _digests(project) == before
    page = " ".join((project.folder / "var/report.txt").read_text().split())
    assert "the first stage starts from codegen-tiny-multi." in page
    assert "It is the only stage, so there is no comparison." in page
    assert "Mono, HumanEval/0, at" in (project.folder / "var/samples.html").read_text()


@pytest.mark.nightly
def test_the_commands_and_queries_of_the_reviewing_page_work(finished: tuple[Project, str]) -> None:
    """Every command of docs/reviewing.md succeeds, and every query has results."""
    project, _ = finished
    page = (Path(__file__).parents[2] / "docs/reviewing.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    commands = [line for language, block in blocks for line in block.splitlines() if not language]
    queries = [
        line for language, block in blocks for line in block.splitlines() if language == "sql"
    ]
    assert len(commands) == 6
    for command in commands:
        if command == "codegen ui":
            _open_ui(project)
        else:
            status, output = project.run(*command.removeprefix("codegen ").split())
            assert status == 0, output
    assert "codegen-tiny-mono/2" in project.run("models", "list")[1]
    for query in queries:
        if not (
            "git_dirty" in query and provenance()["git_dirty"]
        ):  # No run of a dirty work tree is clean.
            assert _count_runs(project, query), query


def _open_ui(project: Project) -> None:
    """Run `codegen ui` until it prints its addresses, after both servers are healthy."""
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    process = project.start("ui", *ports)
    try:
        assert process.stdout
        assert any(f"http://127.0.0.1:{ports[3]}" in line for line in process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def _count_runs(project: Project, query: str) -> int:
    script = """
import sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db")
print(len(client.search_runs([e.experiment_id for e in client.search_experiments()], sys.argv[2])))
"""
    command = [sys.executable, "-c", script, str(project.folder), query]
    return int(
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=100
        ).stdout.splitlines()[-1]
    )
