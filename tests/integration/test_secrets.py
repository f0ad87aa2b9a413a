"""Secrets of a run: no process argument, file, log, database or page contains them.

The secrets are canaries: random values that nothing else contains. Every user of the machine can
read process arguments; artifacts, logs, databases and pages are shared with a team.
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest
from fixtures.prefect_stack import Stack, start_codegen
from fixtures.processes import environment_without_settings
from fixtures.projects import FixtureArchives, new_project
from fixtures.sinks import webhook_sink

from components.core.network import free_port, health_error
from components.registry.mlflow_server import CREDENTIALS, STORE_URI
from flows.settings.credentials import FILE

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1500)]

_POLL_S = 0.05


class Canaries:
    """Random secrets by name, and their occurrences in process arguments and files."""

    def __init__(self, *names: str) -> None:
        self.values = {name: secrets.token_hex(16) for name in names}
        self.in_arguments: set[str] = set()

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def find(self, text: bytes) -> set[str]:
        """Return the names of the secrets in a text: plain, as in a URL, or in base64."""
        found = set()
        for name, value in self.values.items():
            # Base64 of a text inside another text has three forms; the middle of each is fixed.
            encoded = [base64.b64encode(b" " * shift + value.encode())[4:-4] for shift in range(3)]
            forms = [value.encode(), quote(value, safe="").encode(), *encoded]
            if any(form in text for form in forms):
                found.add(name)
        return found

    def find_in_files(self, folder: Path, *excluded: str) -> dict[str, set[str]]:
        """Return the names of the secrets in each file below `folder` that has one."""
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in excluded:
                with suppress(FileNotFoundError):
                    if names := self.find(path.read_bytes()):
                        found[str(path.relative_to(folder))] = names
        return found

    @contextmanager
    def watch_arguments(self) -> Iterator[None]:
        """Read the arguments of all processes during the block."""
        is_finished = threading.Event()

        def watch() -> None:
            while not is_finished.wait(_POLL_S):
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    with suppress(OSError):
                        self.in_arguments |= self.find(path.read_bytes())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            is_finished.set()
            thread.join()


@contextmanager
def mlflow_with_password(folder: Path, password: str) -> Iterator[str]:
    """Run an MLflow server that asks for a password; yields its address without it."""
    port = free_port()
    folder.mkdir()
    environment = {
        **environment_without_settings(),
        CREDENTIALS: f"codegen:{password}",
        STORE_URI: f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "components.registry.mlflow_server", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while health_error(f"http://127.0.0.1:{port}/health", 2, ("codegen", password)):
            assert server.poll() is None, (folder / "server.log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


@pytest.mark.nightly
def test_a_run_publishes_no_secret_of_its_environment(
    tmp_path: Path, s3: str, fixture_archives: FixtureArchives
) -> None:
    canaries = Canaries("storage key", "storage id", "tracking password", "token")
    project = new_project(tmp_path / "project")
    with (
        mlflow_with_password(tmp_path / "mlflow", canaries["tracking password"]) as address,
        canaries.watch_arguments(),
    ):
        environment: Mapping[str, str] = {
            "AWS_SECRET_ACCESS_KEY": canaries["storage key"],
            "AWS_ACCESS_KEY_ID": canaries["storage id"],
            "HF_TOKEN": canaries["token"],
            "CODEGEN_STORE": f"{s3}/store",
            "MLFLOW_TRACKING_URI": f"http://codegen:{canaries['tracking password']}@{address}",
        }
        run = start_codegen(project, fixture_archives, "run", "-r", "tiny", **environment)
        output, _ = run.communicate(timeout=1200)
    (tmp_path / "output").write_text(output)
    assert run.returncode in (0, 3), output
    assert canaries.in_arguments == set()
    assert canaries.find_in_files(tmp_path) == {}
    fs, root = fsspec.url_to_fs(s3)
    leaking = {path: names for path in fs.find(root) if (names := canaries.find(fs.cat(path)))}
    assert leaking == {}


def test_servers_publish_neither_their_password_nor_addresses_of_notifications(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    canaries = Canaries("notification")
    with webhook_sink() as (port, posts), canaries.watch_arguments():
        stack = Stack(new_project(tmp_path / "project"), fixture_archives)
        try:
            assert stack.credentials
            canaries.values["password"] = stack.credentials.password
            url = f"http://127.0.0.1:{port}/{canaries['notification']}"
            adding = stack.start(
                "notifications", "add", "-", "--on", "failed", stdin=subprocess.PIPE
            )
            output, _ = adding.communicate(url, timeout=600)
            assert adding.returncode == 0, output
            (tmp_path / "output").write_text(output)
            execution = stack.parameters("evaluate-model/tiny")["execution"]
            run = stack.run("evaluate-model/tiny", model="absent@champion", execution=execution)
            assert stack.end_of(run)["type"] == "FAILED"
            posts.get(timeout=300)
        finally:
            stack.process.terminate()
            stack.process.wait(600)
    assert canaries.in_arguments == set()
    assert canaries.find_in_files(tmp_path, FILE) == {}
