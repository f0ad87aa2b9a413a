"""A flow run on a Prefect server with sign-in whose database is PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fixtures.postgres import missing_postgres
from fixtures.prefect_on_postgres import DATABASE, PrefectServer, prefect_on_postgres
from fixtures.processes import environment_without_settings

MISSING = missing_postgres()

pytestmark = [
    pytest.mark.infrastructure,
    pytest.mark.skipif(MISSING is not None, reason=MISSING or ""),
]

FLOW = """
from prefect import flow, task

@task
def double(number):
    return 2 * number

@flow
def pipeline():
    return double(21)

assert pipeline() == 42
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_on_postgres(tmp_path_factory.mktemp("prefect")) as server:
        yield server


def test_a_run_is_stored_in_postgres_and_needs_the_secret(
    server: PrefectServer, tmp_path: Path
) -> None:
    counts = "select (select count(*) from flow_run), (select count(*) from task_run)"
    psql = ("--dbname", DATABASE, "--no-align", "--tuples-only", "--command", counts)
    assert httpx.post(f"{server.url}/flow_runs/filter", json={}).status_code == 401
    environment = environment_without_settings() | server.client_settings(tmp_path)
    subprocess.run([sys.executable, "-c", FLOW], env=environment, check=True)
    num_runs, num_task_runs = server.postgres.run("psql", *psql).strip().split("|")
    assert (num_runs, num_task_runs) == ("1", "1")
    dump = server.postgres.run("pg_dump", "--dbname", DATABASE)
    assert server.secret not in dump
