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

RESTART_MESSAGE = "Restarted by an automation of codegen: the process or machine was gone."
"""Message of the states of automatic restarts, by which they are counted."""
_START_STATES = ("Scheduled", "AwaitingRetry")
"""Names of the states in which a run is scheduled by a user, a schedule or an automation."""
ACTIVE_RUNS_FOLDER = "active-runs"
"""In the workspace: a file per active flow run."""


class _Owner(Config):
    host: str
    pid: int
    started: float

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
    owner = _Owner(host=platform.node(), pid=os.getpid(), started=psutil.Process().create_time())
    write_json(path, owner.model_dump())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def mark_stale_runs_crashed(execution: Execution) -> list[str]:
    """Mark stale flow runs and their tasks as Crashed; return the ids of the flow runs.

    If this flow run is a restart of a stale run, only its tasks are marked.
    """
    paths = _owner_files(execution, is_dead=True)
    if not paths:
        return []
    with get_client(sync_client=True) as client:
        for path in paths:
            _mark_crashed(client, UUID(path.stem))
            path.unlink(missing_ok=True)
    return [path.stem for path in paths]


def check_num_restarts(max_restarts: int) -> None:
    """Check how often this flow run was restarted by an automation since a user started it.

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
            f"this flow run crashed {num_restarts} times",
            expected=f"at most {max_restarts} automatic restarts (max_restarts)",
            fix="find the cause in the logs of the machine; then start the run again to resume",
        )
    if num_restarts:
        logger.warning("automatic restart %d of %d", num_restarts, max_restarts)


def active_run_ids(execution: Execution) -> list[str]:
    """Return the ids of flow runs in this workspace whose process is not known to have ended."""
    return [path.stem for path in _owner_files(execution, is_dead=False)]


def _owner_files(execution: Execution, *, is_dead: bool) -> list[Path]:
    paths = sorted((execution.workspace_path / ACTIVE_RUNS_FOLDER).glob("*.json"))
    return [path for path in paths if _Owner.parse(read_json(path)).is_dead == is_dead]


def _mark_crashed(client: SyncPrefectClient, run_id: UUID) -> None:
    state: State[object] = Crashed(message="The process of this flow run was killed.")
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:  # Prefect's database was replaced.
        return
    if run.state is None or run.state.is_final():
        return
    run_filter = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task_run in client.read_task_runs(flow_run_filter=run_filter):
        if task_run.state and not task_run.state.is_final():
            client.set_task_run_state(task_run.id, state, force=True)
    if str(run_id) == flow_run.id:
        return
    client.set_flow_run_state(run_id, state, force=True)
    logger.info("flow run %s was killed; marked as Crashed", run.name)
