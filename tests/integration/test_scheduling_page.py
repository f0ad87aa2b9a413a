"""Every command of docs/scheduling.md in order, with real servers and a real worker."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.doc_commands import DOCS, environment, page_commands, run_shell
from fixtures.prefect_stack import WAIT_S, Stack
from fixtures.projects import new_project

from flows.settings.credentials import read

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]

PAGE = page_commands("scheduling.md")
SERVE_COMMANDS = [line for line in PAGE if line.startswith("codegen serve ")]
WORKER_COMMANDS = [
    line for line in PAGE if "work-pool" in line or "deploy " in line or "worker" in line
]
SIGN_IN = ". var/servers.env"
OTHER_COMMANDS = [line for line in PAGE if line not in (*SERVE_COMMANDS, *WORKER_COMMANDS)]


def _options(line: str) -> list[str]:
    """Return the options that `Stack` does not set itself."""
    words = shlex.split(line)
    assert words[:4] == ["codegen", "serve", "-r", "tiny"]
    return words[4:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with links to the code, like a clone."""
    project = new_project(tmp_path_factory.mktemp("scheduling") / "project")
    for part in ("infra", "flows", "components"):
        (project / part).symlink_to(DOCS.parent / part)
    return project


@pytest.fixture(scope="module")
def project(folder: Path, fixture_archives: FixtureArchives) -> Iterator[Stack]:
    """The second serve command of the page, after a user activated a schedule under the first."""
    first = Stack(folder, fixture_archives, *_options(SERVE_COMMANDS[0]))
    try:
        assert not any(schedule["active"] for schedule in _schedules(first).values())
        deployment = first.call("/deployments/name/evaluate-model/tiny")
        first.call(
            f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}",
            {"active": True},
            "PATCH",
        )
    finally:
        _stop(first)
    second = Stack(folder, fixture_archives, *_options(SERVE_COMMANDS[1]))
    yield second
    _stop(second)


def _stop(stack: Stack) -> None:
    stack.process.terminate()
    assert stack.process.wait(timeout=WAIT_S) == 0


def _schedules(stack: Stack) -> dict[str, dict[str, Any]]:
    """Return the schedules by flow name."""
    flows = {flow["id"]: flow["name"] for flow in stack.call("/flows/filter", {})}
    return {
        flows[deployment["flow_id"]]: deployment["schedules"][0]
        for deployment in stack.call("/deployments/filter", {})
        if deployment["schedules"]
    }


@pytest.fixture
def prefect(project: Stack) -> Callable[[list[str]], str]:
    """Runs commands in a shell that knows Prefect's address and has signed in."""

    def run_lines(lines: list[str]) -> str:
        home = str(project.folder / "var" / "prefect")
        result = run_shell(
            [SIGN_IN, *lines], project.folder, PREFECT_HOME=home, PREFECT_API_URL=project.api
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run_lines


def test_schedules_are_active_if_the_ui_or_cron_activated_them(project: Stack) -> None:
    schedules = _schedules(project)
    assert {name for name, schedule in schedules.items() if schedule["active"]} == {
        "evaluate-model",
        "refresh-data",
    }
    cron = schedules["refresh-data"]["schedule"]
    assert (cron["cron"], cron["timezone"]) == ("30 2 * * 1-5", "Europe/Berlin")
    table = dict(
        re.findall(
            r"^\| `([\w-]+)/tiny` \| .* \| (?:every day|Saturdays) at (\d+) \|",
            _text(),
            re.MULTILINE,
        )
    )
    assert table == {
        name: schedule["schedule"]["cron"].split()[1] for name, schedule in schedules.items()
    } | {"refresh-data": "0"}


def _text() -> str:
    return (DOCS / "scheduling.md").read_text(encoding="utf-8")


def test_runs_are_started_listed_and_cancelled(
    project: Stack, prefect: Callable[[list[str]], str]
) -> None:
    export, sign_in, *lines = (
        line for line in OTHER_COMMANDS if not line.startswith("codegen notifications")
    )
    assert export == "export PREFECT_API_URL=http://127.0.0.1:4200/api"
    assert sign_in == SIGN_IN
    (cancel,) = (line for line in lines if line.endswith(" ID"))
    output = prefect([line for line in lines if line != cancel])
    assert "refresh-data/tiny" in output
    scheduled_runs = {
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "flows": {"name": {"any_": ["train-stage"]}},
    }
    (run,) = project.call("/flow_runs/filter", scheduled_runs)
    assert run["parameters"]["stage"] == "nl"
    prefect([cancel.replace("ID", run["id"])])
    assert project.end_of(run["id"])["type"] == "CANCELLED"
    completed_runs = {
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "flows": {"name": {"any_": ["refresh-data"]}},
    }
    assert len(project.call("/flow_runs/filter", completed_runs)) == 1


def test_notifications_are_created_once_per_url(
    project: Stack, prefect: Callable[[list[str]], str]
) -> None:
    lines = [line for line in OTHER_COMMANDS if line.startswith("codegen notifications")]
    output = prefect(lines)
    assert output.count("created  codegen: ") == 2 + 4
    assert "secret" not in output
    prefect([lines[0].replace("T1", "T2")])  # Another URL of the same host.
    names = _automation_names(project)
    assert (
        sum(name.startswith("codegen: failed -> https://hooks.example.org") for name in names) == 2
    )
    prefect(lines[:1])
    assert _automation_names(project) == names


def _automation_names(stack: Stack) -> set[str]:
    return {automation["name"] for automation in stack.call("/automations/filter", {})}


def test_a_worker_runs_the_deployments(project: Stack, prefect: Callable[[list[str]], str]) -> None:
    create, deploy, start = WORKER_COMMANDS
    prefect([create, deploy])
    home = str(project.folder / "var" / "prefect")
    command = [sys.executable, "-m", "prefect", *shlex.split(start)[1:]]
    with (project.folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            command,
            cwd=project.folder,
            env=environment(
                PREFECT_HOME=home,
                PREFECT_API_URL=project.api,
                PREFECT_API_AUTH_STRING=read(project.folder / "var").auth_string,
            ),
            stdout=log,
            stderr=log,
        )
    try:
        run = project.run("refresh-data/starter", **project.parameters("refresh-data/tiny"))
        assert project.end_of(run)["type"] == "COMPLETED", (
            project.folder / "worker.log"
        ).read_text()
    finally:
        worker.terminate()
        worker.wait(timeout=WAIT_S)
