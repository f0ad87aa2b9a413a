"""Starts the Prefect and MLflow servers of a workspace on loopback, for the duration of a block.

Both are child processes, and end with this process even if it is killed
(`components.core.processes`). `servers.json` in the workspace has their addresses, so a run in
the same workspace uses this Prefect instead of opening its database again. Both servers require the
credentials of the workspace (`flows.settings.credentials`) and refuse foreign Hosts and Origins.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from rich.console import Console

from components.core.config import Config
from components.core.errors import CodegenError, ConfigError
from components.core.files import write_json
from components.core.network import health_error, is_http_uri, redact_credentials, require_free_port
from components.registry.mlflow_server import CREDENTIALS, STORE_URI
from flows.servers.db_upgrade import require_current_schema
from flows.settings.credentials import FILE, Credentials, read_or_create
from flows.settings.execution import SERVERS_FILE, Execution, running_servers

_START_TIMEOUT_S = 300.0
"""Assumption. A first start migrates two databases: 30 s on two busy cores, over 90 s on
overloaded cores (measured)."""
_POLL_INTERVAL_S = 0.3
_HEALTH_TIMEOUT_S = 10.0
"""Assumption: a healthy server responds in this time on a busy machine too."""

PREFECT_MODULE = "flows.servers.prefect_server"
_MLFLOW_MODULE = "components.registry.mlflow_server"
_LEASE_STORAGE = "prefect.server.concurrency.lease_storage.filesystem"
"""Keeps the holders of concurrency slots over a restart; by default their slots stay occupied."""


class ServerAddresses(Config):
    """URLs of the two servers of a workspace."""

    prefect: str
    mlflow: str

    @property
    def prefect_api(self) -> str:
        """URL of the API for clients and workers."""
        return f"{self.prefect}/api"


def server_addresses(prefect_port: int, mlflow_port: int) -> ServerAddresses:
    """Return the loopback addresses of two ports."""
    return ServerAddresses(
        prefect=f"http://127.0.0.1:{prefect_port}", mlflow=f"http://127.0.0.1:{mlflow_port}"
    )


class ServerProcesses:
    """The server processes that this process started."""

    def __init__(
        self,
        addresses: ServerAddresses,
        processes: dict[str, subprocess.Popen[bytes]],
        workspace: Path,
    ) -> None:
        self.addresses = addresses
        self.credentials_path = workspace / FILE
        self._processes = processes
        self._log_folder = workspace / "logs"

    @property
    def owns_mlflow(self) -> bool:
        """Whether an MLflow server was started; `tracking_uri` may name an existing server."""
        return "mlflow" in self._processes

    def wait(self) -> None:
        """Block until a server exits.

        Raises:
            CodegenError: a server exited.
        """
        while True:
            self.require_running()
            time.sleep(_POLL_INTERVAL_S)

    def require_running(self) -> None:
        """Check that the servers run.

        Raises:
            CodegenError: a server exited.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise CodegenError(
                    f"the {name} server exited",
                    expected="a running server",
                    fix=f"read {self._log_folder / name}.log",
                )


def run_ui_servers(
    execution: Execution, *, prefect_port: int, mlflow_port: int, console: Console
) -> None:
    """Start both servers, print their addresses, and wait until one exits or a signal arrives.

    Raises:
        CodegenError: a port is in use, or a server exited or is not healthy.
    """
    with local_servers(execution, prefect_port=prefect_port, mlflow_port=mlflow_port) as servers:
        print_addresses(servers, execution, console)
        console.print("Ctrl-C stops both servers.")
        servers.wait()


def print_addresses(servers: ServerProcesses, execution: Execution, console: Console) -> None:
    """Print the addresses of the servers and how to sign in."""

    def print_text(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    credentials_path = servers.credentials_path
    print_text(f"Prefect  {servers.addresses.prefect}    flow runs, tasks, logs")
    print_text(f"MLflow   {servers.addresses.mlflow}    experiments, models, artifacts")
    hint = "Prefect asks for PREFECT_API_AUTH_STRING"
    if servers.owns_mlflow:
        hint += ", MLflow for user name and password"
    print_text(f"Sign in  {hint}: see {credentials_path}")
    print_text(f"Shells   . {shlex.quote(str(credentials_path))}    before `prefect ...`")
    report = execution.workspace_path / "report.html"
    if report.exists():
        print_text(f"Results  file://{report}")


def require_healthy_prefect() -> None:
    """Check that the configured Prefect server, if any, is healthy and accepts this client.

    Prefect's own client would retry for minutes.

    Raises:
        ConfigError: the server is unreachable, or it refuses the credentials.
    """
    from prefect.settings import PREFECT_API_URL  # Of the environment, a profile, or a file.

    url = PREFECT_API_URL.value()
    if not url:
        return
    safe_url = redact_credentials(url)
    if error := health_error(f"{url.rstrip('/')}/health", _HEALTH_TIMEOUT_S):
        raise ConfigError(
            f"the Prefect server at PREFECT_API_URL, {safe_url}, does not respond ({error})",
            expected=f"a response from /health within {_HEALTH_TIMEOUT_S:.0f} s",
            fix="start the server, or unset PREFECT_API_URL: a run then starts a temporary server",
        )
    if status := _refusal_status():
        raise ConfigError(
            f"the Prefect server at {safe_url} refuses this client ({status})",
            expected="the credentials of the server in PREFECT_API_AUTH_STRING",
            fix=f"for a server of `codegen ui` or `codegen serve`, run `. {FILE}` in its "
            "workspace; otherwise ask the administrator of the server",
        )


def _refusal_status() -> str | None:
    """Return the HTTP status if the Prefect server refuses the credentials, or None."""
    import httpx
    from prefect.client.orchestration import get_client  # With the user's keys and certificates.

    with get_client(sync_client=True) as client:
        try:
            client.hello()
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (401, 403):
                return f"{error.response.status_code} {error.response.reason_phrase}"
    return None


@contextmanager
def local_servers(
    execution: Execution, *, prefect_port: int, mlflow_port: int
) -> Iterator[ServerProcesses]:
    """Run both servers until the end of the block; only Prefect if `tracking_uri` is a server.

    Raises:
        ConfigError: the servers of the workspace are running already, the ports are equal, or
            Prefect's database has another schema.
        TrackingError: MLflow's server does not respond, or its database cannot be used.
        CodegenError: a port is in use, or a server exited or is not healthy.
    """
    addresses = _check_ports(execution, prefect_port, mlflow_port)
    require_current_schema()
    workspace = execution.workspace_path
    credentials = read_or_create(workspace)
    logs = workspace / "logs"
    owns_mlflow = not is_http_uri(execution.resolved_tracking_uri)
    health_urls = {
        "prefect": f"{addresses.prefect_api}/version",
        "mlflow": f"{addresses.mlflow}/health",
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    servers_path = workspace / SERVERS_FILE
    with ExitStack() as cleanup:

        def start(name: str, module: str, port: int) -> None:
            environment = _environment(name, execution, addresses, credentials)
            processes[name] = start_server(module, port, logs / f"{name}.log", environment)
            cleanup.callback(stop_server, processes[name])

        start("prefect", PREFECT_MODULE, prefect_port)
        # Creates or checks the database, which the server would migrate without a backup.
        execution.open_tracking().check()
        if owns_mlflow:
            start("mlflow", _MLFLOW_MODULE, mlflow_port)
        for name, process in processes.items():
            wait_until_healthy(name, process, health_urls[name], logs / f"{name}.log", credentials)
        servers = {
            **addresses.model_dump(),
            "workspace": str(workspace.resolve()),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "owns_mlflow": owns_mlflow,
        }
        # Registered here: a start that fails must not remove the file of other servers.
        cleanup.callback(servers_path.unlink, missing_ok=True)
        write_json(servers_path, servers)
        yield ServerProcesses(addresses, processes, workspace)


def _check_ports(execution: Execution, prefect_port: int, mlflow_port: int) -> ServerAddresses:
    """Return the addresses of the servers, after a check that they can be started."""
    if servers := running_servers(execution):
        raise ConfigError(
            "servers are already running for this workspace: "
            f"{servers['prefect']} and {servers['mlflow']}",
            expected="a single Prefect server per database",
            fix="use these servers, or stop them first",
        )
    if prefect_port == mlflow_port:
        raise ConfigError(
            f"Prefect and MLflow have the same port {mlflow_port}",
            expected="two ports",
            fix=f"choose another port: --mlflow-port {mlflow_port + 1}",
        )
    require_free_port("Prefect", prefect_port)
    addresses = server_addresses(prefect_port, mlflow_port)
    if is_http_uri(execution.resolved_tracking_uri):
        uri = execution.resolved_tracking_uri.rstrip("/")
        return addresses.replace(mlflow=redact_credentials(uri))
    require_free_port("MLflow", mlflow_port)
    return addresses


def _environment(
    name: str, execution: Execution, addresses: ServerAddresses, credentials: Credentials
) -> dict[str, str]:
    """Return the environment of a server; every user can read a command line, so secrets are
    here."""
    if name == "mlflow":
        return {
            **os.environ,
            CREDENTIALS: credentials.auth_string,
            STORE_URI: execution.resolved_tracking_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # Nothing here starts its processes.
        }
    # The UI calls the API at PREFECT_UI_API_URL, also if it was opened as localhost.
    origins = (addresses.prefect, addresses.prefect.replace("127.0.0.1", "localhost"))
    return {
        **os.environ,
        "PREFECT_API_URL": addresses.prefect_api,
        "PREFECT_API_AUTH_STRING": credentials.auth_string,
        "PREFECT_SERVER_API_AUTH_STRING": credentials.auth_string,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASE_STORAGE,
        "PREFECT_UI_API_URL": addresses.prefect_api,
    }


def start_server(
    module: str, port: int, log: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start `main(port)` of a module in its own session, so that signals to our process group do
    not end it.

    The garbage collector is off until `main` enables it: it would traverse the imported modules.
    """
    code = f"import gc; gc.disable(); from {module} import main; main({port})"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def wait_until_healthy(
    name: str, server: subprocess.Popen[bytes], url: str, log: Path, credentials: Credentials
) -> None:
    """Wait until a server of ours responds.

    Raises:
        CodegenError: it exited, or does not respond in time.
    """
    port = int(urlsplit(url).port or 0)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        # The port was free, but another user may have taken it since. The credentials are sent to
        # our own process only.
        if _listens(server, port) and health_error(url, 2, credentials) is None:
            return
        time.sleep(_POLL_INTERVAL_S)
    reason = "" if server.poll() is None else f": it exited after {_last_line(log)!r}"
    raise CodegenError(
        f"the {name} server does not respond at {url}{reason}",
        expected=f"a response within {_START_TIMEOUT_S:.0f} s",
        fix=f"read {log}",
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


def _listens(server: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether a server, or a process that it started, listens on a port."""
    try:
        process = psutil.Process(server.pid)
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for member in (process, *process.children(recursive=True))
            for connection in member.net_connections("tcp")
        )
    except psutil.Error:  # A process ended.
        return False


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """End a server and its children: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)
            return
