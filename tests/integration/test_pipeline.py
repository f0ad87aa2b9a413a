"""The whole chain as a user runs it, on small archives and without network: once undisturbed, once killed three times.

Both runs happen in processes of their own, with their own project folder, DVC repository, SQLite files and Prefect home.
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
    """A project folder of its own, and the command line in it."""

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
        """Start `codegen ...` in a session of its own."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
        }
        places = [f"project={self.folder}", f"pins={self.archives.folder / 'pins.json'}"]
        environment |= {"CODEGEN_ARCHIVES": str(self.archives.folder), "COLUMNS": "200"}
        if mtpb := os.environ.get("CODEGEN_MTPB"):
            environment["CODEGEN_MTPB"] = str(Path(mtpb).resolve())
        command = [
            sys.executable,
            "-m",
            "flows.cli.main",
            *arguments,
            *(item for place in places for item in ("--exec", place)),
        ]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run `codegen ...` to its end; its exit status and what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=400)
        return process.returncode, output

    def run_until_killed(self, moment: Callable[[], bool], *arguments: str) -> None:
        """Run `codegen ...` and `kill -9` its whole process tree as soon as `moment` has come."""
        kill_process_tree_when(self.start(*arguments), moment)

    @property
    def store(self) -> Store:
        return Store(self.folder / "var/store")

    def artifacts(self) -> dict[str, Artifact]:
        return {one.label: one for one in self.store.list_artifacts()}

    def building(self, kind: str) -> bool:
        """Whether an artifact of a kind is being built right now."""
        return any(path.is_dir() for path in (self.folder / "var/store/.building" / kind).glob("*"))


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> tuple[Project, str]:
    """A project in which `codegen run` went through undisturbed, and what it printed."""
    project = Project(tmp_path_factory.mktemp("finished") / "project", fixture_archives)
    status, output = project.run("run", "--recipe", "tiny")
    assert status == 0, output
    return project, output


def test_every_step_published_its_artifact(finished: tuple[Project, str]) -> None:
    project, output = finished
    made = {f"{one.kind}/{one.name}" for one in project.store.list_artifacts()}
    expected = {"validation/raw", "validation/prepared", "tokenizer/gpt2-500"}
    expected |= {f"prepared-corpus/{stage}" for stage in STAGES}
    expected |= {f"checkpoint/codegen-tiny-{stage}" for stage in STAGES}
    expected |= {
        f"evaluation/codegen-tiny-{stage}-{one}"
        for stage in STAGES
        for one in ("bits-per-byte", "humaneval")
    }
    assert expected <= made
    assert ("evaluation/codegen-tiny-mono-mtpb" in made) == bool(os.environ.get("CODEGEN_MTPB"))
    assert 'href="samples.html"' in (project.folder / "var/report.html").read_text()
    samples = (project.folder / "var/samples.html").read_text()
    assert all(f"{name}, HumanEval/0, at" in samples for name in ("NL", "Multi", "Mono"))
    assert "codegen ui" in output


def test_each_stage_starts_from_the_last_ones_weights(finished: tuple[Project, str]) -> None:
    project, _ = finished
    checkpoints = {
        one.name.rsplit("-", 1)[1]: one
        for one in project.store.list_artifacts()
        if one.kind == "checkpoint"
    }
    parents = {
        stage: {parent.role: parent.digest for parent in one.parents}
        for stage, one in checkpoints.items()
    }
    assert "initial" not in parents["nl"]
    assert parents["multi"]["initial"] == checkpoints["nl"].digest
    assert parents["mono"]["initial"] == checkpoints["multi"].digest


def test_every_figure_leads_back_to_the_raw_corpora(finished: tuple[Project, str]) -> None:
    project, _ = finished
    evaluation = next(
        one
        for one in project.store.list_artifacts()
        if one.name == "codegen-tiny-mono-bits-per-byte"
    )
    roots = {
        parent.name
        for one in project.store.lineage(evaluation)
        for parent in one.parents
        if parent.kind == "raw-corpus"
    }
    assert roots == {"nl", "multi", "mono", "vocabulary"}


def test_the_dataset_card_lies_in_the_workspace_and_in_mlflow(
    finished: tuple[Project, str],
) -> None:
    project, _ = finished
    card = (project.folder / "var/dataset-card.md").read_text()
    kept = [
        path.read_text()
        for path in (project.folder / "var/mlflow/artifacts").rglob("dataset-card.md")
    ]
    assert set(kept) == {card}
    assert project.run("data", "card", "--recipe", "tiny") == (0, card)
    assert all(
        one.digest in card
        for one in project.store.list_artifacts()
        if one.kind == "prepared-corpus"
    )


def test_the_champion_loads_in_both_ways(finished: tuple[Project, str]) -> None:
    project, _ = finished
    script = """
import sys, mlflow, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db")
pipe = mlflow.transformers.load_model("models:/codegen-tiny-mono@champion")
from components.registry.tracking import Tracking
from components.registry.versions import download
tracking = Tracking(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db", Path(sys.argv[1]) / "var/mlflow/artifacts")
folder = download(tracking, "models:/codegen-tiny-mono@champion", Path(sys.argv[1]) / "pulled")
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = tokenizer("def f(x):", return_tensors="pt")
with torch.no_grad():
    assert torch.equal(pipe.model(**prompt).logits, model(**prompt).logits)
print("same logits of shape", tuple(model(**prompt).logits.shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(project.folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "same logits of shape (1, " in done.stdout, done.stderr


def test_a_second_run_makes_nothing_anew_and_says_so(finished: tuple[Project, str]) -> None:
    project, _ = finished
    before = {label: one.provenance for label, one in project.artifacts().items()}
    status, output = project.run("run", "--recipe", "tiny")
    assert status == 0, output
    assert {label: one.provenance for label, one in project.artifacts().items()} == before
    assert not re.findall(r"✓ (?:train|prepare|validate|build) .* \d+\.\d s", output)
    assert len(re.findall(r"✓ train \w+ +reused", output)) == len(STAGES)
    assert "already champion" in output


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_killed_three_times_it_ends_with_the_same_digests(
    finished: tuple[Project, str], tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    undisturbed, _ = finished
    project = Project(tmp_path / "project", fixture_archives)

    def three_steps_trained() -> bool:
        logs = list(
            (project.folder / "var/store/.building/checkpoint").glob(
                "*-multi-*/observed/metrics.jsonl"
            )
        )
        return bool(logs) and len(logs[0].read_text().splitlines()) >= 3

    for moment in (
        lambda: project.building("prepared-corpus"),
        three_steps_trained,
        lambda: project.building("evaluation"),
    ):
        project.run_until_killed(moment, "run", "--recipe", "tiny")
    status, output = project.run("run", "--recipe", "tiny")
    assert status == 0, output
    assert _digests(project) == _digests(undisturbed)
    assert not [
        path for path in (project.folder / "var/store/.building").glob("*/*") if path.is_dir()
    ]


def _digests(project: Project) -> dict[str, str]:
    """Shards, tokenizer, weights and measurements by label: the label holds the parents' digests as well."""
    return {label: one.digest for label, one in project.artifacts().items()}


def test_mlflow_shows_the_steps_below_their_flow(finished: tuple[Project, str]) -> None:
    project, _ = finished
    script = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db")
runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
names = {run.info.run_id: run.info.run_name for run in runs}
print(json.dumps([[run.info.run_name, run.info.status, names.get(run.data.tags.get("mlflow.parentRunId"))] for run in runs]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(project.folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    runs = json.loads(done.stdout.splitlines()[-1])
    assert {status for _, status, _ in runs} == {"FINISHED"}
    parents = {name: parent for name, _, parent in runs}
    trained = next(
        one for one in project.store.list_artifacts() if one.name == "codegen-tiny-multi"
    )
    assert parents[f"train multi {trained.recipe_hash[:6]}"] == "train"
    assert parents["train"] == "pipeline codegen-tiny"
    assert parents["pipeline codegen-tiny"] is None


def test_a_registered_model_of_another_recipe_is_gone_on_with(
    finished: tuple[Project, str],
) -> None:
    """The last stage alone, from what is registered as Multi: the very same stage, so that it is found and not trained."""
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
def test_the_page_on_reviewing_is_true(finished: tuple[Project, str]) -> None:
    """Every command of docs/reviewing.md is run as it stands there, and every search finds something."""
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
            _look(project)
        else:
            status, output = project.run(*command.removeprefix("codegen ").split())
            assert status == 0, output
    assert "codegen-tiny-mono/2" in project.run("models", "list")[1]
    for query in queries:
        if not (
            "git_dirty" in query and provenance()["git_dirty"]
        ):  # While this is worked on, no run is clean.
            assert _num_found(project, query), query


def _look(project: Project) -> None:
    """`codegen ui` until it has told its addresses, which it does when both servers answer."""
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    process = project.start("ui", *ports)
    try:
        assert process.stdout
        assert any(f"http://127.0.0.1:{ports[3]}" in line for line in process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def _num_found(project: Project, query: str) -> int:
    script = """
import sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/var/mlflow/mlflow.db")
print(len(client.search_runs([one.experiment_id for one in client.search_experiments()], sys.argv[2])))
"""
    command = [sys.executable, "-c", script, str(project.folder), query]
    return int(
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=100
        ).stdout.splitlines()[-1]
    )
