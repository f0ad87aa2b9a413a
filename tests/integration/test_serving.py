"""Served flows with real servers: schedules, cancellation, resume, notifications and approval."""

from __future__ import annotations

import copy
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
from fixtures.prefect_stack import FINAL_STATES, Stack, auth_header, running_stack
from fixtures.sinks import mail_sink, webhook_sink

from components.core.artifact import Artifact
from components.core.files import read_jsonl
from components.core.store import Store

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("served") / "project"
    with running_stack(folder, fixture_archives, "--cron", "refresh-data=* * * * *") as stack:
        yield stack


@pytest.fixture(scope="module")
def scheduled_run(project: Stack) -> str:
    """The id of a completed run that the schedule started."""
    flow_filter = {"name": {"any_": ["refresh-data"]}}

    def first_scheduled() -> str | None:
        runs = project.call(
            "/flow_runs/filter",
            {"flows": flow_filter, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}},
        )
        return next((str(run["id"]) for run in runs if run["auto_scheduled"]), None)

    run = project.until(first_scheduled)
    deployment = project.call("/deployments/name/refresh-data/tiny")
    project.call(f"/deployments/{deployment['id']}/pause_deployment", {})
    return run


@pytest.fixture(scope="module")
def pipeline_run(project: Stack, scheduled_run: str) -> str:
    """The id of a completed run of the pipeline, started like the UI does."""
    run = project.run("pipeline/tiny")
    assert project.end_of(run)["type"] == "COMPLETED", project.log.read_text()
    return run


def test_an_active_schedule_starts_runs(project: Stack, scheduled_run: str) -> None:
    assert "prepare mono" in project.tasks_of(scheduled_run)
    run = project.call(f"/flow_runs/{scheduled_run}")
    assert run["name"] == "refresh data of codegen-tiny"


def test_a_later_run_reuses_artifacts_and_shows_it(project: Stack, pipeline_run: str) -> None:
    states = project.tasks_of(pipeline_run)
    assert states["prepare mono"] == "Cached"
    assert states["train mono"] == "Completed"


def test_a_run_has_tables_losses_scores_and_an_mlflow_link(
    project: Stack, pipeline_run: str
) -> None:
    artifacts = project.artifacts()
    assert "| Multi · Go |" in artifacts["codegen-tiny-corpora"]["data"]
    assert "| yes |" in artifacts["codegen-tiny-rules-raw-corpora"]["data"]
    assert "| yes |" in artifacts["codegen-tiny-rules-prepared-shards"]["data"]
    assert "data:image/svg+xml;base64," in artifacts["codegen-tiny-training"]["data"]
    assert "pass@1" in artifacts["codegen-tiny-scores"]["data"]
    assert "bits per byte" in artifacts["codegen-tiny-scores"]["data"].lower()
    link = re.search(
        r"\((http://127.0.0.1:\d+)/#/experiments/(\d+)/runs/(\w+)\)",
        artifacts["codegen-tiny-mlflow"]["data"],
    )
    assert link
    address = f"http://127.0.0.1:{project.ports[1]}/api/2.0/mlflow/runs/get?run_id={link[3]}"
    assert link[1] == f"http://127.0.0.1:{project.ports[1]}"
    request = urllib.request.Request(address, headers=auth_header(project.credentials))
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert json.load(answer)["run"]["info"]["experiment_id"] == link[2]


def test_progress_artifacts_reach_100_percent(project: Stack, pipeline_run: str) -> None:
    bars = project.call(
        "/artifacts/filter", {"artifacts": {"key": {"like_": "codegen-tiny-train-"}}}
    )
    assert {bar["key"].rsplit("-", 1)[1]: float(bar["data"]) for bar in bars} == {
        "nl": 100,
        "multi": 100,
        "mono": 100,
    }


def test_the_command_line_uses_the_same_server_and_store(project: Stack, pipeline_run: str) -> None:
    def num_command_line_runs() -> int:
        runs = project.call("/flow_runs/filter", {"flows": {"name": {"any_": ["pipeline"]}}})
        return sum(
            run["deployment_id"] is None and run["state_name"] == "Completed" for run in runs
        )

    assert num_command_line_runs() == 0
    before = artifacts(project)
    output = project.command("run", "-r", "tiny")
    assert artifacts(project) == before, "a second run reuses all artifacts"
    assert not re.findall(r"✓ (?:train|prepare|validate|build) .* \d+\.\d s", output)
    assert len(re.findall(r"✓ train \w+ +reused", output)) == 3
    assert "already champion" in output
    assert num_command_line_runs() == 1


def artifacts(project: Stack) -> dict[str, Artifact]:
    """Return the artifacts of the store by label, with their provenance."""
    store = Store(project.folder / "var/store")
    return {artifact.label: artifact for artifact in store.list_artifacts()}


def test_training_starts_from_a_registered_model(project: Stack, pipeline_run: str) -> None:
    """Only the last stage, from the registered Multi model: its checkpoint exists and is reused."""
    before = artifacts(project)
    start = ("training.start_stage=mono", "training.init_from=codegen-tiny-multi@champion")
    sets = (word for field in start for word in ("--set", field))
    output = project.command("run", "-r", "tiny", *sets)
    assert re.findall(r"✓ train (\w+) +reused", output) == ["mono"]
    assert artifacts(project) == before
    page = " ".join((project.folder / "var/report.txt").read_text().split())
    assert "the first stage starts from codegen-tiny-multi." in page
    assert "It is the only stage, so there is no comparison." in page
    assert "Mono, HumanEval/0, at" in (project.folder / "var/samples.html").read_text()


def test_a_cancelled_training_ends_all_its_processes_and_resumes_later(
    project: Stack, pipeline_run: str
) -> None:
    recipe = copy.deepcopy(project.parameters("train-stage/tiny")["recipe"])
    recipe["name"] = "codegen-cancelled"
    recipe["training"]["stages"]["nl"] |= {"steps": 400, "decay_steps": 390}
    execution: dict[str, Any] = copy.deepcopy(project.parameters("train-stage/tiny")["execution"])
    execution["training"]["checkpoint_every_steps"] = 5
    parameters = {"recipe": recipe, "execution": execution, "stage": "nl"}
    building = project.folder / "var/store/.building/checkpoint"

    def num_steps() -> int:
        return sum(
            sum(1 for _ in read_jsonl(path))
            for path in building.glob("codegen-cancelled-nl-*/observed/metrics.jsonl")
        )

    run = project.run("train-stage/tiny", **parameters)
    project.until(lambda: num_steps() >= 12)
    assert project.trainers()
    project.call(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert project.end_of(run)["type"] == "CANCELLED"
    assert not project.trainers()
    assert 12 <= num_steps() < 400

    again = project.run("train-stage/tiny", **parameters)
    assert project.end_of(again)["type"] == "COMPLETED"
    checkpoint = next(
        artifact
        for artifact in Store(project.folder / "var/store").list_artifacts()
        if artifact.name == "codegen-cancelled-nl"
    )
    attempts = checkpoint.provenance["attempts"]
    assert isinstance(attempts, list)
    assert len(attempts) == 2
    assert checkpoint.statistics["steps"] == 400
    metrics = read_jsonl(Path(checkpoint.address) / "observed/metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 401))


def test_two_concurrent_runs_build_an_artifact_once(project: Stack, pipeline_run: str) -> None:
    recipe = copy.deepcopy(project.parameters("train-stage/tiny")["recipe"]) | {
        "name": "codegen-twice"
    }
    execution = project.parameters("pipeline/tiny")["execution"]
    # Two deployments, since the runs of train-stage are serialized.
    first = project.run("train-stage/tiny", recipe=recipe, execution=execution, stage="nl")
    second = project.run("pipeline/tiny", recipe=recipe, execution=execution)
    assert [project.end_of(run)["type"] for run in (first, second)] == ["COMPLETED", "COMPLETED"]
    states = sorted(project.tasks_of(run)["train nl"] for run in (first, second))
    assert states == ["Cached", "Completed"]


def test_a_failed_run_sends_notifications_by_webhook_and_mail(
    project: Stack, pipeline_run: str
) -> None:
    with webhook_sink() as (web, posts), mail_sink() as (smtp, mails):
        hook = f"http://127.0.0.1:{web}/hook"
        output = project.command("notifications", "add", hook, "--on", "failed")
        assert "codegen: failed -> http://127.0.0.1" in output
        project.command(
            "notifications",
            "add",
            f"mailto://127.0.0.1:{smtp}?from=a@example.org&to=b@example.org",
            "--on",
            "failed",
        )
        execution = project.parameters("evaluate-model/tiny")["execution"]
        run = project.run("evaluate-model/tiny", model="absent@champion", execution=execution)
        assert project.end_of(run)["type"] == "FAILED"
        post = posts.get(timeout=300)
        assert post["subject"] == "evaluate absent@champion: Failed"
        assert run in post["body"]
        assert "Subject: evaluate absent@champion: Failed" in mails.get(timeout=300)


def test_serve_prints_addresses_and_deployments(project: Stack) -> None:
    log = project.log.read_text()
    assert f"http://127.0.0.1:{project.ports[0]}" in log
    assert "serving  pipeline/tiny" in log
    assert (
        json.loads((project.folder / "var/servers.json").read_text())["pid"] == project.process.pid
    )


def test_a_reviewer_approves_rejects_and_rolls_back(project: Stack, pipeline_run: str) -> None:
    """Another training step creates a new version of each model; each waits for an answer."""
    recipe = copy.deepcopy(project.parameters("pipeline/tiny")["recipe"])
    recipe["training"]["stages"]["nl"]["steps"] += 1
    any_model_passes = [
        {"metrics": ["bits_per_byte/mono/Python"], "better": "lower", "min_gain": -100.0}
    ]
    recipe["promotion"] |= {
        "approval": "manual",
        "requirements": dict.fromkeys(("nl", "multi", "mono"), any_model_passes),
    }

    def champion() -> int:
        output = project.command("models", "show", "codegen-tiny-mono@champion", "--json")
        return int(json.loads(output)["version"])

    assert champion() == 1
    answers = iter([True, False, True])
    paused = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}

    def waiting_run_or_end(run: str) -> Any:
        """Return True if the run has ended, or the child run that waits for approval, or None."""
        if project.state(run)["type"] in FINAL_STATES:
            return True
        for child in project.call("/flow_runs/filter", paused):
            question = child["state"]["state_details"]["run_input_keyset"]["description"]
            with suppress(HTTPError):  # Written shortly after the pause; earlier answers fail.
                project.call(f"/flow_runs/{child['id']}/input/{question}")
                return child
        return None

    with webhook_sink() as (web, posts):
        options = ["--on", "approval", "--on", "promoted", "--on", "refused"]
        project.command("notifications", "add", f"http://127.0.0.1:{web}/hook", *options)
        run = project.run("pipeline/tiny", recipe=recipe)
        while (waiting := project.until(lambda: waiting_run_or_end(run))) is not True:
            answer = {"approve": next(answers), "name": "Ada", "reason": "a reason"}
            resumed = project.call(f"/flow_runs/{waiting['id']}/resume", {"run_input": answer})
            assert resumed["status"] == "ACCEPT", resumed
            project.until(lambda run=waiting: project.state(run["id"])["id"] != run["state"]["id"])
        assert project.end_of(run)["type"] == "COMPLETED", project.log.read_text()
        subjects = sorted(posts.get(timeout=300)["subject"].split(" (")[0] for _ in range(6))
        rollback = project.run("rollback/tiny", model="codegen-tiny-nl", reason="a reason")
        assert project.end_of(rollback)["type"] == "COMPLETED", project.log.read_text()
        assert posts.get(timeout=300)["subject"] == "codegen-tiny-nl version 1: rolled back"
    outcomes = {"nl": "promoted", "multi": "refused", "mono": "promoted"}
    versions = [f"codegen-tiny-{stage} version 2: {text}" for stage, text in outcomes.items()]
    assert subjects == sorted([*versions, *["promote codegen-tiny waits for approval"] * 3])
    comparison = project.artifacts()["codegen-tiny-mono-promotion"]["data"]
    assert "# codegen-tiny-mono: version 2" in comparison.replace("\\", "")

    assert champion() == 2
    project.command("models", "rollback", "codegen-tiny-mono", "--reason", "worse at comments")
    assert champion() == 1
    history = json.loads(project.command("models", "history", "codegen-tiny-mono", "--json"))
    decisions = [
        record for record in history if record["decision"]["outcome"] != "already_champion"
    ]
    outcomes_of_mono = [record["decision"]["outcome"] for record in decisions]
    assert outcomes_of_mono == ["promoted", "promoted", "rolled_back"]
    assert decisions[1]["decided_by"].startswith("Ada")
