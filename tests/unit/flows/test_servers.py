"""What stands before two servers are started, and whether one that was named answers."""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fixtures.sinks import running

from components.core.errors import ConfigError
from components.core.files import write_json
from components.core.network import free_port, health_error
from flows.servers.local_servers import local_servers
from flows.settings.execution import SERVERS_FILE, Execution


@pytest.fixture
def address() -> Iterator[str]:
    """A server that is well for Ada alone, and whose other paths are not there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ada = self.headers["Authorization"] == "Basic YWRhOmxvdmVsYWNl"  # ada:lovelace
            self.send_response((200 if ada else 401) if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"127.0.0.1:{port}"


def test_one_port_cannot_serve_both(tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(ConfigError, match=rf"both given port {port}(.|\n)*--mlflow-port {port + 1}"),
        local_servers(Execution(project=str(tmp_path)), prefect_port=port, mlflow_port=port),
    ):
        pytest.fail("it started")


def test_servers_that_run_already_are_named_and_left_alone(tmp_path: Path) -> None:
    execution, me = Execution(project=str(tmp_path)), psutil.Process()
    execution.workspace_path.mkdir()
    note = {
        "prefect": "http://127.0.0.1:1",
        "mlflow": "http://127.0.0.1:2",
        "pid": me.pid,
        "started": me.create_time(),
    }
    write_json(execution.workspace_path / SERVERS_FILE, note)
    with (
        pytest.raises(
            ConfigError, match=r"run over this workspace already: http://127\.0\.0\.1:1 and"
        ),
        local_servers(execution, prefect_port=free_port(), mlflow_port=free_port()),
    ):
        pytest.fail("they started")
    assert (execution.workspace_path / SERVERS_FILE).exists()


def test_who_answers_is_not_silent(address: str) -> None:
    assert health_error(f"http://ada:lovelace@{address}/health", 60) is None
    assert health_error(f"http://{address}/health", 60) == "401 Unauthorized"


@pytest.mark.parametrize("path", ["/other", "/he alth"])
def test_why_nobody_answers_is_said_without_the_password(address: str, path: str) -> None:
    said = health_error(f"http://ada:lovelace@{address}{path}", 60)
    assert said == "404 Not Found"


def test_nobody_there(address: str) -> None:
    assert "refused" in str(health_error(f"http://127.0.0.1:{free_port()}", 60))
    assert health_error("http://[", 60)
    assert health_error("ftp://127.0.0.1", 60)
