"""Every command of docs/scheduling.md, in its order, with real servers and a real worker."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.doc_commands import DOCS, page_commands, environment, run_shell
from fixtures.prefect_stack import WAIT_S, Stack
from fixtures.projects import new_project

from flows.settings.credentials import read

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]

PAGE = page_commands("scheduling.md")
SERVES = [line for line in PAGE if line.startswith("codegen serve ")]
WORKERS = [line for line in PAGE if "work-pool" in line or "deploy " in line or "worker" in line]
SIGN_IN = ". var/servers.env"
REST = [line for line in PAGE if line not in (*SERVES, *WORKERS)]


def _options(line: str) -> list[str]:
    """What `Served` does not give by itself."""
    words = shlex.split(line)
    assert words[:4] == ["codegen", "serve", "-r", "tiny"]
    return words[4:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the code beside it, as a clone has."""
    made = new_project(tmp_path_factory.mktemp("scheduling") / "project")
    for part in ("infra", "flows", "components"):
        (made / part).symlink_to(DOCS.parent / part)
    return made


@pytest.fixture(scope="module")
def project(folder: Path, fixture_archives: FixtureArchives) -> Iterator[Stack]:
    """Served by the page's second line, after a person has switched a schedule on under the first."""
    first = Stack(folder, fixture_archives, *_options(SERVES[0]))
    try:
        assert not any(one["active"] for one in _schedules(first).values())
        deployment = first.call("/deployments/name/evaluate-model/tiny")
        first.call(
            f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}",
            {"active": True},
            "PATCH",
        )
    finally:
        _end(first)
    second = Stack(folder, fixture_archives, *_options(SERVES[1]))
    yield second
    _end(second)


def _end(served: Stack) -> None:
    served.process.terminate()
    assert served.process.wait(timeout=WAIT_S) == 0


def _schedules(served: Stack) -> dict[str, dict[str, Any]]:
    found = {one["id"]: one for one in served.call("/deployments/filter", {})}
    flows = {one["id"]: one["name"] for one in served.call("/flows/filter", {})}
    return {
        flows[one["flow_id"]]: one["schedules"][0] for one in found.values() if one["schedules"]
    }


@pytest.fixture
def prefect(project: Stack) -> Callable[[list[str]], str]:
    """What lines print that a person types who was told where Prefect is, and has signed in."""

    def type_in(lines: list[str]) -> str:
        home = str(project.folder / "var" / "prefect")
        done = run_shell(
            [SIGN_IN, *lines], project.folder, PREFECT_HOME=home, PREFECT_API_URL=project.api
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return type_in


def test_a_schedule_is_on_where_somebody_said_so(project: Stack) -> None:
    schedules = _schedules(project)
    assert {name for name, one in schedules.items() if one["active"]} == {
        "evaluate-model",
        "refresh-data",
    }
    chosen = schedules["refresh-data"]["schedule"]
    assert (chosen["cron"], chosen["timezone"]) == ("30 2 * * 1-5", "Europe/Berlin")
    table = dict(
        re.findall(
            r"^\| `([\w-]+)/tiny` \| .* \| (?:every day|Saturdays) at (\d+) \|",
            _text(),
            re.MULTILINE,
        )
    )
    assert table == {
        name: one["schedule"]["cron"].split()[1] for name, one in schedules.items()
    } | {"refresh-data": "0"}


def _text() -> str:
    return (DOCS / "scheduling.md").read_text(encoding="utf-8")


def test_runs_are_started_listed_and_cancelled(
    project: Stack, prefect: Callable[[list[str]], str]
) -> None:
    export, sign_in, *lines = (line for line in REST if not line.startswith("codegen notify"))
    assert export == "export PREFECT_API_URL=http://127.0.0.1:4200/api"
    assert sign_in == SIGN_IN
    (cancel,) = (line for line in lines if line.endswith(" ID"))
    printed = prefect([line for line in lines if line != cancel])
    assert "refresh-data/tiny" in printed
    later = {
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "flows": {"name": {"any_": ["train-stage"]}},
    }
    (run,) = project.call("/flow_runs/filter", later)
    assert run["parameters"]["stage"] == "nl"
    prefect([cancel.replace("ID", run["id"])])
    assert project.end_of(run["id"])["type"] == "CANCELLED"
    done = {
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "flows": {"name": {"any_": ["refresh-data"]}},
    }
    assert len(project.call("/flow_runs/filter", done)) == 1


def test_who_is_told(project: Stack, prefect: Callable[[list[str]], str]) -> None:
    lines = [line for line in REST if line.startswith("codegen notify")]
    printed = prefect(lines)
    assert printed.count("set up   codegen: ") == 2 + 4
    assert "secret" not in printed
    prefect(
        [lines[0].replace("T1", "T2")]
    )  # Another room of the same server takes no word from the first.
    names = {one["name"] for one in project.call("/automations/filter", {})}
    assert (
        sum(name.startswith("codegen: failed -> https://hooks.example.org") for name in names) == 2
    )
    prefect(lines[:1])
    assert {one["name"] for one in project.call("/automations/filter", {})} == names


def test_workers_run_the_same(project: Stack, prefect: Callable[[list[str]], str]) -> None:
    create, deploy, start = WORKERS
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
