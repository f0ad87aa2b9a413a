"""Authentication of the servers of `codegen serve`, against attackers and for users."""

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

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1500)]

EVIL = "http://evil.example"
DEPLOYMENT = "refresh-data/tiny"
MALICIOUS = {
    "pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}]
}


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("guarded") / "project", fixture_archives) as stack:
        yield stack


def status(
    url: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Mapping[str, str]]:
    """Return status and headers of a response."""
    data = None if body is None else json.dumps(body).encode()
    all_headers = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, all_headers, method=method)  # noqa: S310
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
def test_prefect_requires_the_password(project: Stack, path: str) -> None:
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


def test_a_web_socket_requires_the_password_and_refuses_foreign_origins(project: Stack) -> None:
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
        "/absent",
    ],
)
def test_mlflow_requires_the_password(project: Stack, path: str) -> None:
    code, headers = status(mlflow(project) + path)
    assert (code, headers["www-authenticate"].split()[0]) == (401, "Basic")
    assert status(mlflow(project) + path, {})[0] == 401
    assert (
        status(mlflow(project) + path, headers=auth_header(Credentials("codegen", "guessed")))[0]
        == 401
    )
    assert status(mlflow(project) + path, headers=auth_header(project.credentials))[0] != 401


def test_the_servers_listen_on_loopback_only(project: Stack) -> None:
    addresses = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == "LISTEN" and connection.laddr.port in project.ports
    }
    assert addresses == {"127.0.0.1"}
    assert socket.gethostbyname("localhost") == "127.0.0.1"


def test_the_runner_starts_no_second_server(project: Stack) -> None:
    commands = [
        " ".join(process.cmdline())
        for process in psutil.Process(project.process.pid).children(recursive=True)
    ]
    assert any("flows.servers.prefect_server" in command for command in commands)
    assert not any("prefect.server.api.server:create_app" in command for command in commands)


def test_the_password_is_in_its_file_only(project: Stack) -> None:
    assert project.credentials
    secret = project.credentials.password.encode()
    children = psutil.Process(project.process.pid).children(recursive=True)
    # Prefect's server, MLflow's server, and the watchdog.
    assert len(children) >= 3, children
    for process_id in [project.process.pid, *(child.pid for child in children)]:
        assert secret not in Path(f"/proc/{process_id}/cmdline").read_bytes()
    files = [
        path for path in project.folder.rglob("*") if path.is_file() and secret in path.read_bytes()
    ]
    assert files == [project.folder / "var" / FILE]
    assert files[0].stat().st_mode & 0o777 == 0o600
    assert (project.folder / "var" / "prefect").stat().st_mode & 0o077 == 0
    assert project.credentials.password not in project.log.read_text()
    assert str(files[0]) in project.log.read_text()


def test_a_flow_run_signs_in_automatically(project: Stack) -> None:
    run = project.run(DEPLOYMENT)
    assert project.end_of(run)["type"] == "COMPLETED", project.log.read_text()


def test_the_command_line_of_the_workspace_signs_in_automatically(project: Stack) -> None:
    project.command("notifications", "add", "https://hooks.example.org/T1", "--on", "failed")
    names = [automation["name"] for automation in project.call("/automations/filter", {})]
    assert any("hooks.example.org" in name for name in names)


def test_another_shell_signs_in_by_the_file(project: Stack) -> None:
    variables = {
        "PREFECT_API_URL": project.api,
        "PREFECT_HOME": str(project.folder / "var" / "prefect"),
    }
    refused = run_shell("prefect deployment ls", project.folder, **variables)
    assert refused.returncode != 0
    assert "401" in refused.stdout + refused.stderr
    result = run_shell([f". var/{FILE}", "prefect deployment ls"], project.folder, **variables)
    assert result.returncode == 0, result.stderr
    assert "pipeline/tiny" in result.stdout
    client = "import mlflow; print([experiment.name for experiment in mlflow.search_experiments()])"
    command = [f". var/{FILE}", f"{sys.executable} -c '{client}'"]
    assert (
        "Default" in run_shell(command, project.folder, MLFLOW_TRACKING_URI=mlflow(project)).stdout
    )


def test_the_error_of_a_refused_run_names_the_credentials_file(project: Stack) -> None:
    line = "codegen train -r tiny --stage nl"
    result = run_shell(line, project.folder, ["workspace=elsewhere"], PREFECT_API_URL=project.api)
    assert (result.returncode, result.stderr.count("\n")) == (1, 3), result.stderr
    assert "401 Unauthorized" in result.stderr
    assert FILE in result.stderr


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


def test_the_temporary_server_of_a_run_requires_a_password(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    }
    command = [sys.executable, "-c", _TEMPORARY, str(tmp_path)]
    output = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=True
    ).stdout
    assert output.split() == ["0", "401", "None"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is missing")
def test_a_user_signs_in_to_both_uis(project: Stack, tmp_path: Path) -> None:
    assert project.credentials
    with browser(tmp_path) as page:
        page.sign_in(f"{mlflow(project)}/#/experiments", *project.credentials)
        page.wait_for("Default")
        page.open(f"http://localhost:{project.ports[0]}/deployments", "Login")
        page.click("input")
        page.type_in(project.credentials.auth_string)
        page.click("button", "Login")
        page.wait_for("promote-version")
