"""The whole pipeline on small archives without network: uninterrupted, and killed three times.

Each run is a process with its own project folder, DVC repository, SQLite files, Prefect home.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
import torch
from fixtures.prefect_stack import start_codegen
from fixtures.processes import kill_process_tree_when
from fixtures.projects import new_project
from mlflow import MlflowClient
from mlflow.entities import Run
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.core.artifact import Artifact
from components.core.network import free_port
from components.core.provenance import provenance
from components.core.store import Store
from components.registry.tracking import Tracking
from components.registry.versions import download

if TYPE_CHECKING:
    from conftest import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(600)]

STAGES = ("nl", "multi", "mono")
OWN_BENCHMARK = (
    '{"task_id": "own/1", "prompt": "def one():\\n", "entry_point": "one", '
    '"test": "def check(candidate):\\n    assert candidate() == 1\\n"}\n'
)
_SHA256 = hashlib.sha256(OWN_BENCHMARK.encode()).hexdigest()
RUN = (
    *("run", "--recipe", "tiny", "--exec", "training.world_size=1"),
    *("--set", f'benchmarks.own={{"sha256": "{_SHA256}", "search": false}}'),
)
"""A rank and, by `OMP_NUM_THREADS`, a sampling process: each needs seconds to import PyTorch."""


class Project:
    """A new project folder, and the command line in it."""

    def __init__(self, folder: Path, archives: FixtureArchives) -> None:
        self.folder, self.archives = folder, archives
        new_project(folder)
        (folder / "own.jsonl").write_text(OWN_BENCHMARK)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `codegen ...` in a new session."""
        mtpb = os.environ.get("CODEGEN_MTPB")
        variables = {"CODEGEN_MTPB": str(Path(mtpb).resolve())} if mtpb else {}
        variables["OMP_NUM_THREADS"] = "1"
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
    def pipeline(self) -> tuple[str, ...]:
        """`RUN` with the file of the own benchmark."""
        return (*RUN, "--exec", f"benchmark_files.own={self.folder / 'own.jsonl'}")

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
    status, output = project.run(*project.pipeline)
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
        for benchmark in ("bits-per-byte", "humaneval", "own")
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
    finished: tuple[Project, str], tmp_path: Path
) -> None:
    project, _ = finished
    champion = "models:/codegen-tiny-mono@champion"
    mlflow_folder = project.folder / "var/mlflow"
    uri = f"sqlite:///{mlflow_folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)  # A flow that another test ran in this process sets it, too.
    pipe = mlflow.transformers.load_model(champion)
    folder = download(Tracking(uri, mlflow_folder / "artifacts"), champion, tmp_path / "pulled")
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = AutoTokenizer.from_pretrained(folder)("def f(x):", return_tensors="pt")
    with torch.no_grad():
        logits = model(**prompt).logits
        assert torch.equal(pipe.model(**prompt).logits, logits)
    assert len(logits) == 1


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
        project.run_until_killed(condition, *project.pipeline)
    status, output = project.run(*project.pipeline)
    assert status == 0, output
    assert _digests(project) == _digests(uninterrupted)
    assert not [
        path for path in (project.folder / "var/store/.building").glob("*/*") if path.is_dir()
    ]


def _digests(project: Project) -> dict[str, str]:
    """Return the digests by label; a label also identifies the digests of the parents."""
    return {label: artifact.digest for label, artifact in project.artifacts().items()}


def mlflow_runs(project: Project, query: str = "") -> list[Run]:
    """Return the MLflow runs that match a query."""
    client = MlflowClient(f"sqlite:///{project.folder}/var/mlflow/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, query))


def test_mlflow_runs_of_steps_are_children_of_their_flow(finished: tuple[Project, str]) -> None:
    project, _ = finished
    runs = mlflow_runs(project)
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = {run.info.run_id: run.info.run_name for run in runs}
    parents = {
        run.info.run_name: names.get(run.data.tags.get("mlflow.parentRunId")) for run in runs
    }
    checkpoint = next(
        artifact
        for artifact in project.store.list_artifacts()
        if artifact.name == "codegen-tiny-multi"
    )
    assert parents[f"train multi {checkpoint.recipe_hash[:6]}"] == "train"
    assert parents["train"] == "pipeline codegen-tiny"
    assert parents["pipeline codegen-tiny"] is None


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
            assert mlflow_runs(project, query), query


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
