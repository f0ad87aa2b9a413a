"""The Prefect server of a command that runs flows in a workspace without servers.

Prefect's client would start a server itself, in the process group of the command. A signal to the
group (Ctrl-C, `timeout`, schedulers) would end this server, and the client would retry for minutes.
This server has its own session, logs to `logs/prefect.log` in the workspace, and ends after the
command. The modules of a run, which take as long to import, are imported while it starts. The
garbage collector is off meanwhile and never traverses the imported modules, about a million objects
(docs/figures.md, "Start").
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module

from components.core.network import free_port
from flows.servers.db_upgrade import require_current_schema
from flows.servers.local_servers import (
    PREFECT_MODULE,
    start_server,
    stop_server,
    wait_until_healthy,
)
from flows.settings.credentials import Credentials, refresh_prefect
from flows.settings.execution import Execution

_MODULES = (
    "components.data.archives.pull",
    "components.registry.versions",
    "components.preparation.corpus_pipeline",
    "components.validation.raw",
    "flows.pipeline",
)
"""They import DVC, MLflow, PyArrow, Great Expectations and Prefect."""


def import_while_server_starts(execution: Execution) -> None:
    """Import the modules of a run, and create or check MLflow's database; on return, Prefect has a
    server.

    Raises:
        ConfigError: Prefect's database has the schema of another version.
        TrackingError: MLflow's server does not respond, or its database cannot be used.
        CodegenError: the server exited or is not healthy.
    """
    gc.disable()
    try:
        wait_for_server = _start_server(execution)
        for name in _MODULES:
            import_module(name)
        execution.open_tracking().check()
        wait_for_server()
    finally:
        gc.freeze()
        gc.enable()


def _start_server(execution: Execution) -> Callable[[], None]:
    """Start a server unless Prefect has one; return a function that waits until it is healthy."""
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return lambda: None
    require_current_schema()
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT__SERVER_EPHEMERAL": "1",  # Without the services of deployments.
        "PREFECT_API_URL": url,
        # Only the UI and notifications need registered block types.
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
        "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
        "PREFECT_UI_ENABLED": "0",
    }
    log = execution.workspace_path / "logs" / "prefect.log"
    process = start_server(PREFECT_MODULE, port, log, environment)
    atexit.register(stop_server, process)
    os.environ["PREFECT_API_URL"] = url
    refresh_prefect()
    _disable_heartbeats()
    credentials = Credentials.parse(os.environ["PREFECT_API_AUTH_STRING"])
    return lambda: wait_until_healthy("prefect", process, f"{url}/version", log, credentials)


def _disable_heartbeats() -> None:
    """Send no heartbeats until the end of this process: only a permanent server watches them, and
    Prefect waits up to a second at the end of each flow for the thread that sends them."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    settings = ExitStack()
    settings.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
    atexit.register(settings.close)
