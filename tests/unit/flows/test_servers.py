"""Checks before servers start, and health checks of servers."""

from __future__ import annotations

import http.server
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from fixtures.sinks import serving
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from components.core.errors import CodegenError, ConfigError
from components.core.files import write_json
from components.core.network import free_port, health_error
from flows.servers.local_servers import local_servers, require_healthy_prefect
from flows.settings.execution import SERVERS_FILE, Execution, running_servers


@pytest.fixture
def address() -> Iterator[str]:
    """A server whose /health accepts the user ada only; other paths do not exist."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ada = self.headers["Authorization"] == "Basic YWRhOmxvdmVsYWNl"  # ada:lovelace
            self.send_response((200 if is_ada else 401) if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"127.0.0.1:{port}"


def test_the_two_ports_must_differ(tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(
            ConfigError, match=rf"have the same port {port}(.|\n)*--mlflow-port {port + 1}"
        ),
        local_servers(Execution(project=str(tmp_path)), prefect_port=port, mlflow_port=port),
    ):
        pytest.fail("the servers started")


def test_running_servers_are_an_error_and_keep_their_file(tmp_path: Path) -> None:
    execution = Execution(project=str(tmp_path))
    process = psutil.Process()
    execution.workspace_path.mkdir()
    servers = {
        "prefect": "http://127.0.0.1:1",
        "mlflow": "http://127.0.0.1:2",
        "workspace": str(execution.workspace_path),
        "pid": process.pid,
        "started": process.create_time(),
    }
    write_json(execution.workspace_path / SERVERS_FILE, servers)
    with (
        pytest.raises(
            ConfigError, match=r"already running for this workspace: http://127\.0\.0\.1:1 and"
        ),
        local_servers(execution, prefect_port=free_port(), mlflow_port=free_port()),
    ):
        pytest.fail("the servers started")
    assert (execution.workspace_path / SERVERS_FILE).exists()
    assert running_servers(execution) == servers
    shutil.copytree(execution.workspace_path, tmp_path / "copy")
    assert running_servers(execution.replace(workspace="copy")) is None


@pytest.mark.slow
@pytest.mark.process_heavy
def test_another_process_on_the_port_does_not_get_the_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port was free at the check, and another user took it before the server."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "var" / "prefect"))
    monkeypatch.setattr("flows.servers.local_servers.require_free_port", lambda *_: None)
    (tmp_path / "var" / "prefect").mkdir(parents=True)
    received: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

    with (
        serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port,
        pytest.raises(CodegenError, match="the prefect server does not respond"),
        local_servers(Execution(project=str(tmp_path)), prefect_port=port, mlflow_port=free_port()),
    ):
        pytest.fail("the server of another process was used")
    assert not received


@pytest.mark.parametrize("has_secret", [True, False])
def test_a_configured_server_that_refuses_this_client_is_an_error(has_secret: bool) -> None:
    """The address may come from a profile of Prefect as well as from the environment."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ada = self.headers["Authorization"] == "Basic YWRhOmxvdmVsYWNl"  # ada:lovelace
            self.send_response(200 if is_ada or self.path == "/api/health" else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    secret = "ada:lovelace" if has_secret else None
    with (
        serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port,
        temporary_settings(
            {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_API_AUTH_STRING: secret}
        ),
        nullcontext() if has_secret else pytest.raises(ConfigError, match=r"401(.|\n)*AUTH_STRING"),
    ):
        require_healthy_prefect()


def test_a_healthy_server_has_no_health_error(address: str) -> None:
    assert health_error(f"http://ada:lovelace@{address}/health", 60) is None
    assert health_error(f"http://{address}/health", 60) == "401 Unauthorized"


@pytest.mark.parametrize("path", ["/other", "/he alth"])
def test_a_health_error_contains_no_password(address: str, path: str) -> None:
    assert health_error(f"http://ada:lovelace@{address}{path}", 60) == "404 Not Found"


def test_an_unreachable_or_invalid_url_is_a_health_error(address: str) -> None:
    assert "refused" in str(health_error(f"http://127.0.0.1:{free_port()}", 60))
    assert health_error("http://[", 60)
    assert health_error("ftp://127.0.0.1", 60)
