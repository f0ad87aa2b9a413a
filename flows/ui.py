"""`codegen ui`: Prefect and MLflow on loopback, over the workspace of earlier runs.

Both are their own programs, started as children of this one and ended with it, also
when it is killed (`components.core.watch`). Nothing listens beyond this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from components.core.errors import CodegenError
from components.core.network import require_free_port
from flows.execution import Execution

_START_TIMEOUT_S = 90.0
"""Assumption: a first start migrates two databases, which took under 30 s on two busy cores."""


def serve(execution: Execution, *, prefect_port: int, mlflow_port: int, console: Console) -> None:
    """Start both servers, print their addresses, and wait until one ends or a signal arrives.

    Raises:
        CodegenError: a port is taken, or a server ended or did not answer.
    """
    for name, port in [("Prefect", prefect_port), ("MLflow", mlflow_port)]:
        require_free_port(name, port)
    logs = execution.workspace_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    prefect_url, mlflow_url = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    environment = {**os.environ, "PREFECT_API_URL": f"{prefect_url}/api", "PREFECT_UI_API_URL": f"{prefect_url}/api"}
    servers = {
        "prefect": _start(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)],
            logs / "prefect.log",
            environment,
        ),
        "mlflow": _start(_mlflow(execution, mlflow_port), logs / "mlflow.log", environment),
    }
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for name, url in [("prefect", f"{prefect_url}/api/health"), ("mlflow", f"{mlflow_url}/health")]:
            _wait_for(name, servers[name], url, logs / f"{name}.log")
        console.print(
            f"Prefect  {prefect_url}    flow runs, tasks, logs\nMLflow   {mlflow_url}    experiments, models, artifacts"
        )
        page = execution.workspace_path / "report.html"
        console.print(f"Results  file://{page}\n" if page.exists() else "", "Ctrl-C ends both.", sep="")
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise CodegenError(f"{ended} ended", expected="a server that runs", do=f"read {logs / ended}.log")
    except KeyboardInterrupt:
        console.print("ended")
    finally:
        signal.signal(signal.SIGTERM, previous)
        for server in servers.values():
            _stop(server)


def _mlflow(execution: Execution, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [*command, "--backend-store-uri", execution.resolved_tracking_uri]


def _start(command: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)


def _wait_for(name: str, server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise CodegenError(
        f"{name} did not answer at {url}", expected=f"an answer within {_START_TIMEOUT_S:.0f} s", do=f"read {log}"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=10)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
