"""Flows as a team lives with them: served, scheduled, cancelled, resumed and told of, with real servers."""

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
from fixtures.prefect_stack import ENDS, Served, served, signed_in
from fixtures.sinks import mail_receiver, web_receiver

from components.core.files import read_jsonl
from components.core.store import Store

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.apart, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served") / "project"
    with served(folder, fixture_archives, "--cron", "refresh-data=* * * * *") as one:
        yield one


@pytest.fixture(scope="module")
def scheduled(project: Served) -> str:
    """A run that nobody asked for: its id, once it has ended well."""
    name = {"name": {"any_": ["refresh-data"]}}

    def first() -> str | None:
        runs = project.call(
            "/flow_runs/filter",
            {"flows": name, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}},
        )
        return next((str(one["id"]) for one in runs if one["auto_scheduled"]), None)

    found = project.until(first)
    deployment = project.call("/deployments/name/refresh-data/tiny")
    project.call(f"/deployments/{deployment['id']}/pause_deployment", {})
    return found


@pytest.fixture(scope="module")
def whole(project: Served, scheduled: str) -> str:
    """A run of the whole pipeline that was asked for as on the page, once it has ended well."""
    run = project.run("pipeline/tiny")
    assert project.end_of(run)["type"] == "COMPLETED", project.log.read_text()
    return run


def test_a_schedule_runs_by_itself(project: Served, scheduled: str) -> None:
    assert "prepare mono" in project.tasks_of(scheduled)
    assert project.call(f"/flow_runs/{scheduled}")["name"] == "refresh the data of codegen-tiny"


def test_what_the_schedule_made_is_reused_and_shown_as_such(project: Served, whole: str) -> None:
    states = project.tasks_of(whole)
    assert states["prepare mono"] == "Cached"
    assert states["train mono"] == "Completed"


def test_a_run_shows_tables_losses_scores_and_the_way_to_mlflow(
    project: Served, whole: str
) -> None:
    shown = project.artifacts()
    assert "| Multi · Go |" in shown["codegen-tiny-corpora"]["data"]
    assert "| yes |" in shown["codegen-tiny-rules-raw-corpora"]["data"]
    assert "| yes |" in shown["codegen-tiny-rules-prepared-shards"]["data"]
    assert "data:image/svg+xml;base64," in shown["codegen-tiny-training"]["data"]
    assert "pass@1" in shown["codegen-tiny-scores"]["data"]
    assert "bits per byte" in shown["codegen-tiny-scores"]["data"].lower()
    link = re.search(
        r"\((http://127.0.0.1:\d+)/#/experiments/(\d+)/runs/(\w+)\)",
        shown["codegen-tiny-mlflow"]["data"],
    )
    assert link
    address = f"http://127.0.0.1:{project.ports[1]}/api/2.0/mlflow/runs/get?run_id={link[3]}"
    assert link[1] == f"http://127.0.0.1:{project.ports[1]}"
    request = urllib.request.Request(address, headers=signed_in(project.credentials))
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert json.load(answer)["run"]["info"]["experiment_id"] == link[2]


def test_progress_reaches_the_end_on_the_page(project: Served, whole: str) -> None:
    bars = project.call(
        "/artifacts/filter", {"artifacts": {"key": {"like_": "codegen-tiny-train-"}}}
    )
    assert {one["key"].rsplit("-", 1)[1]: float(one["data"]) for one in bars} == {
        "nl": 100,
        "multi": 100,
        "mono": 100,
    }


def test_the_command_line_uses_the_same_server_and_the_same_things(
    project: Served, whole: str
) -> None:
    def runs() -> int:
        found = project.call("/flow_runs/filter", {"flows": {"name": {"any_": ["pipeline"]}}})
        return sum(
            one["deployment_id"] is None and one["state_name"] == "Completed" for one in found
        )

    assert runs() == 0
    printed = project.command("run", "-r", "tiny")
    assert "✓ train mono" in printed
    assert re.search(r"train mono +reused", printed)
    assert runs() == 1


def test_a_cancelled_training_ends_with_all_its_processes_and_goes_on_later(
    project: Served, whole: str
) -> None:
    recipe = copy.deepcopy(project.parameters("train-stage/tiny")["recipe"])
    recipe["name"] = "codegen-cancelled"
    recipe["training"]["stages"]["nl"] |= {"steps": 400, "decay_steps": 390}
    execution: dict[str, Any] = copy.deepcopy(project.parameters("train-stage/tiny")["execution"])
    execution["training"]["checkpoint_every_steps"] = 5
    asked = {"recipe": recipe, "execution": execution, "stage": "nl"}
    building = project.folder / "var/store/.building/checkpoint"

    def steps() -> int:
        return sum(
            sum(1 for _ in read_jsonl(one))
            for one in building.glob("codegen-cancelled-nl-*/observed/metrics.jsonl")
        )

    run = project.run("train-stage/tiny", **asked)
    project.until(lambda: steps() >= 12)
    assert project.trainers()
    project.call(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert project.end_of(run)["type"] == "CANCELLED"
    assert not project.trainers()
    done = steps()
    assert 12 <= done < 400

    again = project.run("train-stage/tiny", **asked)
    assert project.end_of(again)["type"] == "COMPLETED"
    made = next(
        one
        for one in Store(project.folder / "var/store").list_artifacts()
        if one.name == "codegen-cancelled-nl"
    )
    attempts = made.provenance["attempts"]
    assert isinstance(attempts, list)
    assert len(attempts) == 2
    assert made.statistics["steps"] == 400
    resumed = [one["step"] for one in read_jsonl(Path(made.address) / "observed/metrics.jsonl")]
    assert resumed == list(range(1, 401))


def test_two_runs_that_build_the_same_thing_build_it_once(project: Served, whole: str) -> None:
    recipe = copy.deepcopy(project.parameters("train-stage/tiny")["recipe"]) | {
        "name": "codegen-twice"
    }
    place = project.parameters("pipeline/tiny")["execution"]
    # Of two deployments: one of them alone would run them one after the other.
    first = project.run("train-stage/tiny", recipe=recipe, execution=place, stage="nl")
    second = project.run("pipeline/tiny", recipe=recipe, execution=place)
    assert [project.end_of(run)["type"] for run in (first, second)] == ["COMPLETED", "COMPLETED"]
    states = sorted(project.tasks_of(run)["train nl"] for run in (first, second))
    assert states == ["Completed", "Cached"]


def test_who_wants_to_know_is_told_that_a_run_failed(project: Served, whole: str) -> None:
    with web_receiver() as (web, posts), mail_receiver() as (smtp, mails):
        printed = project.command("notify", f"http://127.0.0.1:{web}/hook", "--on", "failed")
        assert "codegen: failed -> http://127.0.0.1" in printed
        project.command(
            "notify",
            f"mailto://127.0.0.1:{smtp}?from=a@example.org&to=b@example.org",
            "--on",
            "failed",
        )
        execution = project.parameters("evaluate-model/tiny")["execution"]
        run = project.run("evaluate-model/tiny", model="nobody-knows@this", execution=execution)
        assert project.end_of(run)["type"] == "FAILED"
        told = posts.get(timeout=300)
        assert told["subject"] == "evaluate nobody-knows@this: Failed"
        assert run in told["body"]
        assert "Subject: evaluate nobody-knows@this: Failed" in mails.get(timeout=300)


def test_it_says_what_it_offers_and_where(project: Served) -> None:
    said = project.log.read_text()
    assert f"http://127.0.0.1:{project.ports[0]}" in said
    assert "offers   pipeline/tiny" in said
    assert (
        json.loads((project.folder / "var/servers.json").read_text())["pid"] == project.process.pid
    )


def test_a_person_is_asked_approves_and_takes_it_back(project: Served, whole: str) -> None:
    """A step more makes another version of each model; each waits for a word, and what that was is told."""
    recipe = copy.deepcopy(project.parameters("pipeline/tiny")["recipe"])
    recipe["training"]["stages"]["nl"]["steps"] += 1
    anything = [{"metrics": ["bits_per_byte/mono/Python"], "better": "lower", "min_gain": -100.0}]
    recipe["promotion"] |= {
        "approval": "person",
        "requirements": dict.fromkeys(("nl", "multi", "mono"), anything),
    }
    champion = json.loads(
        project.command("models", "show", "codegen-tiny-mono@champion", "--json")
    )["version"]
    words = iter([True, False, True])
    paused = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}

    def asks_or_ended(run: str) -> Any:
        """Whether the run has ended, or else the run below it whose question is on the page: a moment after it paused."""
        if project.state(run)["type"] in ENDS:
            return True
        for one in project.call("/flow_runs/filter", paused):
            question = one["state"]["state_details"]["run_input_keyset"]["description"]
            with suppress(HTTPError):  # Not there yet; an answer to it would be refused.
                project.call(f"/flow_runs/{one['id']}/input/{question}")
                return one
        return None

    with web_receiver() as (web, posts):
        occasions = [word for one in ("approval", "promoted", "refused") for word in ("--on", one)]
        project.command("notify", f"http://127.0.0.1:{web}/hook", *occasions)
        run = project.run("pipeline/tiny", recipe=recipe)
        while (waiting := project.until(lambda: asks_or_ended(run))) is not True:
            answer = {"approve": next(words), "name": "Ada", "reason": "as it reads"}
            resumed = project.call(f"/flow_runs/{waiting['id']}/resume", {"run_input": answer})
            assert resumed["status"] == "ACCEPT", resumed
            project.until(lambda one=waiting: project.state(one["id"])["id"] != one["state"]["id"])
        assert project.end_of(run)["type"] == "COMPLETED", project.log.read_text()
        told = sorted(posts.get(timeout=300)["subject"].split(" (")[0] for _ in range(6))
        back = project.run("rollback/tiny", model="codegen-tiny-nl", reason="as it reads")
        assert project.end_of(back)["type"] == "COMPLETED", project.log.read_text()
        assert posts.get(timeout=300)["subject"] == "codegen-tiny-nl version 1: rolled back"
    decided = {"nl": "promoted", "multi": "refused", "mono": "promoted"}
    versions = [f"codegen-tiny-{stage} version 2: {word}" for stage, word in decided.items()]
    assert told == sorted([*versions, *["promote codegen-tiny asks for a decision"] * 3])
    comparison = project.artifacts()["codegen-tiny-mono-promotion"]["data"]
    assert "# codegen-tiny-mono: version 2" in comparison.replace("\\", "")

    now = json.loads(project.command("models", "show", "codegen-tiny-mono@champion", "--json"))[
        "version"
    ]
    assert (champion, now) == (1, 2)
    project.command("models", "rollback", "codegen-tiny-mono", "--reason", "worse at comments")
    back = json.loads(project.command("models", "show", "codegen-tiny-mono@champion", "--json"))[
        "version"
    ]
    assert back == champion
    history = json.loads(project.command("models", "history", "codegen-tiny-mono", "--json"))
    decisions = [one for one in history if one["decision"]["outcome"] != "already champion"]
    assert [one["decision"]["outcome"] for one in decisions] == [
        "promoted",
        "promoted",
        "rolled back",
    ]
    assert decisions[1]["decided_by"].startswith("Ada")
