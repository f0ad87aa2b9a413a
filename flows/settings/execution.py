"""The execution config: where and how fast a run executes. No field is ever part of a hash."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.core.config import Config
from components.core.errors import ConfigError
from components.core.files import read_json, require_disk_space, wrap_disk_full
from components.core.network import PublicUri, bypass_proxies_for_loopback, redact_credentials
from components.core.paths import create_private_folder
from components.core.processes import is_running
from components.core.sqlite import sqlite_url
from components.core.store import Store
from components.data.config import DataExecution
from components.evaluation.config import BenchmarkConfig, SandboxKind
from components.model.config import DecodeMode
from components.training.config import TrainingExecution
from flows.settings.credentials import sign_in

if TYPE_CHECKING:  # Imports MLflow and more than most commands need.
    from components.evaluation.benchmarks.benchmark_files import BenchmarkFiles
    from components.registry.tracking import Tracking

SERVERS_FILE = "servers.json"
"""In the workspace while its servers run: their addresses, the process that started them, and the
workspace."""
_PRIVATE_MODE = 0o700
"""Prefect's folder holds secrets (notification URLs, blocks) and the key that encrypts them."""
HEARTBEAT_S = 30
"""Interval of the heartbeats of a flow run; the shortest that Prefect allows."""
_PREFECT_RETRIES = 7
"""Retries of a request, after 1, 2, 4 ... 64 s. A run survives two minutes without its server,
whose restart took 30 s on two busy cores (measured)."""
_TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
_MTPB_VARIABLE = "CODEGEN_MTPB"
_PLACEHOLDER = "//USER:PASSWORD@"
_ENVIRONMENT_VARIABLES = {
    "workspace": "CODEGEN_WORKSPACE",
    "store": "CODEGEN_STORE",
    "tracking_uri": _TRACKING_VARIABLE,
    "archives": "CODEGEN_ARCHIVES",
    "vocabulary": "CODEGEN_VOCABULARY",
}


class Execution(Config):
    """Where and how fast a run executes; does not change results. By default everything is on this
    machine."""

    project: str = "."
    """Folder with `data/` and `data.dvc`."""
    workspace: str = "var"
    """Folder for everything that runs write: artifacts, tracking, caches, reports. Relative to
    `project`."""
    store: PublicUri | None = None
    """Root of the artifact store: a folder or an fsspec URI. None: `{workspace}/store`."""
    tracking_uri: PublicUri | None = None
    """MLflow tracking URI. None: SQLite in the workspace. A URI with a password is set in the
    environment only (MLFLOW_TRACKING_URI); this field then has USER:PASSWORD in its place."""
    tracking_retry_timeout_s: float = Field(default=600, ge=0)
    """Seconds to retry calls while the MLflow server is unreachable. Training itself does not wait.
    600 covers the restart of a machine (assumption)."""
    pins: str | None = None
    """JSON file with your own list of pinned archives, in the format of
    components/data/archives/corpus.json. None: the list of the project."""
    archives: str | None = None
    """Folder with source archives, searched before the package index."""
    vocabulary: str | None = None
    """GPT-2's vocabulary: gpt2.tiktoken, or vocab.json of GPT-2 or of a released CodeGen model, or
    a folder with one of them. None: it is fetched."""
    benchmark_files: dict[str, str] = Field(default_factory=dict)
    """Paths of the files of the recipe's benchmarks, by name. HumanEval needs none; MTPB is
    downloaded if it has none."""
    data: DataExecution = DataExecution()
    training: TrainingExecution = TrainingExecution(world_size=2, micro_batch=2)
    min_free_disk_mb: int = Field(default=200, ge=0)
    """Free disk space in MB that the workspace needs before a run starts, for the databases of
    Prefect and MLflow (assumption). Each step checks its own needs."""
    step_timeout_s: float | None = Field(default=None, gt=0)
    """Seconds after which a step is stopped and its run fails; a new run resumes. Waiting for the
    training lock does not count. None: no limit."""
    max_restarts: int = Field(default=3, ge=0)
    """Automatic restarts after a crash, a preemption or a stall (assumption): of a training stage,
    and of the run of a deployment whose process is gone."""
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port for Prometheus metrics while a stage is trained. None: no port is opened."""
    metrics_host: str = "127.0.0.1"
    """Address of the port. The metrics are readable without a password."""
    evaluation_workers: int = Field(default=2, ge=1)
    """Number of processes that execute generated code, each in its own sandbox."""
    sandbox: SandboxKind | None = None
    """Sandbox to use: bubblewrap, namespaces or landlock. None: the strongest that is available."""
    decode_mode: DecodeMode = "eager"
    """How a GPU runs a decoding step: kernel by kernel (eager), as a CUDA graph (graphs), or
    compiled, which takes minutes to compile (compiled). No effect on a CPU. graphs and compiled
    were not yet run on a GPU."""
    unsafe_execution: bool = False
    """Run generated code without a sandbox if none is available. Results are marked and cannot be
    promoted."""

    @property
    def project_path(self) -> Path:
        """The absolute path of the project."""
        return Path(self.project).resolve()

    @property
    def workspace_path(self) -> Path:
        """The absolute path of the workspace."""
        return self.project_path / self.workspace

    @property
    def resolved_tracking_uri(self) -> str:
        """The MLflow tracking URI, with the default and the password filled in.

        Raises:
            ConfigError: it needs a password, and the environment has none for it.
        """
        if self.tracking_uri is None:
            return sqlite_url(self.workspace_path / "mlflow" / "mlflow.db")
        uri = os.environ.get(_TRACKING_VARIABLE, "")
        if redact_credentials(uri) == self.tracking_uri:
            return uri
        if _PLACEHOLDER in self.tracking_uri:
            raise ConfigError(
                f"the environment has no password for the tracking URI {self.tracking_uri}",
                expected=f"{_TRACKING_VARIABLE} with the whole URI",
                fix=f"set {_TRACKING_VARIABLE} where this run executes",
            )
        return self.tracking_uri

    def open_tracking(self) -> Tracking:
        """Return the MLflow tracking; does not connect yet."""
        from components.registry.tracking import Tracking

        artifacts = self.workspace_path / "mlflow" / "artifacts"
        return Tracking(self.resolved_tracking_uri, artifacts, self.tracking_retry_timeout_s)

    def require_disk_space(self) -> None:
        """Check that the workspace has `min_free_disk_mb` of free disk space.

        Raises:
            DiskFullError: it has less.
        """
        require_disk_space(
            self.workspace_path,
            self.min_free_disk_mb * 1_000_000,
            "the records of a run (min_free_disk_mb)",
        )

    def find_benchmarks(self, benchmarks: Mapping[str, BenchmarkConfig]) -> BenchmarkFiles:
        """Return the verified files of benchmarks.

        Raises:
            EvaluationError: see `find_benchmark_files`.
        """
        from components.evaluation.benchmarks.benchmark_files import find_benchmark_files

        cache = self.workspace_path / "cache"
        return find_benchmark_files(benchmarks, self.benchmark_files, cache)

    def open_store(self) -> Store:
        """Return the artifact store."""
        workspace_store = self.workspace_path / "store"
        return Store(self.store or workspace_store, scratch=workspace_store if self.store else None)


def execution_from_environment(overrides: Iterable[str] = ()) -> Execution:
    """Return the execution config of the environment variables, with `FIELD=VALUE` overrides
    applied.

    Raises:
        ConfigError: an override names an unknown field or has a value of the wrong type.
    """
    values: dict[str, Any] = {
        field: os.environ[variable]
        for field, variable in _ENVIRONMENT_VARIABLES.items()
        if os.environ.get(variable)
    }
    if uri := values.get("tracking_uri"):
        values["tracking_uri"] = redact_credentials(uri)
    if path := os.environ.get(_MTPB_VARIABLE):
        values["benchmark_files"] = {"mtpb": path}
    return Execution.parse(values).override(overrides)


def setup_environment(execution: Execution, *, runs: bool = True) -> None:
    """Create the workspace, and set the environment variables of libraries: no telemetry, all state
    in the workspace.

    Call it once per process, before Prefect or MLflow are imported. Variables that are already set
    keep their values.

    Args:
        execution: the execution config.
        runs: whether flow runs may follow. Without a Prefect server they start a temporary server,
            which gets a secret.

    Raises:
        ConfigError: the project does not exist, the workspace cannot be created, its caches are
            open to other users, or the credentials of its servers are unsafe.
        DiskFullError: the disk is full.
    """
    if not execution.project_path.is_dir():
        raise ConfigError(
            f"project is {execution.project_path}, which is not a folder",
            expected="the folder with data.dvc and .dvc/",
            fix="set --exec project=..., or run the command in a clone of the project",
        )
    for name, value in environment(execution).items():
        os.environ.setdefault(name, value)
    if "?" in os.environ["PREFECT_HOME"]:  # Prefect's own URL would end at this character.
        url = sqlite_url(Path(os.environ["PREFECT_HOME"]) / "prefect.db", "aiosqlite")
        os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", url)
    bypass_proxies_for_loopback()
    _quiet_loggers()
    _make_folder(execution.workspace_path)  # Prefect creates its folder, but no parents.
    _make_folder(Path(os.environ["PREFECT_HOME"]), mode=_PRIVATE_MODE)
    create_private_folder(
        execution.workspace_path / "cache",
        "caches, some of which contain code",
        "correct its owner and its mode, or set CODEGEN_WORKSPACE to a folder of your own",
        others_may_read=True,
    )
    sign_in(
        execution.workspace_path,
        running_servers(execution),
        execution.resolved_tracking_uri,
        runs=runs,
    )


def _quiet_loggers() -> None:
    """Remove repeated messages from the terminal; the logs in Prefect stay complete."""
    # Every task and flow logs an error that passes through it. The entry prints the error once.
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False
    # At exit, Prefect warns about events that it is still sending. A lost event is another warning.
    logging.getLogger("EventsWorker").addFilter(
        lambda record: not record.getMessage().startswith("Still processing")
    )
    # urllib3 warns at each retry. The final error reports the cause once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def environment(execution: Execution) -> dict[str, str]:
    """Return the environment variables that libraries read in every process of a run."""
    variables = {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        # PyTorch's default is a predictable name in a folder of all users, from which it loads
        # compiled code.
        "TORCHINDUCTOR_CACHE_DIR": str(execution.workspace_path / "cache" / "torch-inductor"),
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # components.registry.client retries instead.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # A bar would appear for each small file.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "OMP_WAIT_POLICY": "passive",  # Spinning threads slow others: docs/figures.md.
        "PREFECT_CLIENT_MAX_RETRIES": str(_PREFECT_RETRIES),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_HOME": str(execution.workspace_path / "prefect"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "components,flows",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite has a single writer; the default is 10 s.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # All runs of a workspace share its server: a server per run would share the database.
    if servers := running_servers(execution):
        variables["PREFECT_API_URL"] = f"{servers['prefect']}/api"
    return variables


def running_servers(execution: Execution) -> dict[str, Any] | None:
    """Return the addresses (`prefect`, `mlflow`) of the servers that run over the workspace, or
    None.

    `owns_mlflow` is false if `mlflow` is an existing server that `tracking_uri` names. The file in
    a copy of a workspace names the servers of the original, which are not returned.
    """
    path = execution.workspace_path / SERVERS_FILE
    try:
        servers = read_json(path)
        if not execution.workspace_path.samefile(servers["workspace"]):
            return None
        return servers if is_running(servers["pid"], servers["started"]) else None
    except (OSError, ValueError, KeyError):  # No file, or a damaged file.
        return None


def _make_folder(folder: Path, mode: int = 0o777) -> None:
    try:
        with wrap_disk_full("creating the workspace"):
            folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the workspace folder {folder} cannot be created: {error.strerror}",
            expected="a folder that this user can create and write",
            fix="set --exec workspace=... or CODEGEN_WORKSPACE",
        ) from error
