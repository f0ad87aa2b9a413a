"""Stale flow runs: runs whose process was killed are marked Crashed at the next start.

An automation of the server (`flows.deploy.automations`) schedules the crashed run of a deployment
again. The restarted run keeps its id, and counts its restarts in the history of its states.

A file in the workspace records the owner of each active flow run (host, pid, start time), so no
search of Prefect's database is needed and runs of other hosts and workspaces are not touched.
MLflow runs have the same data as tags (`components.registry.tracking`). Limit: a kill before the
file is written is not detected.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from components.core.config import Config
from components.core.errors import CodegenError
from components.core.files import read_json, write_json
from components.core.processes import is_running
from flows.settings.execution import Execution

logger = logging.getLogger(__name__)

RESTART_MESSAGE = "Restarted by codegen: the process or machine was gone."
"""Message of the states of automatic restarts, by which they are counted."""
_START_STATES = ("Scheduled", "AwaitingRetry")
"""Names of the states in which a run is scheduled by a user, a schedule or an automation."""
ACTIVE_RUNS_FOLDER = "active-runs"
"""In the workspace: a file per active flow run."""


class _Owner(Config):
    host: str
    pid: int
    started: float
    run_count: int = 1
    """How often the flow run had been started."""

    @property
    def is_dead(self) -> bool:
        """Whether the process ran on this host and has ended; False for other hosts."""
        return self.host == platform.node() and not is_running(self.pid, self.started)


@contextmanager
def record_owner(execution: Execution) -> Iterator[None]:
    """Record this process as the owner of the flow run while the block runs."""
    if flow_run.id is None:  # Outside a flow run.
        yield
        return
    path = execution.workspace_path / ACTIVE_RUNS_FOLDER / f"{flow_run.id}.json"
    owner = _Owner(
        host=platform.node(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        run_count=flow_run.run_count,
    )
    write_json(path, owner.model_dump())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def mark_stale_runs_crashed(execution: Execution) -> list[str]:
    """Mark stale flow runs and their tasks as Crashed; return the ids of the flow runs."""
    owners = {path: owner for path, owner in _read_owners(execution).items() if owner.is_dead}
    if not owners:
        return []
    with get_client(sync_client=True) as client:
        for path, owner in owners.items():
            _mark_crashed(client, UUID(path.stem), owner)
            path.unlink(missing_ok=True)
    return [path.stem for path in owners]


def check_num_restarts(max_restarts: int) -> None:
    """Check how often this flow run was restarted without a user since a user started it.

    Raises:
        CodegenError: more often than `max_restarts`. The run then fails, and is not restarted.
    """
    if flow_run.id is None or flow_run.run_count <= 1:
        return
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(flow_run.id))
    starts = [state for state in states if state.name in _START_STATES]
    num_restarts = 0
    for state in sorted(starts, key=lambda state: state.timestamp, reverse=True):
        if state.message != RESTART_MESSAGE:
            break
        num_restarts += 1
    if num_restarts > max_restarts:
        raise CodegenError(
            f"this flow run was interrupted {num_restarts} times",
            expected=f"at most {max_restarts} automatic restarts (max_restarts)",
            fix="find the cause in the logs of the machine, or raise max_restarts if it is often "
            "preempted; then start the run again to resume",
        )
    if num_restarts:
        logger.warning("automatic restart %d of %d", num_restarts, max_restarts)


def active_run_ids(execution: Execution) -> list[str]:
    """Return the ids of flow runs in this workspace whose process is not known to have ended."""
    owners = _read_owners(execution)
    return [path.stem for path, owner in owners.items() if not owner.is_dead]


def _read_owners(execution: Execution) -> dict[Path, _Owner]:
    paths = sorted((execution.workspace_path / ACTIVE_RUNS_FOLDER).glob("*.json"))
    return {path: _Owner.parse(read_json(path)) for path in paths}


def _mark_crashed(client: SyncPrefectClient, run_id: UUID, owner: _Owner) -> None:
    state: State[object] = Crashed(message="The process of this flow run was killed.")
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:  # Prefect's database was replaced.
        return
    if run.state is None or run.state.is_final():
        return
    if run.state.is_scheduled() or run.state.is_pending() or run.run_count != owner.run_count:
        return  # It was restarted.
    run_filter = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task_run in client.read_task_runs(flow_run_filter=run_filter):
        if task_run.state and not task_run.state.is_final():
            client.set_task_run_state(task_run.id, state, force=True)
    client.set_flow_run_state(run_id, state, force=True)
    logger.info("flow run %s was killed; marked as Crashed", run.name)
