"""Stale flow runs: runs whose process was killed are marked Crashed at the next start.

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
from components.core.files import read_json, write_json
from components.core.processes import is_running
from flows.settings.execution import Execution

logger = logging.getLogger(__name__)

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
    """Mark stale flow runs and their tasks as Crashed; return the ids of the flow runs."""
    paths = _owner_files(execution, is_dead=True)
    if not paths:
        return []
    with get_client(sync_client=True) as client:
        for path in paths:
            _mark_crashed(client, UUID(path.stem))
            path.unlink(missing_ok=True)
    return [path.stem for path in paths]


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
    client.set_flow_run_state(run_id, state, force=True)
    logger.info("flow run %s was killed; marked as Crashed", run.name)
