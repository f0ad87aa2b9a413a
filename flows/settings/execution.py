"""Where a run happens: folders, processes, servers. No field of this is ever part of a fingerprint.

Everything that a run leaves behind lies in one workspace folder, so it can be moved, looked at or removed as a whole.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.core.config import Config
from components.core.errors import ConfigError
from components.core.files import require_disk_space, wrap_disk_full
from components.core.processes import is_running
from components.core.store import Store
from components.data.config import DataExecution
from components.evaluation.config import SandboxKind
from components.model.config import DecodeMode
from components.training.config import TrainingExecution
from flows.settings.credentials import sign_in

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.tracking import Tracking

SERVERS_FILE = "servers.json"
"""In the workspace while servers run over it: where they listen, and whose they are."""
_PRIVATE = 0o700
"""Prefect's database holds secrets (addresses to notify, blocks) together with the key that they are encrypted with."""
HEARTBEAT_S = 30
"""Between two signs of life of a flow run, however it was started; the shortest that Prefect allows."""
_PREFECT_RETRIES = 7
"""Of one request, with pauses of 1, 2, 4 ... 64 s: a server may be away for two minutes (its restart took 30 s on two busy
cores), and a run goes on."""


class Execution(Config):
    """The place of a run. The defaults are one machine with everything embedded."""

    project: str = "."
    """The folder that holds `data/` and `data.dvc`."""
    workspace: str = "var"
    """What runs leave behind: artifacts, tracking, caches, pages. Relative paths start at `project`."""
    store: str | None = None
    """Root of the artifacts, a folder or any fsspec URI. None: `{workspace}/store`."""
    tracking_uri: str | None = None
    """MLflow. None: SQLite in the workspace."""
    tracking_retry_timeout_s: float = Field(default=600, ge=0)
    """How long a step waits for an MLflow server that went away, where it begins, ends, or writes; training itself does not
    wait. 600: a restart of a machine, and somebody who looks after it (assumption)."""
    pins: str | None = None
    """A list of pinned archives of one's own, in the form of components/data/archives/corpus.json. None: the project's."""
    archives: str | None = None
    """A folder to take source archives from before any index is asked."""
    mtpb_path: str | None = None
    """The official MTPB file. None: fetched from its upstream address, or MTPB is skipped and said to be."""
    data: DataExecution = DataExecution()
    training: TrainingExecution = TrainingExecution(world_size=2, micro_batch=2)
    min_free_disk_mb: int = Field(default=200, ge=0)
    """Room in the workspace without which no run is begun: for the databases of Prefect and MLflow, which say a full disk
    in tracebacks. Assumption; what a step itself needs is asked where it is known."""
    step_timeout_s: float | None = Field(default=None, gt=0)
    """A step that takes longer is ended, and the run fails; what it did is kept, and a rerun goes on. None: no limit. What
    it waited for another training of this host does not count."""
    evaluation_workers: int = Field(default=2, ge=1)
    """Processes that execute what a model wrote, each in a jail of its own."""
    sandbox: SandboxKind | None = None
    """The one kind of isolation that is to be used: bubblewrap, namespaces, landlock. None: the best that can be had."""
    decode_mode: DecodeMode = "eager"
    """How a GPU draws a token of all samples (nothing elsewhere): kernel by kernel, as a recorded CUDA graph (graphs), or as
    one of compiled kernels, which take minutes to make (compiled). The latter two were not yet run on a GPU."""
    unsafe_execution: bool = False
    """Execute what a model wrote even where nothing isolates it. Results say so, and no such model is promoted."""

    @property
    def project_path(self) -> Path:
        """The project's folder, absolute."""
        return Path(self.project).resolve()

    @property
    def workspace_path(self) -> Path:
        """The workspace, absolute."""
        return self.project_path / self.workspace

    @property
    def resolved_tracking_uri(self) -> str:
        """Where MLflow keeps its records."""
        return self.tracking_uri or f"sqlite:///{self.workspace_path}/mlflow/mlflow.db"

    def open_tracking(self) -> Tracking:
        """The record of runs and models; nothing is contacted yet."""
        from components.registry.tracking import Tracking

        artifacts = self.workspace_path / "mlflow" / "artifacts"
        return Tracking(self.resolved_tracking_uri, artifacts, self.tracking_retry_timeout_s)

    def require_disk_space(self) -> None:
        """Check that a run can be begun.

        Raises:
            StorageFull: fewer than `min_free_disk_mb` are free where the workspace lies, or will lie.
        """
        require_disk_space(
            self.workspace_path,
            self.min_free_disk_mb * 1_000_000,
            "the records of a run (min_free_disk_mb)",
        )

    def open_store(self) -> Store:
        """The store of artifacts."""
        return Store(
            self.store or self.workspace_path / "store",
            scratch=self.workspace_path / "store" if self.store else None,
        )


def setup_environment(execution: Execution, *, runs: bool = True) -> None:
    """Settle what libraries read from the environment: nothing phones home, all state lies in the workspace.

    Called once, at the entry, before Prefect or MLflow are imported; values that are set already are respected.

    Args:
        execution: the place.
        runs: whether flow runs may follow. Without a Prefect server they start a temporary one, which is given a secret.

    Raises:
        ConfigError: there is no such project, the workspace cannot be made, or the credentials of its servers are unsafe.
        StorageFull: no room for an empty folder.
    """
    if not execution.project_path.is_dir():
        raise ConfigError(
            f"project is {execution.project_path}, which is no folder",
            expected="the folder that holds data.dvc and .dvc/",
            fix="mend --exec project=..., or run this in a clone of the project",
        )
    for name, value in environment(execution).items():
        os.environ.setdefault(name, value)
    # Prefect logs an error with its traceback in every task and flow that it passes, and then raises it. The terminal shows
    # it once, as the entry prints it; Prefect's page keeps the full log, whose handler these loggers have themselves.
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False
    # At the end of a process it warns of the events that it still sends. That it loses one is another warning.
    logging.getLogger("EventsWorker").addFilter(
        lambda record: not record.getMessage().startswith("Still processing")
    )
    # Of an index or a server that does not answer it warns at every attempt; the error that follows says it once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # Prefect creates its home, but not the folders above it.
    _make(execution.workspace_path)
    _make(Path(os.environ["PREFECT_HOME"]), mode=_PRIVATE)
    sign_in(
        execution.workspace_path,
        running_servers(execution),
        execution.resolved_tracking_uri,
        runs=runs,
    )


def environment(execution: Execution) -> dict[str, str]:
    """What libraries read from the environment of every process of a run."""
    settings = {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Who waits for a server, how long and how loudly, is `components.registry.client.retry`'s to say.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # It is drawn for every small file, too.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "OMP_WAIT_POLICY": "passive",  # Threads that spin stop whoever shares their core: docs/figures.md.
        "PREFECT_CLIENT_MAX_RETRIES": str(_PREFECT_RETRIES),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_HOME": str(execution.workspace_path / "prefect"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "components,flows",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite has one writer; the others wait for it, and by default only 10 s.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "TOKENIZERS_PARALLELISM": "false",
    }
    serving = running_servers(
        execution
    )  # One server for all runs of a workspace, rather than one a run on the same database.
    return {**settings, "PREFECT_API_URL": f"{serving['prefect']}/api"} if serving else settings


def running_servers(execution: Execution) -> dict[str, Any] | None:
    """Where the servers of `codegen serve` or `codegen ui` listen: `prefect`, `mlflow`; None where none run here.

    `owns_mlflow` is false if `mlflow` is a server that was named, not started.
    """
    note = execution.workspace_path / SERVERS_FILE
    try:
        where = json.loads(note.read_text(encoding="utf-8"))
        return where if is_running(where["pid"], where["started"]) else None
    except (OSError, ValueError, KeyError):  # None, or half a file of one that is being started.
        return None


def _make(folder: Path, mode: int = 0o777) -> None:
    try:
        with wrap_disk_full("making the workspace"):
            folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the workspace's folder {folder} cannot be made: {error.strerror}",
            expected="a folder that this user may write, or the path of one that can be made",
            fix="mend --exec workspace=... or CODEGEN_WORKSPACE",
        ) from error
