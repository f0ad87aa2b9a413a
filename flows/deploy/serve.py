"""`codegen ui` and `codegen serve`: the two servers over a workspace, and with `serve` the deployments that run there.

One decision: `serve` is Prefect's own runner in this process, which starts a process for each flow run and ends it, with
all that it has started, when the run is cancelled. Where PREFECT_API_URL names a server, that one is used and none started.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from components.core.errors import CodegenError
from flows.servers.local_servers import ServerProcesses, local_servers, on_loopback
from flows.settings.credentials import read_or_create, use
from flows.settings.execution import HEARTBEAT_S, Execution
from flows.settings.recipes import Recipe

if TYPE_CHECKING:  # Prefect is imported once its server is known.
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

_QUOTED = 300
"""Characters of an answer that are shown."""
_POLL_INTERVAL_S = 2.0
"""Between two looks for runs to start and to cancel; Prefect's default, 10 s, would be half of the time to cancel within."""
_GRACE_S = 30.0
"""For flow runs to end after a signal: as long as Prefect waits before it kills them."""


def run_ui_servers(
    execution: Execution, *, prefect_port: int, mlflow_port: int, console: Console
) -> None:
    """Start both servers, print their addresses, and wait until one ends or a signal arrives.

    Raises:
        CodegenError: a port is taken, or a server ended or did not answer.
    """
    with local_servers(execution, prefect_port=prefect_port, mlflow_port=mlflow_port) as servers:
        _say(servers, execution, console)
        console.print("Ctrl-C ends both.")
        with _exit_on_interrupt(console):
            servers.wait()


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
    """Offer the flows of a recipe as deployments, and run what is asked for, until a signal arrives.

    Args:
        recipe: what the deployments make where nobody says otherwise.
        execution: where.
        name: the recipe's, as the command line knows it: the deployments are `pipeline/NAME`, ...
        crons: schedules to switch on, by flow.
        timezone: of the schedules.
        prefect_port: of Prefect's server, where one is started.
        mlflow_port: of MLflow's.
        console: says what is offered.

    Raises:
        ConfigError: there is no such flow, schedule or time zone.
        CodegenError: a port is taken, or a server ended or did not answer.
    """
    given = os.environ.get("PREFECT_API_URL")
    if not given:
        os.environ["PREFECT_API_URL"] = on_loopback(prefect_port, mlflow_port).prefect_api
        use(read_or_create(execution.workspace_path))
    from flows.deploy.deployments import deployments  # Prefect with it, which reads that address.

    offered = deployments(name, recipe, execution, crons, timezone)
    if given:
        _offer(offered, crons, console).run(lambda: None)
        return
    with local_servers(execution, prefect_port=prefect_port, mlflow_port=mlflow_port) as servers:
        _say(servers, execution, console)
        _offer(offered, crons, console).run(servers.require)


def _offer(
    offered: Sequence[RunnerDeployment], crons: Mapping[str, str], console: Console
) -> DeploymentRunner:
    from flows.deploy.automations import create_missing_automations
    from flows.deploy.deployments import active_schedules

    create_missing_automations()
    for one in offered:
        if one.flow_name not in crons and (schedules := active_schedules(one.full_name)):
            one.schedules = [
                *schedules
            ]  # What a person switched on is still wanted after a restart.
    return DeploymentRunner(offered, console)


class DeploymentRunner:
    """Prefect's runner with its deployments."""

    def __init__(self, deployments: Sequence[RunnerDeployment], console: Console) -> None:
        from prefect.runner import Runner

        self._console = console
        self._runner = Runner(
            name="codegen",
            limit=None,
            query_seconds=_POLL_INTERVAL_S,
            heartbeat_seconds=HEARTBEAT_S,
            pause_on_shutdown=False,  # What is scheduled is caught up with after a restart.
        )
        for one in deployments:
            _add(self._runner, one)
            console.print(f"offers   {one.full_name}", soft_wrap=True)
        console.print(
            f"\nRun one    prefect deployment run {deployments[0].full_name}, or on the page\nCtrl-C ends all."
        )

    def run(self, check: Callable[[], None]) -> None:
        """Run what is asked for until a signal arrives; flow runs that are under way then are cancelled.

        Args:
            check: called now and then; raises where it makes no sense to go on.

        Raises:
            CodegenError: the runner gave up, as it does where Prefect's server does not answer for long.
        """
        # In a thread, since in the main one the runner takes SIGTERM for itself, and its handler (3.8.8) stops nothing.
        loop = asyncio.new_event_loop()
        failed: list[BaseException] = []

        def forever() -> None:
            try:
                loop.run_until_complete(self._runner.start())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=forever, name="runner", daemon=True)
        thread.start()
        try:
            with _exit_on_interrupt(self._console):
                while thread.is_alive():
                    thread.join(_POLL_INTERVAL_S)
                    check()
                raise CodegenError(
                    f"Prefect's runner ended by itself: {failed[0] if failed else 'it does not say why'}",
                    expected="one that waits for runs until a signal comes",
                    fix="see that Prefect's server answers, and start this again: what was scheduled meanwhile is run then",
                ) from (failed[0] if failed else None)
        finally:
            if thread.is_alive():
                asyncio.run_coroutine_threadsafe(self._runner.astop(), loop)
                thread.join(_GRACE_S)


def _add(runner: Runner, deployment: RunnerDeployment) -> None:
    from prefect.deployments.runner import DeploymentApplyError

    try:
        runner.add_deployment(deployment)
    except DeploymentApplyError as error:  # It quotes all that was sent.
        raise CodegenError(
            f"Prefect's server refused {deployment.full_name}: {str(error)[:_QUOTED]}",
            expected="a server of the version that constraints.txt names",
            fix="compare `prefect version` here and there",
        ) from error


@contextmanager
def _exit_on_interrupt(console: Console) -> Iterator[None]:
    """A signal is how these commands end well."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("ended")


def _say(servers: ServerProcesses, execution: Execution, console: Console) -> None:
    where = servers.where
    console.print(
        f"Prefect  {where.prefect}    flow runs, tasks, logs\nMLflow   {where.mlflow}    experiments, models, artifacts"
    )
    asks = "Prefect asks for PREFECT_API_AUTH_STRING"
    if servers.owns_mlflow:
        asks += ", MLflow for the user name and the password"
    console.print(f"Sign in  {asks}: read {servers.credentials}", soft_wrap=True)
    console.print(
        f"Shells   . {shlex.quote(str(servers.credentials))}    before `prefect ...`",
        soft_wrap=True,
    )
    page = execution.workspace_path / "report.html"
    if page.exists():
        console.print(f"Results  file://{page}", soft_wrap=True)
