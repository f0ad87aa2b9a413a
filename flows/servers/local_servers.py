"""Prefect's and MLflow's servers over one workspace, on loopback, for as long as a block lasts.

Both are their own programs, started as children of this process and ended with it, also when it is killed
(`components.core.processes`). Where they listen stands in `servers.json` of the workspace while they do, so that whoever runs
a flow there sends it to that Prefect, instead of opening its database a second time. Not covered: servers on other hosts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from components.core.config import Config
from components.core.errors import CodegenError, ConfigError
from components.core.files import write_json
from components.core.network import is_http_uri, redact_credentials, require_free_port
from flows.settings.execution import SERVERS_FILE, Execution, running_servers

_START_TIMEOUT_S = 300.0
"""Assumption: a first start migrates two databases, which took 30 s on two busy cores, and over 90 s on very busy ones."""
_POLL_S = 0.3
_ANSWER_TIMEOUT_S = 10.0
"""Assumption: a server that lives answers within, also on a busy machine."""

_PREFECT = ("flows.servers.prefect_server", "server", "start", "--host", "127.0.0.1")
_MLFLOW = ("mlflow", "server", "--host", "127.0.0.1", "--workers", "1")
_LEASE_STORAGE = "prefect.server.concurrency.lease_storage.filesystem"
"""Who holds a slot of a limit outlives a restart of the server; by default it is forgotten, and never freed."""


class Servers(Config):
    """Where the two servers of a workspace listen."""

    prefect: str
    """Prefect's page; its API lies below it."""
    mlflow: str

    @property
    def prefect_api(self) -> str:
        """The API that clients and workers use."""
        return f"{self.prefect}/api"


def on_loopback(prefect_port: int, mlflow_port: int) -> Servers:
    """Where servers of these ports listen."""
    return Servers(
        prefect=f"http://127.0.0.1:{prefect_port}", mlflow=f"http://127.0.0.1:{mlflow_port}"
    )


class ServerProcesses:
    """The servers of this process."""

    def __init__(
        self, where: Servers, processes: dict[str, subprocess.Popen[bytes]], logs: Path
    ) -> None:
        self.where, self._processes, self._logs = where, processes, logs

    def wait(self) -> None:
        """Wait until one of them ends.

        Raises:
            CodegenError: one has ended.
        """
        while True:
            self.require()
            time.sleep(_POLL_S)

    def require(self) -> None:
        """Check that both still run.

        Raises:
            CodegenError: one has ended.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise CodegenError(
                    f"{name}'s server ended",
                    expected="a server that runs",
                    fix=f"read {self._logs / name}.log",
                )


def require_readable(execution: Execution) -> None:
    """Check that both databases are the installed versions': their servers would change them without a copy.

    Raises:
        ConfigError, TrackingError: one is not; says what to do.
    """
    from flows.servers.db_upgrade import require_current_schema

    require_current_schema()
    execution.open_tracking().check()


def require_healthy_prefect() -> None:
    """Check, once and soon, that the Prefect server that was named is there; its client would ask for minutes.

    Raises:
        ConfigError: nobody answers at PREFECT_API_URL.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    if error := health_error(f"{url.rstrip('/')}/health", _ANSWER_TIMEOUT_S):
        raise ConfigError(
            f"PREFECT_API_URL is {redact_credentials(url)}, which does not answer ({error})",
            expected=f"a Prefect server that answers /health within {_ANSWER_TIMEOUT_S:.0f} s",
            fix="start it, or unset PREFECT_API_URL: a run without a server starts one of its own",
        )


def health_error(url: str, timeout_s: float) -> str | None:
    """Why nobody answers well at an address within a time; None where somebody does. Shows no password."""
    import httpx  # Prefect's client: what it reaches, with USER:PASSWORD@ say, is reached here. It takes a while to import.

    try:
        answer = httpx.get(url, timeout=timeout_s, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    return None if answer.is_success else f"{answer.status_code} {answer.reason_phrase}"


@contextmanager
def local_servers(
    execution: Execution, *, prefect_port: int, mlflow_port: int
) -> Iterator[ServerProcesses]:
    """Both servers, answering, until the end of the block; Prefect's alone where MLflow has a server elsewhere.

    Raises:
        ConfigError: servers run over this workspace already, or there is one port for both.
        CodegenError: a port is taken, or a server ended or did not answer.
    """
    where = _reserve_ports(execution, prefect_port, mlflow_port)
    require_readable(execution)
    logs = execution.workspace_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    commands = {"prefect": [*_PREFECT, "--port", str(prefect_port)]}
    if not is_http_uri(execution.resolved_tracking_uri):
        commands["mlflow"] = [*_MLFLOW, "--port", str(mlflow_port)]
    health = {"prefect": f"{where.prefect_api}/health", "mlflow": f"{where.mlflow}/health"}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    note = execution.workspace_path / SERVERS_FILE
    try:
        for name, command in commands.items():
            processes[name] = _start(command, logs / f"{name}.log", _environment(execution, where))
        for name, process in processes.items():
            _wait_for(name, process, health[name], logs / f"{name}.log")
        write_json(
            note,
            {**where.model_dump(), "pid": os.getpid(), "started": psutil.Process().create_time()},
        )
        yield ServerProcesses(where, processes, logs)
    finally:
        note.unlink(missing_ok=True)
        for process in processes.values():
            _stop(process)


def _reserve_ports(execution: Execution, prefect_port: int, mlflow_port: int) -> Servers:
    """Where the servers are to listen, or listen already, once it is sure that those to be started can."""
    if there := running_servers(execution):
        raise ConfigError(
            f"servers run over this workspace already: {there['prefect']} and {there['mlflow']}",
            expected="one Prefect at a time on its database",
            fix="use these, or end them first",
        )
    if prefect_port == mlflow_port:
        raise ConfigError(
            f"Prefect and MLflow were both given port {mlflow_port}",
            expected="a port for each",
            fix=f"choose another: --mlflow-port {mlflow_port + 1}",
        )
    require_free_port("Prefect", prefect_port)
    where = on_loopback(prefect_port, mlflow_port)
    if is_http_uri(execution.resolved_tracking_uri):
        return where.replace(mlflow=redact_credentials(execution.resolved_tracking_uri.rstrip("/")))
    require_free_port("MLflow", mlflow_port)
    return where


def _environment(execution: Execution, where: Servers) -> dict[str, str]:
    return {
        **os.environ,
        "PREFECT_API_URL": where.prefect_api,
        "PREFECT_UI_API_URL": where.prefect_api,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASE_STORAGE,
        "MLFLOW_BACKEND_STORE_URI": execution.resolved_tracking_uri,  # Not on the command line, which everybody can read.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # Six processes for jobs (judges of agents) that nobody here has.
    }


def _start(
    command: Sequence[str], log: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def _wait_for(name: str, server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if health_error(url, timeout_s=2) is None:
            return
        time.sleep(_POLL_S)
    raise CodegenError(
        f"{name} did not answer at {url}",
        expected=f"an answer within {_START_TIMEOUT_S:.0f} s",
        fix=f"read {log}",
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)
            return
