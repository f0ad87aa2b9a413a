"""A Prefect server with sign-in whose database is PostgreSQL."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from fixtures.postgres import Postgres, missing_postgres, postgres_server

from components.core.network import free_port, health_error

pytestmark = pytest.mark.skipif(missing_postgres() is not None, reason=missing_postgres() or "")

_START_S = 240.0
_SECRET = f"codegen:{secrets.token_urlsafe(16)}"
_FLOW = """
from prefect import flow, task

@task
def double(number):
    return 2 * number

@flow
def pipeline():
    return double(21)

assert pipeline() == 42
"""


class Server(NamedTuple):
    """A running Prefect server."""

    url: str
    postgres: Postgres


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prefect")
    with postgres_server() as postgres, (folder / "log").open("wb") as log:
        postgres.create_database("prefect")
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        environment = {
            **_without_prefect(),
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_API_AUTH_STRING": _SECRET,
            "PREFECT_API_DATABASE_CONNECTION_URL": postgres.uri("prefect", "postgresql+asyncpg"),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + _START_S
            while health_error(f"{url}/health", 2):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield Server(url, postgres)
        finally:
            process.terminate()
            process.wait()


def _without_prefect() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}


def test_a_run_is_stored_in_postgres_and_needs_the_secret(server: Server, tmp_path: Path) -> None:
    counts = "select (select count(*) from flow_run), (select count(*) from task_run)"
    psql = ("--dbname", "prefect", "--no-align", "--tuples-only", "--command", counts)
    assert httpx.post(f"{server.url}/flow_runs/filter", json={}).status_code == 401
    environment = {
        **_without_prefect(),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": server.url,
        "PREFECT_API_AUTH_STRING": _SECRET,
    }
    subprocess.run([sys.executable, "-c", _FLOW], env=environment, check=True)
    num_runs, num_task_runs = server.postgres.run("psql", *psql).strip().split("|")
    assert (num_runs, num_task_runs) == ("1", "1")
    dump = server.postgres.run("pg_dump", "--dbname", "prefect")
    assert _SECRET not in dump
