"""MLflow as the record of runs: one experiment a family of recipes, one run a pipeline, one child run a step.

Design decision: a `Tracking` is the only holder of a client. Every run carries the process that owns it (host, pid, start
time), so that a run whose process was killed is found at the next start and closed as KILLED instead of showing as running
for ever. MLflow's tracking URI, a global of the process, is set once here, because its registry and its loaders read it.
Not covered: a killed process on another host, which only that host can judge.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from components.core import locks
from components.core.artifact import Artifact
from components.core.errors import TrackingError
from components.core.network import redact_credentials
from components.core.processes import is_running
from components.core.provenance import provenance
from components.registry.client.connection import absolute, connect, is_healthy, wrap_mlflow_errors
from components.registry.client.metric_buffer import MetricBuffer
from components.registry.client.retry import RETRY_TIMEOUT_S, RetryingMlflowClient, RetryPolicy
from components.registry.client.system_metrics import SystemMetrics
from components.registry.runs import TrackedRun

logger = logging.getLogger(__name__)

_KIND, _OF_MODELS = "mlflow.experimentKind", "custom_model_development"
"""What makes MLflow's page of an experiment show runs and models, in the place of traces of agents."""

_INHERITED_TAGS = ("family",)
"""Tags that a run has from the one above it."""


class Tracking:
    """The tracking server or database of this process."""

    def __init__(self, uri: str, artifacts: Path, patience_s: float = RETRY_TIMEOUT_S) -> None:
        """
        Args:
            uri: `sqlite:///` and a path, or the http(s) address of an MLflow server. Nothing is contacted yet.
            artifacts: folder for files and models of runs; a server decides for itself and ignores it.
            patience_s: how long a server that goes away later is waited for, whenever it is needed.
        """
        self.uri, self.artifacts = absolute(uri), artifacts.resolve()
        self._patience = RetryPolicy(self.uri, functools.partial(is_healthy, self.uri), patience_s)
        self._dvc_md5s: dict[str, str] = {}
        mlflow.set_tracking_uri(self.uri)

    @functools.cached_property
    def client(self) -> RetryingMlflowClient:
        """The connection, made at the first use: an `MlflowClient` whose calls call_with_retry an outage.

        Raises:
            TrackingError: the server does not answer, or the database cannot be used.
        """
        return RetryingMlflowClient(connect(self.uri), self._patience)

    def check(self, *, under_way: bool = False) -> None:
        """Make sure that runs can be recorded: in seconds, before anything expensive starts.

        Args:
            under_way: part of a flow that runs already, so a server that does not answer is waited for.

        Raises:
            TrackingError: the server does not answer, or the database cannot be used.
        """
        if under_way and not self._patience.answers():
            self._patience.wait()
        with wrap_mlflow_errors("checking the connection"):
            self.client.search_experiments(max_results=1)

    @contextmanager
    def model_lock(self, model: str) -> Iterator[None]:
        """One process of this user and host at a time changes a registered model, whichever workspace it works in."""
        server = hashlib.sha256(redact_credentials(self.uri).rstrip("/").encode()).hexdigest()
        with locks.exclusive_lock(
            locks.user_lock_path("registry") / f"{server[:16]}-{model}.lock", f"changing {model}"
        ):
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
        self.mark_stale_runs_killed()
        with self._running(
            self._experiment_id(experiment), name, dict(tags or {}), system_metrics
        ) as run:
            yield run

    @contextmanager
    def child(
        self,
        parent_id: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
    ) -> Iterator[TrackedRun]:
        """A run below another, which is known by its id alone: steps may run in other threads and processes."""
        with wrap_mlflow_errors(f"starting {name}"):
            parent = self.client.get_run(parent_id)
        inherited = {
            key: value for key, value in parent.data.tags.items() if key in _INHERITED_TAGS
        }
        tags = {**inherited, **(tags or {}), "mlflow.parentRunId": parent_id}
        with self._running(parent.info.experiment_id, name, tags, system_metrics) as run:
            yield run

    @contextmanager
    def _running(
        self, experiment_id: str, name: str, tags: dict[str, str], system_metrics: bool
    ) -> Iterator[TrackedRun]:
        with wrap_mlflow_errors(f"starting {name}"):
            created = self._create_run(experiment_id, name, {**_origin(), **tags})
        run = TrackedRun(self, experiment_id, created.info.run_id, name)
        monitor = self._monitor(run) if system_metrics else None
        try:
            yield run
        except BaseException as error:
            self._end(run, "FAILED" if isinstance(error, Exception) else "KILLED", monitor, error)
            raise
        self._end(run, "FINISHED", monitor)

    def _create_run(self, experiment_id: str, name: str, tags: dict[str, str]) -> Run:
        """A new run; one only, also where the server made it and went away before it could say so."""
        started, tried = int(time.time() * 1000), False
        client = self.client.raw_client

        def create() -> Run:
            nonlocal tried
            if tried:
                query = f"attributes.start_time = {started} and tags.pid = '{tags['pid']}'"
                for run in client.search_runs([experiment_id], query):
                    if run.info.run_name == name:
                        return run
            tried = True
            return client.create_run(experiment_id, started, tags, name)

        return self._patience.call_with_retry(create)

    def _end(
        self,
        run: TrackedRun,
        status: str,
        monitor: SystemMetrics | None,
        error: BaseException | None = None,
    ) -> None:
        try:
            if monitor:
                monitor.finish()
            if error:
                run.tags({"error": f"{type(error).__name__}: {error}"})
            with wrap_mlflow_errors(f"ending {run.name}"):
                self.client.set_terminated(run.id, status)
        except TrackingError as second:
            if error is None:
                raise
            logger.warning(
                "could not mark %s as %s: %s", run.name, status, second.got
            )  # The first error matters more.

    def _monitor(self, run: TrackedRun) -> SystemMetrics:
        monitor = SystemMetrics(run.id, self.uri, MetricBuffer(self.client, run.id, run.name))
        monitor.start()
        return monitor

    def _experiment_id(self, name: str) -> str:
        with wrap_mlflow_errors(f"opening the experiment {name}"):
            found: Experiment | None = self.client.get_experiment_by_name(name)
            if found is None:
                local = self.uri.startswith("sqlite:")
                try:
                    place = self.artifacts.as_uri() if local else None
                    return str(self.client.create_experiment(name, place, {_KIND: _OF_MODELS}))
                except MlflowException:  # Another process was faster, or the name is not allowed.
                    found = self.client.get_experiment_by_name(name)
                    if found is None:
                        raise
            if _KIND not in found.tags:  # Made by an earlier version, or by hand.
                self.client.set_experiment_tag(found.experiment_id, _KIND, _OF_MODELS)
            return str(found.experiment_id)

    # -- data ------------------------------------------------------------------------------------------------------

    def register_dvc_md5(self, corpora: Iterable[Artifact]) -> None:
        """Know the DVC md5 of raw corpora, to state it wherever something that was made from them is used."""
        known = {
            one.digest: one.provenance.get("dvc_md5") for one in corpora if one.kind == "raw-corpus"
        }
        self._dvc_md5s |= {digest: str(md5) for digest, md5 in known.items() if md5}

    def dvc_md5_of(self, corpus: Artifact) -> str | None:
        """The DVC md5 of a raw corpus, or of the one that a prepared corpus was made from, where it is known."""
        digests = (
            corpus.digest,
            *(one.digest for one in corpus.parents if one.kind == "raw-corpus"),
        )
        return next(
            (self._dvc_md5s[digest] for digest in digests if digest in self._dvc_md5s), None
        )

    # -- looking back ----------------------------------------------------------------------------------------------

    def find_producer_run(self, artifact: Artifact, experiment_id: str) -> str | None:
        """The id of the first run of an experiment that made an artifact, not one that reused it; None if unknown."""
        with wrap_mlflow_errors(f"looking for the run that made {artifact.label}"):
            found = self.client.search_runs(
                [experiment_id],
                f"tags.digest = '{artifact.digest}' and tags.recipe = '{artifact.recipe_hash}' and tags.reused = 'false'",
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
        return str(found[0].info.run_id) if found else None

    def mark_stale_runs_killed(self) -> list[str]:
        """Mark runs as KILLED whose process on this host is gone; return their ids."""
        with wrap_mlflow_errors("looking for abandoned runs"):
            experiments = [one.experiment_id for one in self.client.search_experiments()]
            query = f"attributes.status = 'RUNNING' and tags.host = '{platform.node()}'"
            gone = [
                run
                for run in self.client.search_runs(experiments, query)
                if not _is_alive(run.data.tags)
            ]
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
        "git_dirty": {True: "true", False: "false", None: "unknown"}[made["git_dirty"]],
        "mlflow.source.git.commit": str(made["git_commit"]),
        "mlflow.source.name": "codegen",
        "mlflow.user": own.username(),
        "host": platform.node(),
        "pid": str(own.pid),
        "process_started": str(own.create_time()),
    }


def _is_alive(tags: Mapping[str, str]) -> bool:
    return is_running(int(tags["pid"]), float(tags["process_started"]))
