"""MLflow as the record of runs: one experiment a recipe, one run a pipeline, one child run a step.

Design decision: a `Tracking` is the only holder of a client. Every run carries the process that owns it (host, pid, start
time), so that a run whose process was killed is found at the next start and closed as KILLED instead of showing as running
for ever. MLflow's tracking URI, a global of the process, is set once here, because its registry and its loaders read it.
Not covered: a killed process on another host, which only that host can judge.
"""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import psutil
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from components.core.artifact import Artifact
from components.core.errors import TrackingError
from components.core.provenance import provenance
from components.registry.connection import absolute, connect, explained
from components.registry.runs import TrackedRun

logger = logging.getLogger(__name__)

SYSTEM_METRICS_EVERY_S = 2.0
"""Between two samples of processor, memory, disk and network; one costs some 10 ms. Steps that are shorter show none."""

_SAME_START_S = 2.0
"""Two readings of one process's start time differ by less: the clock ticks behind it are corrected now and then."""


class Tracking:
    """The tracking server or database of this process."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        """
        Args:
            uri: `sqlite:///` and a path, or the http(s) address of an MLflow server. Nothing is contacted yet.
            artifacts: folder for files and models of runs; a server decides for itself and ignores it.
        """
        self.uri, self.artifacts = absolute(uri), artifacts.resolve()
        mlflow.set_tracking_uri(self.uri)

    @functools.cached_property
    def client(self) -> MlflowClient:
        """The connection, made at the first use.

        Raises:
            TrackingError: the server does not answer, or the database cannot be used.
        """
        return connect(self.uri)

    def check(self) -> None:
        """Make sure that runs can be recorded, in seconds, before anything expensive starts.

        Raises:
            TrackingError: the server does not answer, or the database cannot be used.
        """
        with explained("checking the connection"):
            self.client.search_experiments(max_results=1)

    @contextmanager
    def alone(self, model: str) -> Iterator[None]:
        """One process of this host at a time changes a registered model."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        with FileLock(self.artifacts / f".{model}.lock"):
            yield

    # -- runs ------------------------------------------------------------------------------------------------------

    @contextmanager
    def run(
        self,
        name: str,
        *,
        experiment: str,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
    ) -> Iterator[TrackedRun]:
        """A run on its own, a pipeline's say. Runs that a killed process of this host left open are closed first.

        The run ends FINISHED with the block, FAILED when an exception leaves it, KILLED when it is interrupted.
        """
        self.close_abandoned()
        with self._running(self._experiment_id(experiment), name, dict(tags or {}), system_metrics) as run:
            yield run

    @contextmanager
    def child(
        self, parent_id: str, name: str, *, tags: Mapping[str, str] | None = None, system_metrics: bool = False
    ) -> Iterator[TrackedRun]:
        """A run below another, which is known by its id alone: steps may run in other threads and processes."""
        with explained(f"starting {name}"):
            experiment_id = self.client.get_run(parent_id).info.experiment_id
        tags = {**(tags or {}), "mlflow.parentRunId": parent_id}
        with self._running(experiment_id, name, tags, system_metrics) as run:
            yield run

    @contextmanager
    def _running(self, experiment_id: str, name: str, tags: dict[str, str], system_metrics: bool) -> Iterator[TrackedRun]:
        with explained(f"starting {name}"):
            created = self.client.create_run(experiment_id, run_name=name, tags={**_origin(), **tags})
        run = TrackedRun(self, experiment_id, created.info.run_id, name)
        monitor = self._monitor(run) if system_metrics else None
        try:
            yield run
        except BaseException as error:
            self._end(run, "FAILED" if isinstance(error, Exception) else "KILLED", monitor, error)
            raise
        self._end(run, "FINISHED", monitor)

    def _end(
        self, run: TrackedRun, status: str, monitor: SystemMetricsMonitor | None, error: BaseException | None = None
    ) -> None:
        try:
            if monitor:
                monitor.finish()
            if error:
                run.tags({"error": f"{type(error).__name__}: {error}"})
            with explained(f"ending {run.name}"):
                self.client.set_terminated(run.id, status)
        except TrackingError as second:
            if error is None:
                raise
            logger.warning("could not mark %s as %s: %s", run.name, status, second.got)  # The first error matters more.

    def _monitor(self, run: TrackedRun) -> SystemMetricsMonitor:
        monitor = SystemMetricsMonitor(run.id, sampling_interval=SYSTEM_METRICS_EVERY_S, tracking_uri=self.uri)
        monitor.start()
        return monitor

    def _experiment_id(self, name: str) -> str:
        with explained(f"opening the experiment {name}"):
            found: Experiment | None = self.client.get_experiment_by_name(name)
            if found is None:
                local = self.uri.startswith("sqlite:")
                try:
                    return str(self.client.create_experiment(name, self.artifacts.as_uri() if local else None))
                except MlflowException:  # Another process was faster, or the name is not allowed.
                    found = self.client.get_experiment_by_name(name)
                    if found is None:
                        raise
            return str(found.experiment_id)

    # -- looking back ----------------------------------------------------------------------------------------------

    def maker_of(self, artifact: Artifact, experiment_id: str) -> str | None:
        """The id of the first run of an experiment that made an artifact, not one that reused it; None if unknown."""
        with explained(f"looking for the run that made {artifact.label}"):
            found = self.client.search_runs(
                [experiment_id],
                f"tags.digest = '{artifact.digest}' and tags.recipe = '{artifact.recipe}' and tags.reused = 'false'",
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
        return str(found[0].info.run_id) if found else None

    def close_abandoned(self) -> list[str]:
        """Mark runs as KILLED whose process on this host is gone; return their ids."""
        with explained("looking for abandoned runs"):
            experiments = [one.experiment_id for one in self.client.search_experiments()]
            query = f"attributes.status = 'RUNNING' and tags.host = '{platform.node()}'"
            gone = [run for run in self.client.search_runs(experiments, query) if not _is_alive(run.data.tags)]
            for run in gone:
                self.client.set_terminated(run.info.run_id, "KILLED")
                logger.info("the run %s was killed; marked as such", run.info.run_name)
        return [run.info.run_id for run in gone]


def _origin() -> dict[str, str]:
    """Tags that every run carries: whose code, and whose process."""
    made: dict[str, Any] = provenance()
    own = psutil.Process()
    return {
        "git_commit": str(made["git_commit"]),
        "git_dirty": str(made["git_dirty"]).lower(),
        "mlflow.source.git.commit": str(made["git_commit"]),
        "host": platform.node(),
        "pid": str(own.pid),
        "process_started": str(own.create_time()),
    }


def _is_alive(tags: Mapping[str, str]) -> bool:
    try:
        started = psutil.Process(int(tags["pid"])).create_time()
    except psutil.NoSuchProcess:
        return False
    return bool(abs(started - float(tags["process_started"])) < _SAME_START_S)
