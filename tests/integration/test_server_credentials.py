"""The servers of `codegen serve` as an attacker meets them, and as their user does: real servers, started once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from fixtures.browser import browser
from fixtures.doc_commands import run_shell
from fixtures.prefect_stack import WAIT_S, Stack, auth_header, running_stack
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows.settings.credentials import FILE, Credentials

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.apart, pytest.mark.timeout(1500)]

EVIL = "http://evil.example"
DEPLOYMENT = "refresh-data/tiny"
MALICIOUS = {
    "pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}]
}


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("guarded") / "project", fixture_archives) as one:
        yield one


def status(
    url: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Mapping[str, str]]:
    """The status and the headers of an answer."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, sent, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def mlflow(project: Stack) -> str:
    return f"http://127.0.0.1:{project.ports[1]}"


PREFECT_REQUESTS = {
    "/block_documents/filter": {"include_secrets": True},
    "/deployments/filter": {},
    "/flow_runs/filter": {},
    "/automations/filter": {},
    "/logs/filter": {},
    "/admin/settings": None,
    "/openapi.json": None,
}


@pytest.mark.parametrize("path", PREFECT_REQUESTS)
def test_prefect_answers_nobody_without_the_password(project: Stack, path: str) -> None:
    wrong = auth_header(Credentials("codegen", "guessed"))
    assert status(project.api + path, PREFECT_REQUESTS[path])[0] == 401
    assert status(project.api + path, PREFECT_REQUESTS[path], headers=wrong)[0] == 401
    assert (
        status(
            project.api + path, PREFECT_REQUESTS[path], headers=auth_header(project.credentials)
        )[0]
        == 200
    )


@pytest.mark.parametrize(
    "headers", [{}, {"origin": EVIL}, {"origin": EVIL, "host": "evil.example"}]
)
def test_nobody_else_changes_or_starts_a_deployment(
    project: Stack, headers: dict[str, str]
) -> None:
    """The attack that was shown: with it a command of the attacker ran within seconds."""
    deployment = project.call(f"/deployments/name/{DEPLOYMENT}")
    address = f"{project.api}/deployments/{deployment['id']}"
    assert status(address, MALICIOUS, method="PATCH", headers=headers)[0] in (401, 403)
    assert status(f"{address}/create_flow_run", {}, headers=headers)[0] in (401, 403)
    after = project.call(f"/deployments/name/{DEPLOYMENT}")
    assert (after["pull_steps"], after["updated"]) == (
        deployment["pull_steps"],
        deployment["updated"],
    )


def servers(project: Stack) -> dict[str, str]:
    return {"prefect": f"{project.api}/admin/version", "mlflow": f"{mlflow(project)}/version"}


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize("host", ["evil.example", "10.evil.example", "127.0.0.1.evil.example"])
def test_a_foreign_host_is_refused_even_with_the_password(
    project: Stack, server: str, host: str
) -> None:
    headers = {**auth_header(project.credentials), "host": host}
    assert status(servers(project)[server], headers=headers)[0] == 403


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize("origin", [EVIL, "http://localhost:9999", "null"])
def test_a_page_of_another_origin_gets_no_permission(
    project: Stack, server: str, origin: str
) -> None:
    asks = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    for method, headers in (
        ("OPTIONS", asks),
        ("GET", {**auth_header(project.credentials), "origin": origin}),
    ):
        got, sent = status(servers(project)[server], method=method, headers=headers)
        assert got == 403
        assert "access-control-allow-origin" not in sent


def test_prefects_page_may_be_opened_under_either_name(project: Stack) -> None:
    page = f"http://localhost:{project.ports[0]}"
    asks = {
        "origin": page,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    got, sent = status(f"{project.api}/deployments/filter", method="OPTIONS", headers=asks)
    assert (got, sent["access-control-allow-origin"]) == (200, page)


def socket_ends_with(project: Stack, message: dict[str, str], **options: Any) -> str:
    """How a web socket of Prefect's events ends that begins with a message."""
    try:
        address = f"{project.api.replace('http', 'ws')}/events/out"
        with connect(address, open_timeout=WAIT_S, **options) as opened:
            opened.send(json.dumps(message))
            return str(json.loads(opened.recv(timeout=WAIT_S))["type"])
    except InvalidStatus as error:
        return str(error.response.status_code)
    except ConnectionClosed as error:
        return str(error.rcvd and error.rcvd.reason)


def test_a_web_socket_wants_the_password_and_no_foreign_page(project: Stack) -> None:
    assert project.credentials
    prefect: Any = ["prefect"]
    right = {"type": "auth", "token": project.credentials.auth_string}
    assert (
        socket_ends_with(project, right) == "403"
    )  # In Prefect's old form, which cannot carry a password.
    assert (
        socket_ends_with(project, {"type": "auth"}, subprotocols=prefect)
        == "Auth required but no token provided"
    )
    assert (
        socket_ends_with(project, {**right, "token": "codegen:guessed"}, subprotocols=prefect)
        == "Invalid token"
    )
    assert socket_ends_with(project, right, subprotocols=prefect, origin=EVIL) == "403"
    assert socket_ends_with(project, right, subprotocols=prefect) == "auth_success"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/version",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/3.0/mlflow/server-info",
        "/ajax-api/3.0/jobs/search",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/get-artifact?path=x&run_uuid=x",
        "/graphql",
        "/v1/traces",
        "/static-files/index.html",
        "/docs",
        "/nothing-there",
    ],
)
def test_mlflow_answers_nobody_without_the_password(project: Stack, path: str) -> None:
    got, sent = status(mlflow(project) + path)
    assert (got, sent["www-authenticate"].split()[0]) == (401, "Basic")
    assert status(mlflow(project) + path, {})[0] == 401
    assert (
        status(mlflow(project) + path, headers=auth_header(Credentials("codegen", "guessed")))[0]
        == 401
    )
    assert status(mlflow(project) + path, headers=auth_header(project.credentials))[0] != 401


def test_only_loopback_is_listened_on(project: Stack) -> None:
    listening = {
        one.laddr.ip
        for one in psutil.net_connections("tcp")
        if one.status == "LISTEN" and one.laddr.port in project.ports
    }
    assert listening == {"127.0.0.1"}
    assert socket.gethostbyname("localhost") == "127.0.0.1"


def test_the_runner_uses_the_server_and_starts_no_other(project: Stack) -> None:
    commands = [
        " ".join(one.cmdline())
        for one in psutil.Process(project.process.pid).children(recursive=True)
    ]
    assert [one for one in commands if "flows.servers.prefect_server" in one]
    assert not [one for one in commands if "prefect.server.api.server:create_app" in one]


def test_the_password_is_in_its_file_alone(project: Stack) -> None:
    assert project.credentials
    secret = project.credentials.password.encode()
    started = psutil.Process(project.process.pid).children(recursive=True)
    assert len(started) >= 3, (
        started
    )  # Prefect's server, MLflow's, and the web server that MLflow's starts.
    for process in [project.process.pid, *(one.pid for one in started)]:
        assert secret not in Path(f"/proc/{process}/cmdline").read_bytes()
    holders = [
        one for one in project.folder.rglob("*") if one.is_file() and secret in one.read_bytes()
    ]
    assert holders == [project.folder / "var" / FILE]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    assert (project.folder / "var" / "prefect").stat().st_mode & 0o077 == 0
    assert project.credentials.password not in project.log.read_text()
    assert str(holders[0]) in project.log.read_text()


def test_a_flow_run_signs_in_by_itself(project: Stack) -> None:
    run = project.run(DEPLOYMENT)
    assert project.end_of(run)["type"] == "COMPLETED", project.log.read_text()


def test_the_command_line_of_the_workspace_signs_in_by_itself(project: Stack) -> None:
    project.command("notify", "https://hooks.example.org/T1", "--on", "failed")
    names = [one["name"] for one in project.call("/automations/filter", {})]
    assert any("hooks.example.org" in name for name in names)


def test_another_shell_signs_in_with_the_file(project: Stack) -> None:
    given = {
        "PREFECT_API_URL": project.api,
        "PREFECT_HOME": str(project.folder / "var" / "prefect"),
    }
    refused = run_shell("prefect deployment ls", project.folder, **given)
    assert refused.returncode != 0
    assert "401" in refused.stdout + refused.stderr
    done = run_shell([f". var/{FILE}", "prefect deployment ls"], project.folder, **given)
    assert done.returncode == 0, done.stderr
    assert "pipeline/tiny" in done.stdout
    client = "import mlflow; print([one.name for one in mlflow.search_experiments()])"
    command = [f". var/{FILE}", f"{sys.executable} -c '{client}'"]
    assert (
        "Default" in run_shell(command, project.folder, MLFLOW_TRACKING_URI=mlflow(project)).stdout
    )


def test_a_run_that_is_refused_says_what_to_set(project: Stack) -> None:
    line = "codegen train -r tiny --stage nl"
    done = run_shell(line, project.folder, ["workspace=elsewhere"], PREFECT_API_URL=project.api)
    assert (done.returncode, done.stderr.count("\n")) == (1, 3), done.stderr
    assert "refuses this client (401 Unauthorized)" in done.stderr
    assert FILE in done.stderr


_TEMPORARY = """
import sys
from flows.settings.execution import Execution, setup_environment
setup_environment(Execution(workspace=sys.argv[1]))
import httpx
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(len(client.read_flows()))
    api = str(client.api_url).rstrip("/")
    print(httpx.post(f"{api}/flows/filter", json={}).status_code)
    print(httpx.get(f"{api}/health", headers={"origin": "http://evil.example"}).headers.get("access-control-allow-origin"))
"""


def test_the_temporary_server_of_a_run_wants_a_password_too(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", _TEMPORARY, str(tmp_path)]
    printed = subprocess.run(
        command, env=kept, capture_output=True, text=True, timeout=WAIT_S, check=True
    ).stdout
    assert printed.split() == ["0", "401", "None"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_person_signs_in_on_both_pages(project: Stack, tmp_path: Path) -> None:
    assert project.credentials
    with browser(tmp_path) as page:
        page.sign_in(f"{mlflow(project)}/#/experiments", *project.credentials)
        page.wait_for("Default")
        page.open(f"http://localhost:{project.ports[0]}/deployments", "Login")
        page.click("input")
        page.type_in(project.credentials.auth_string)
        page.click("button", "Login")
        page.wait_for("promote-version")
