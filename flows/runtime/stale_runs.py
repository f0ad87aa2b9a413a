"""Flow runs of killed processes: marked Crashed in Prefect at the next start, instead of showing as Running for ever.

Design decision: a flow run's owner (host, pid, start time) stands in a small file of the workspace while it runs, so that
finding the abandoned ones needs no search of Prefect's database, and runs of other hosts and workspaces are never touched.
MLflow's runs carry the same in tags (`components.registry.tracking`). Not covered: a kill in the moment before the file.
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


class _Owner(Config):
    host: str
    pid: int
    started: float

    @property
    def is_dead(self) -> bool:
        """Whether this host ran it and runs it no more; of another host nothing is known."""
        return self.host == platform.node() and not is_running(self.pid, self.started)


@contextmanager
def record_owner(execution: Execution) -> Iterator[None]:
    """Remember whose flow run this is, as long as the block runs."""
    if flow_run.id is None:  # Not in a flow.
        yield
        return
    note = _folder(execution) / f"{flow_run.id}.json"
    owner = _Owner(host=platform.node(), pid=os.getpid(), started=psutil.Process().create_time())
    write_json(note, owner.model_dump())
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def mark_stale_runs_crashed(execution: Execution) -> list[str]:
    """Mark flow runs as Crashed, with their tasks, whose process on this host is gone; return their ids."""
    notes = [
        note
        for note in sorted(_folder(execution).glob("*.json"))
        if _Owner.parse(read_json(note)).is_dead
    ]
    if not notes:
        return []
    with get_client(sync_client=True) as client:
        for note in notes:
            _crash(client, UUID(note.stem))
            note.unlink(missing_ok=True)
    return [note.stem for note in notes]


def active_run_ids(execution: Execution) -> list[str]:
    """The ids of flow runs whose process is, as far as this host can tell, at work on the workspace."""
    return [
        note.stem
        for note in sorted(_folder(execution).glob("*.json"))
        if not _Owner.parse(read_json(note)).is_dead
    ]


def _crash(client: SyncPrefectClient, run_id: UUID) -> None:
    state: State[object] = Crashed(message="Its process was killed.")
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:  # Prefect's database was removed meanwhile.
        return
    if run.state is None or run.state.is_final():
        return
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    for task in tasks:
        if task.state and not task.state.is_final():
            client.set_task_run_state(task.id, state, force=True)
    client.set_flow_run_state(run_id, state, force=True)
    logger.info("the flow run %s was killed; marked as such", run.name)


def _folder(execution: Execution) -> Path:
    return execution.workspace_path / "running"
