"""One run as a step sees it: what it was given, what it measured, what it made.

Design decision: a run is written through its id by `MlflowClient`, never through MLflow's active run, which is global per
thread; Prefect moves work between threads. Axes: every training metric is written twice, over optimizer steps and over
tokens (`training_by_tokens/loss`), since only the latter compares runs with different batch sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelOutput, Metric, Param, RunTag

from components.core.artifact import Artifact
from components.core.config import Config
from components.registry.client.connection import wrap_mlflow_errors
from components.registry.client.metric_buffer import MetricBuffer
from components.registry.client.naming import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_PER_BATCH,
    as_parameter,
    batches,
    flatten,
    numbers,
    renamed,
)
from components.registry.datasets import CORPUS_KINDS, DIGEST_CHARACTERS, dataset_input
from components.registry.logged_models import logged_model
from components.registry.tags import artifact_tags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.registry.tracking import Tracking

Record = Callable[[Config | Mapping[str, Any]], None]


class TrackedRun:
    """A run that is under way. Made by `Tracking.run` and `TrackedRun.child`."""

    def __init__(self, tracking: Tracking, experiment_id: str, run_id: str, name: str) -> None:
        self.tracking, self.experiment_id, self.id, self.name = (
            tracking,
            experiment_id,
            run_id,
            name,
        )
        self._params: dict[str, str] = {}
        self._corpora: dict[str, Artifact] = {}
        self._models: dict[str, LoggedModel] = {}

    def child(
        self, name: str, *, tags: Mapping[str, str] | None = None, system_metrics: bool = False
    ) -> AbstractContextManager[TrackedRun]:
        """A run below this one; ends with the block."""
        return self.tracking.child(self.id, name, tags=tags, system_metrics=system_metrics)

    # -- figures ---------------------------------------------------------------------------------------------------

    def log_params(self, config: Config | Mapping[str, Any]) -> None:
        """Log a configuration, flattened (`stages.nl.steps`), and whole as `config.json`."""
        values = config.model_dump(mode="json") if isinstance(config, Config) else dict(config)
        self._params = {
            name: as_parameter(value) for name, value in renamed(flatten(values, ".")).items()
        }
        self._write_params(self._params)
        self.json("config.json", values)

    def log_metrics(
        self, values: Mapping[str, Any], *, step: int = 0, model: LoggedModel | None = None
    ) -> None:
        """Log figures, nested mappings as `mono/Python`; what is not a number is left out.

        Args:
            step: of the optimizer, when they were measured.
            model: of which they tell. They become its figures, beside the corpus that they were measured on, unless it has
                the very same from a run before.
        """
        now, known = (
            _now_ms(),
            {(one.key, one.value) for one in (model.metrics or [] if model else [])},
        )
        rows = []
        for name, value in renamed(numbers(values)).items():
            if model is None or (name, value) in known:
                rows.append(Metric(name, value, now, step))
            else:
                corpus = self._corpus_of(name)
                on = (
                    (f"{corpus.kind}/{corpus.name}", corpus.digest[:DIGEST_CHARACTERS])
                    if corpus
                    else (None, None)
                )
                rows.append(Metric(name, value, now, step, model.model_id, *on))
        self._write(rows)

    def _corpus_of(self, metric: str) -> Artifact | None:
        """The corpus that a figure names; of one that names none, like a final loss, the only one that this run uses."""
        path = metric.split("/")
        if len(path) == len(self._corpora) == 1:
            return next(iter(self._corpora.values()))
        return next((self._corpora[part] for part in path if part in self._corpora), None)

    def _write_params(self, params: Mapping[str, str]) -> None:
        with wrap_mlflow_errors(f"logging the parameters of {self.name}"):
            for batch in batches(
                [Param(name, value) for name, value in params.items()], MAX_PARAMS_PER_BATCH
            ):
                self.tracking.client.log_batch(self.id, params=batch)

    @contextmanager
    def metric_stream(self, prefix: str = "training") -> Iterator[Record]:
        """Log rows of figures as they come; nested ones as `held_out/Python`; every row has `step`, and `tokens`
        for the second axis.

        A server that goes away costs no row and keeps nobody: rows wait, and are written when it answers.

        Raises:
            TrackingError: the server refused; or, at the end of the block, it stayed away and the rest cannot be written.
        """
        backlog = MetricBuffer(self.tracking.client, self.id, self.name)

        def record(row: Config | Mapping[str, Any]) -> None:
            backlog.add(_both_axes(prefix, row.model_dump() if isinstance(row, Config) else row))

        try:
            yield record
        finally:
            backlog.close()

    def _write(self, metrics: list[Metric]) -> None:
        with wrap_mlflow_errors(f"logging metrics of {self.name}"):
            for batch in batches(metrics, MAX_METRICS_PER_BATCH):
                self.tracking.client.log_batch(self.id, metrics=batch)

    # -- lineage ---------------------------------------------------------------------------------------------------

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        if not values:
            return
        with wrap_mlflow_errors(f"tagging {self.name}"):
            self.tracking.client.log_batch(
                self.id, tags=[RunTag(key, value) for key, value in renamed(values).items()]
            )

    def log_inputs(self, artifacts: Iterable[Artifact], context: str) -> None:
        """State the corpora and checkpoints among `artifacts` as this run's datasets and models; `context`: what for."""
        given = list(artifacts)
        corpora = [one for one in given if one.kind in CORPUS_KINDS]
        self._corpora |= {one.name: one for one in corpora}
        self.tracking.register_dvc_md5(corpora)
        with wrap_mlflow_errors(f"logging the inputs of {self.name}"):
            for one in given:
                if one.kind == "checkpoint":
                    self._models[one.digest] = self._logged(one, {})
                    self.tags(
                        artifact_tags(one) if context != "checkpoint" else {}
                    )  # What starts from it is another stage.
            models = [LoggedModelInput(one.model_id) for one in self._models.values()]
            if corpora or models:
                datasets = [
                    dataset_input(one, context, self.tracking.dvc_md5_of(one)) for one in corpora
                ]
                self.tracking.client.log_inputs(self.id, datasets=datasets, models=models)

    def log_output_artifact(
        self, artifact: Artifact, *, reused: bool, benchmark: str | None = None
    ) -> None:
        """State what this step yielded: identity as tags, statistics as metrics and parameters, the record as a file.

        A checkpoint is a logged model, and an evaluation's figures are those of the model that was measured. A reused
        artifact is linked to the run that made it (`original_run`), where this server knows one.

        Args:
            benchmark: of an evaluation; its figures are called `benchmark/...`, as the gate names them.
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
        if reused and (original := self.tracking.find_producer_run(artifact, self.experiment_id)):
            tags["original_run"] = original
        self.tags(tags)
        step = artifact.statistics.get("steps")
        figures: Mapping[str, Any] = (
            {benchmark: artifact.statistics} if benchmark else artifact.statistics
        )
        self.log_metrics(
            figures, step=step if isinstance(step, int) else 0, model=self._model_of(artifact)
        )
        texts = {
            name: value
            for name, value in flatten(artifact.statistics, "/").items()
            if isinstance(value, str)
        }
        self._write_params({name: as_parameter(value) for name, value in renamed(texts).items()})
        self.json("artifact.json", artifact.model_dump(mode="json"))

    def _model_of(self, artifact: Artifact) -> LoggedModel | None:
        """The logged model that the figures of an artifact tell of: itself, or what was measured."""
        if artifact.kind == "checkpoint":
            return self.log_output_model(artifact)
        measured = [one.digest for one in artifact.parents if one.kind == "checkpoint"]
        return self._models.get(measured[0]) if artifact.kind == "evaluation" and measured else None

    def log_output_model(self, checkpoint: Artifact) -> LoggedModel:
        """State a checkpoint's logged model, made where there is none, as this run's output."""
        model = self._logged(checkpoint, self._params)
        with wrap_mlflow_errors(f"linking a model to {self.name}"):
            outputs = self.tracking.client.get_run(self.id).outputs
            if model.model_id not in {
                output.model_id for output in (outputs.model_outputs if outputs else [])
            }:
                self.tracking.client.log_outputs(
                    self.id, [LoggedModelOutput(model.model_id, step=0)]
                )
        return model

    def _logged(self, checkpoint: Artifact, params: Mapping[str, str]) -> LoggedModel:
        with wrap_mlflow_errors(f"looking for the model of {checkpoint.label}"):
            return logged_model(
                self.tracking.client, self.experiment_id, self.id, checkpoint, params
            )

    # -- files -----------------------------------------------------------------------------------------------------

    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with what is in it, as an artifact of the run."""
        with wrap_mlflow_errors(f"keeping {path.name}"):
            if path.is_dir():
                self.tracking.client.log_artifacts(self.id, str(path), folder)
            else:
                self.tracking.client.log_artifact(self.id, str(path), folder)

    def json(self, name: str, value: Any) -> None:
        """Keep a JSON value as the file `name`."""
        with wrap_mlflow_errors(f"keeping {name}"):
            self.tracking.client.log_dict(self.id, value, name)

    def table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows as a table that MLflow shows and compares; `name` ends in `.json`."""
        with wrap_mlflow_errors(f"keeping {name}"):
            # dtype=object: MLflow asks for the "object" columns, which pandas no longer takes text for without a warning.
            self.tracking.client.log_table(self.id, pd.DataFrame(list(rows), dtype=object), name)

    def figure(self, name: str, figure: Figure) -> None:
        """Keep a plot as the file `name` (`.png`, `.svg`)."""
        with wrap_mlflow_errors(f"keeping {name}"):
            self.tracking.client.log_figure(self.id, figure, name)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _both_axes(prefix: str, row: Mapping[str, Any]) -> Iterator[Metric]:
    now, axes = _now_ms(), {"step": prefix, "tokens": f"{prefix}_by_tokens"}
    figures = renamed(numbers({name: value for name, value in row.items() if name not in axes}))
    for axis, family in axes.items():
        if axis in row:
            for name, value in figures.items():
                yield Metric(f"{family}/{name}", value, now, int(row[axis]))
