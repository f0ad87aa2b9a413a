"""`codegen serve`: serves the deployments of a recipe with Prefect's runner in this process.

The runner starts a process for each flow run, and terminates it with its children when the run is
cancelled. If PREFECT_API_URL names a server, that server is used and none is started.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from components.core.errors import CodegenError
from flows.runtime.health_checks import preflight_check
from flows.servers.local_servers import (
    local_servers,
    print_addresses,
    require_healthy_prefect,
    server_addresses,
)
from flows.settings.credentials import read_or_create, use
from flows.settings.execution import HEARTBEAT_S, Execution
from flows.settings.recipes import Recipe

if TYPE_CHECKING:  # Prefect reads PREFECT_API_URL at import, which `serve` sets first.
    from prefect.deployments.runner import RunnerDeployment

_MAX_MESSAGE_CHARS = 300
"""Characters of a response that an error shows."""
_POLL_INTERVAL_S = 2.0
"""Interval of checks for new and cancelled runs. Prefect's default of 10 s is half of the time in
which a run must be cancelled."""
_GRACE_S = 13.0
"""Seconds for flow runs to end after a signal; their ranks have 10 s of them."""


def serve(
    recipe: Recipe,
    execution: Execution,
    *,
    name: str,
    crons: Mapping[str, str],
    timezone: str,
    prefect_port: int,
    mlflow_port: int,
    console: Console,
) -> None:
    """Serve the deployments of a recipe until a signal arrives.

    Args:
        recipe: default recipe of the deployments.
        execution: default execution config of the deployments.
        name: recipe name on the command line; the deployments are `pipeline/NAME`, ...
        crons: schedules to activate, by flow name.
        timezone: time zone of the schedules.
        prefect_port: port of Prefect's server, if it is started.
        mlflow_port: port of MLflow's server.
        console: output.

    Raises:
        ConfigError: a flow, schedule or time zone is invalid; see also `preflight_check`.
        EvaluationError: see `preflight_check`.
        CodegenError: a port is in use, or a server exited or is not healthy.
        DiskFullError: less than `Execution.min_free_disk_mb` is free.
    """
    execution.require_disk_space()
    preflight_check(recipe, execution)
    uses_existing_server = bool(os.environ.get("PREFECT_API_URL"))
    if uses_existing_server:
        require_healthy_prefect()
    else:
        addresses = server_addresses(prefect_port, mlflow_port)
        os.environ["PREFECT_API_URL"] = addresses.prefect_api
        use(read_or_create(execution.workspace_path))
    from flows.deploy.deployments import deployments, flows_without_corpora

    served = deployments(name, recipe, execution, crons, timezone)
    for flow_name in sorted(flows_without_corpora(recipe)):
        console.print(
            f"not served  {flow_name}/{name}: its corpora have no sources; add them with --set or "
            "in a recipe file (docs/adding-a-corpus.md)",
            soft_wrap=True,
        )
    if uses_existing_server:
        _start_runner(served, crons, console).run(lambda: None)
        return
    with local_servers(execution, prefect_port=prefect_port, mlflow_port=mlflow_port) as servers:
        print_addresses(servers, execution, console)
        _start_runner(served, crons, console).run(servers.require_running)


def _start_runner(
    deployments: Sequence[RunnerDeployment], crons: Mapping[str, str], console: Console
) -> DeploymentRunner:
    from flows.deploy.automations import create_missing_automations
    from flows.deploy.deployments import active_schedules

    create_missing_automations()
    for deployment in deployments:
        if deployment.flow_name in crons:
            continue
        # A schedule that a user activated stays active after a restart.
        if schedules := active_schedules(deployment.full_name):
            deployment.schedules = [*schedules]
    return DeploymentRunner(deployments, console)


class DeploymentRunner:
    """Prefect's runner with its deployments."""

    def __init__(self, deployments: Sequence[RunnerDeployment], console: Console) -> None:
        """Register the deployments with the server."""
        from prefect.runner import Runner

        self._console = console
        self._runner = Runner(
            name="codegen",
            limit=None,
            query_seconds=_POLL_INTERVAL_S,
            heartbeat_seconds=HEARTBEAT_S,
            pause_on_shutdown=False,  # After a restart, missed runs are started.
        )
        for deployment in deployments:
            self._add(deployment)
            console.print(f"serving  {deployment.full_name}", soft_wrap=True)
        console.print(
            f"\nStart a run in the Prefect UI, or with\n"
            f"prefect deployment run {deployments[0].full_name}\nCtrl-C stops everything."
        )

    def _add(self, deployment: RunnerDeployment) -> None:
        from prefect.deployments.runner import DeploymentApplyError

        try:
            self._runner.add_deployment(deployment)
        except DeploymentApplyError as error:  # Its message quotes the whole request.
            message = str(error)[:_MAX_MESSAGE_CHARS]
            raise CodegenError(
                f"Prefect's server rejected {deployment.full_name}: {message}",
                expected="a server of the version in requirements/main.lock",
                fix="compare the output of `prefect version` here and on the server",
            ) from error

    def run(self, check: Callable[[], None]) -> None:
        """Run flows until a signal arrives; then cancel the active flow runs.

        Args:
            check: called at each poll; it raises to stop the runner.

        Raises:
            CodegenError: the runner stopped, as it does if the server is unreachable for long.
        """
        # In a thread, because a signal raises an exception in the main thread.
        loop = asyncio.new_event_loop()
        errors: list[BaseException] = []

        def run_loop() -> None:
            try:
                loop.run_until_complete(self._runner.start())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run_loop, name="runner", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL_INTERVAL_S)
                check()
            cause = errors[0] if errors else None
            raise CodegenError(
                f"Prefect's runner stopped: {cause or 'unknown reason'}",
                expected="a runner that runs until a signal arrives",
                fix="check Prefect's server and start this command again; missed runs are started "
                "then",
            ) from cause
        finally:
            if thread.is_alive():
                asyncio.run_coroutine_threadsafe(self._runner.astop(), loop)
                thread.join(_GRACE_S)
