"""Experiment tracking: one MLflow experiment per recipe family, one run per pipeline, one child
run per step.

`Tracking` owns the only client. Every run has tags with its process (host, pid, start time), so
that the next start marks runs of dead processes of the same host as KILLED. MLflow's tracking URI,
a global of the process, is set here because MLflow's registry and loaders read it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow.entities import (
    Experiment,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Run,
)
from mlflow.exceptions import MlflowException

from components.core.artifact import Artifact
from components.core.errors import TrackingError
from components.core.locks import exclusive_lock, user_lock_path
from components.core.network import is_http_uri, redact_credentials
from components.core.processes import is_running
from components.core.provenance import provenance
from components.registry.client.connection import (
    absolute_uri,
    connect,
    is_healthy,
    list_experiment_ids,
    wrap_mlflow_errors,
)
from components.registry.client.naming import flatten, numbers, with_mlflow_names
from components.registry.client.retry import RETRY_TIMEOUT_S, RetryingMlflowClient, RetryPolicy
from components.registry.client.run_writer import MetricBuffer, RunWriter, SystemMetrics, now_ms
from components.registry.lineage import (
    CORPUS_KINDS,
    artifact_tags,
    dataset_input,
    dataset_key,
    dirty_tag,
    get_or_create_logged_model,
)

logger = logging.getLogger(__name__)

_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow then shows the runs and models of an experiment instead of traces of agents."""

_INHERITED_TAGS = ("family",)
"""Tags that a child run copies from its parent."""


class TrackedRun(RunWriter):
    """An active run. Created by `Tracking.run`, `Tracking.child` and `TrackedRun.child`."""

    def __init__(self, tracking: Tracking, experiment_id: str, run_id: str, name: str) -> None:
        super().__init__(tracking.client, run_id, name)
        self.tracking = tracking
        self.experiment_id = experiment_id
        self._corpora: dict[str, Artifact] = {}
        self._models: dict[str, LoggedModel] = {}

    def child(
        self, name: str, *, tags: Mapping[str, str] | None = None, system_metrics: bool = False
    ) -> AbstractContextManager[TrackedRun]:
        """Open a child run, which ends with the block."""
        return self.tracking.child(self.id, name, tags=tags, system_metrics=system_metrics)

    def log_metrics(
        self, values: Mapping[str, Any], *, step: int = 0, model: LoggedModel | None = None
    ) -> None:
        """Log the numbers in nested mappings, as `mono/Python`.

        Args:
            step: the optimizer step of the values.
            model: its metrics, too, each with the corpus that its name contains. A value that the
                model has already is logged for the run only.
        """
        logged = {(metric.key, metric.value) for metric in (model.metrics or [] if model else [])}
        timestamp = now_ms()
        metrics = []
        for name, value in with_mlflow_names(numbers(values)).items():
            if model is None or (name, value) in logged:
                metrics.append(Metric(name, value, timestamp, step))
                continue
            corpus = self._corpus_of_metric(name)
            dataset = dataset_key(corpus) if corpus else (None, None)
            metrics.append(Metric(name, value, timestamp, step, model.model_id, *dataset))
        self._write_metrics(metrics)

    def _corpus_of_metric(self, metric: str) -> Artifact | None:
        """Return the input corpus in a metric's name; for `final_loss` the only input corpus."""
        path = metric.split("/")
        if len(path) == 1 and len(self._corpora) == 1:
            return next(iter(self._corpora.values()))
        return next((self._corpora[name] for name in path if name in self._corpora), None)

    def log_inputs(self, artifacts: Iterable[Artifact], context: str) -> None:
        """Log corpora as input datasets and checkpoints as input models; `context` is their use."""
        artifacts = list(artifacts)
        corpora = [artifact for artifact in artifacts if artifact.kind in CORPUS_KINDS]
        self._corpora |= {corpus.name: corpus for corpus in corpora}
        self.tracking.register_dvc_md5(corpora)
        with wrap_mlflow_errors(f"logging the inputs of {self.name}"):
            for artifact in artifacts:
                if artifact.kind == "checkpoint":
                    self._models[artifact.digest] = self._logged_model(artifact, {})
                    if context != "checkpoint":  # A stage that starts from it differs.
                        self.set_tags(artifact_tags(artifact))
            models = [LoggedModelInput(model.model_id) for model in self._models.values()]
            datasets = [
                dataset_input(corpus, context, self.tracking.dvc_md5_of(corpus))
                for corpus in corpora
            ]
            if datasets or models:
                self.tracking.client.log_inputs(self.id, datasets=datasets, models=models)

    def log_output_artifact(
        self, artifact: Artifact, *, reused: bool, benchmark: str | None = None
    ) -> None:
        """Log the result of a step: identity as tags, statistics as metrics and parameters, and the
        record as `artifact.json`.

        A checkpoint becomes a logged model. The metrics of an evaluation belong to the evaluated
        model. A reused artifact has the tag `original_run`, if the server knows that run.

        Args:
            benchmark: of an evaluation; prefix of the metrics, as in the gate's requirements.
        """
        tags = {
            **artifact_tags(artifact),
            "artifact": artifact.label,
            "kind": artifact.kind,
            "address": artifact.address,
            "recipe": artifact.recipe_hash,
            "digest": artifact.digest,
            "reused": str(reused).lower(),
        }
        if reused:
            original_run = self.tracking.find_producer_run(artifact, self.experiment_id)
            tags |= {"original_run": original_run} if original_run else {}
        self.set_tags(tags)
        statistics = artifact.statistics
        step = statistics.get("steps")
        self.log_metrics(
            {benchmark: statistics} if benchmark else statistics,
            step=step if isinstance(step, int) else 0,
            model=self._model_of_metrics(artifact),
        )
        texts = flatten(statistics, "/").items()
        self._write_params({name: text for name, text in texts if isinstance(text, str)})
        self.log_json("artifact.json", artifact.model_dump(mode="json"))

    def _model_of_metrics(self, artifact: Artifact) -> LoggedModel | None:
        """Return the model of a checkpoint, or the model that an evaluation has as input."""
        if artifact.kind == "checkpoint":
            return self.log_output_model(artifact)
        if artifact.kind == "evaluation":
            for parent in artifact.parents:
                if parent.kind == "checkpoint":
                    return self._models.get(parent.digest)
        return None

    def log_output_model(self, checkpoint: Artifact) -> LoggedModel:
        """Link the logged model of a checkpoint as output; create the model if necessary."""
        model = self._logged_model(checkpoint, self._params)
        with wrap_mlflow_errors(f"linking a model to {self.name}"):
            outputs = self.tracking.client.get_run(self.id).outputs
            linked = {output.model_id for output in (outputs.model_outputs if outputs else [])}
            if model.model_id not in linked:
                output = LoggedModelOutput(model.model_id, step=0)
                self.tracking.client.log_outputs(self.id, [output])
        return model

    def _logged_model(self, checkpoint: Artifact, params: Mapping[str, str]) -> LoggedModel:
        with wrap_mlflow_errors(f"looking up the model of {checkpoint.label}"):
            return get_or_create_logged_model(
                self.tracking.client, self.experiment_id, self.id, checkpoint, params
            )


class Tracking:
    """The tracking server or database of this process."""

    def __init__(self, uri: str, artifacts: Path, retry_timeout_s: float = RETRY_TIMEOUT_S) -> None:
        """
        Args:
            uri: `sqlite:///PATH`, or the http(s) URL of an MLflow server. Not contacted yet.
            artifacts: folder for files and models of runs; a server uses its own.
            retry_timeout_s: maximum time to wait during an outage of the server.
        """
        self.uri = absolute_uri(uri)
        self.artifacts = artifacts.resolve()
        self._retry_policy = RetryPolicy(self.uri, lambda: is_healthy(self.uri), retry_timeout_s)
        self._dvc_md5s: dict[str, str] = {}
        mlflow.set_tracking_uri(self.uri)

    @functools.cached_property
    def client(self) -> RetryingMlflowClient:
        """The client; connects at first use.

        Raises:
            TrackingError: the server does not answer, or the database cannot be used.
        """
        return RetryingMlflowClient(connect(self.uri, self.artifacts), self._retry_policy)

    def check(self, *, wait: bool = False) -> None:
        """Check that runs can be recorded; takes seconds.

        Args:
            wait: wait for a server that does not answer, because the flow has already started.

        Raises:
            TrackingError: the server does not answer, or the database cannot be used.
        """
        if wait and not self._retry_policy.is_healthy():
            self._retry_policy.wait_until_healthy()
        with wrap_mlflow_errors("checking the connection"):
            self.client.search_experiments(max_results=1)

    @contextmanager
    def model_lock(self, model: str) -> Iterator[None]:
        """Lock a registered model against other processes of this user and host."""
        server = redact_credentials(self.uri).rstrip("/")
        digest = hashlib.sha256(f"{server} {model}".encode()).hexdigest()
        lock = user_lock_path(f"registry-{digest[:16]}")
        with exclusive_lock(lock, f"changing {model}"):
            yield

    def set_version_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a model version, in order."""
        for key, value in tags.items():
            self.client.set_model_version_tag(name, str(version), key, value)

    @contextmanager
    def run(
        self,
        name: str,
        *,
        experiment: str,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
    ) -> Iterator[TrackedRun]:
        """Open a top-level run; first mark the stale runs of this host as KILLED.

        The run ends as FINISHED with the block, as FAILED on an exception, as KILLED on an
        interrupt.
        """
        self.mark_stale_runs_killed()
        experiment_id = self._experiment_id(experiment)
        with self._open_run(experiment_id, name, dict(tags or {}), system_metrics) as run:
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
        """Open a child of the run `parent_id`, which may belong to another thread or process."""
        with wrap_mlflow_errors(f"starting {name}"):
            parent = self.client.get_run(parent_id)
        parent_tags = parent.data.tags
        inherited = {key: parent_tags[key] for key in _INHERITED_TAGS if key in parent_tags}
        tags = {**inherited, **(tags or {}), "mlflow.parentRunId": parent_id}
        with self._open_run(parent.info.experiment_id, name, tags, system_metrics) as run:
            yield run

    @contextmanager
    def _open_run(
        self, experiment_id: str, name: str, tags: dict[str, str], system_metrics: bool
    ) -> Iterator[TrackedRun]:
        with wrap_mlflow_errors(f"starting {name}"):
            created = self.client.create_run_once(experiment_id, name, {**_process_tags(), **tags})
        run = TrackedRun(self, experiment_id, created.info.run_id, name)
        monitor = None
        if system_metrics:
            buffer = MetricBuffer(self.client, run.id, name)
            monitor = SystemMetrics(run.id, self.uri, buffer)
            monitor.start()
        try:
            yield run
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            self._end_run(run, status, monitor, error)
            raise
        self._end_run(run, "FINISHED", monitor)

    def _end_run(
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
                run.set_tags({"error": f"{type(error).__name__}: {error}"})
            with wrap_mlflow_errors(f"ending {run.name}"):
                self.client.set_terminated(run.id, status)
        except TrackingError as second_error:
            if error is None:
                raise
            # The first error propagates; it matters more.
            logger.warning("could not mark %s as %s: %s", run.name, status, second_error.got)

    def _experiment_id(self, name: str) -> str:
        """Return the id of an experiment; create the experiment if necessary."""
        with wrap_mlflow_errors(f"opening the experiment {name}"):
            experiment: Experiment | None = self.client.get_experiment_by_name(name)
            if experiment is None:
                folder = None if is_http_uri(self.uri) else self.artifacts.as_uri()
                try:
                    return str(self.client.create_experiment(name, folder, _EXPERIMENT_KIND))
                except MlflowException:  # Another process created it, or the name is invalid.
                    experiment = self.client.get_experiment_by_name(name)
                    if experiment is None:
                        raise
            for key, value in _EXPERIMENT_KIND.items():
                if key not in experiment.tags:  # created by hand or by an earlier version
                    self.client.set_experiment_tag(experiment.experiment_id, key, value)
            return str(experiment.experiment_id)

    def register_dvc_md5(self, corpora: Iterable[Artifact]) -> None:
        """Store the DVC md5 of raw corpora, for the datasets that are derived from them."""
        for corpus in corpora:
            md5 = corpus.provenance.get("dvc_md5")
            if corpus.kind == "raw-corpus" and md5:
                self._dvc_md5s[corpus.digest] = str(md5)

    def dvc_md5_of(self, corpus: Artifact) -> str | None:
        """Return the registered DVC md5 of a raw corpus, or of a prepared corpus's raw corpus."""
        raw_parents = [parent for parent in corpus.parents if parent.kind == "raw-corpus"]
        for digest in (corpus.digest, *(parent.digest for parent in raw_parents)):
            if digest in self._dvc_md5s:
                return self._dvc_md5s[digest]
        return None

    def find_producer_run(self, artifact: Artifact, experiment_id: str) -> str | None:
        """Return the id of the first run of an experiment that built an artifact, if known."""
        query = (
            f"tags.digest = '{artifact.digest}' and tags.recipe = '{artifact.recipe_hash}' "
            "and tags.reused = 'false'"
        )
        with wrap_mlflow_errors(f"searching for the run that built {artifact.label}"):
            runs = self.client.search_runs(
                [experiment_id], query, order_by=["attributes.start_time ASC"], max_results=1
            )
        return str(runs[0].info.run_id) if runs else None

    def find_last_run(self, query: str) -> Run | None:
        """Return the newest run of all experiments that matches a query, if any."""
        with wrap_mlflow_errors("searching for a run"):
            experiment_ids = list_experiment_ids(self.client)
            order = ["attributes.start_time DESC"]
            runs = self.client.search_runs(experiment_ids, query, order_by=order, max_results=1)
        return runs[0] if runs else None

    def mark_stale_runs_killed(self) -> list[str]:
        """Mark open runs of dead processes of this host as KILLED; return their ids.

        Processes of other hosts cannot be checked.
        """
        query = f"attributes.status = 'RUNNING' and tags.host = '{platform.node()}'"
        with wrap_mlflow_errors("searching for stale runs"):
            experiments = self.client.search_experiments()
            experiment_ids = [experiment.experiment_id for experiment in experiments]
            runs = self.client.search_runs(experiment_ids, query)
            stale = [run for run in runs if not _is_process_alive(run.data.tags)]
            for run in stale:
                self.client.set_terminated(run.info.run_id, "KILLED")
                logger.info("marked the stale run %s as KILLED", run.info.run_name)
        return [run.info.run_id for run in stale]


def _process_tags() -> dict[str, str]:
    """Return the tags of every run: its code and its process."""
    code: dict[str, Any] = provenance()
    process = psutil.Process()
    return {
        "git_commit": str(code["git_commit"]),
        "git_dirty": dirty_tag(code["git_dirty"]),
        "mlflow.source.git.commit": str(code["git_commit"]),
        "mlflow.source.name": "codegen",
        "mlflow.user": process.username(),
        "host": platform.node(),
        "pid": str(process.pid),
        "process_started": str(process.create_time()),
    }


def _is_process_alive(tags: Mapping[str, str]) -> bool:
    return is_running(int(tags["pid"]), float(tags["process_started"]))
