"""One run as a step sees it: what it was given, what it measured, what it made.

Design decision: a run is written through its id by `MlflowClient`, never through MLflow's active run, which is global per
thread; Prefect moves work between threads. Axes: every training metric is written twice, over optimizer steps and over
tokens (`training_by_tokens/loss`), since only the latter compares runs with different batch sizes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import TrackingError
from components.registry.connection import explained
from components.registry.datasets import CORPUS_KINDS, dataset_input
from components.registry.naming import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_PER_BATCH,
    as_parameter,
    batches,
    flatten,
    numbers,
    renamed,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.registry.tracking import Tracking

logger = logging.getLogger(__name__)

FLUSH_EVERY_S = 2.0
"""How long a streamed metric may wait before it is written, so that the page follows a training."""

Record = Callable[[Config | Mapping[str, Any]], None]


class TrackedRun:
    """A run that is under way. Made by `Tracking.run` and `TrackedRun.child`."""

    def __init__(self, tracking: Tracking, experiment_id: str, run_id: str, name: str) -> None:
        self.tracking, self.experiment_id, self.id, self.name = tracking, experiment_id, run_id, name

    def child(
        self, name: str, *, tags: Mapping[str, str] | None = None, system_metrics: bool = False
    ) -> AbstractContextManager[TrackedRun]:
        """A run below this one; ends with the block."""
        return self.tracking.child(self.id, name, tags=tags, system_metrics=system_metrics)

    # -- figures ---------------------------------------------------------------------------------------------------

    def parameters(self, config: Config | Mapping[str, Any]) -> None:
        """Log a configuration, flattened (`stages.nl.steps`), and whole as `config.json`."""
        values = config.model_dump(mode="json") if isinstance(config, Config) else dict(config)
        params = [Param(name, as_parameter(value)) for name, value in renamed(flatten(values, ".")).items()]
        with explained(f"logging the parameters of {self.name}"):
            for batch in batches(params, MAX_PARAMS_PER_BATCH):
                self.tracking.client.log_batch(self.id, params=batch)
        self.json("config.json", values)

    def metrics(self, values: Mapping[str, Any], *, step: int = 0, model_id: str | None = None) -> None:
        """Log figures, nested mappings as `mono/Python`; what is not a number is left out. `model_id`: of which model."""
        now = _now_ms()
        self._write([Metric(name, value, now, step, model_id) for name, value in renamed(numbers(values)).items()])

    @contextmanager
    def stream(self, prefix: str = "training") -> Iterator[Record]:
        """Log rows of figures as they come; nested ones as `held_out/Python`; every row has `step`, and `tokens`
        for the second axis.

        A server that does not answer for a while costs no row: rows wait, and are written with the next ones.

        Raises:
            TrackingError: at the end of the block, when the rest cannot be written.
        """
        waiting: list[Metric] = []
        written = time.monotonic()

        def record(row: Config | Mapping[str, Any]) -> None:
            nonlocal written
            waiting.extend(_both_axes(prefix, row.model_dump() if isinstance(row, Config) else row))
            if time.monotonic() - written >= FLUSH_EVERY_S:
                try:
                    self._write(waiting)
                    waiting.clear()
                except TrackingError as error:
                    logger.warning("metrics of %s wait: %s", self.name, error.got)
                written = time.monotonic()

        try:
            yield record
        finally:
            self._write(waiting)

    def _write(self, metrics: list[Metric]) -> None:
        with explained(f"logging metrics of {self.name}"):
            for batch in batches(metrics, MAX_METRICS_PER_BATCH):
                self.tracking.client.log_batch(self.id, metrics=batch)

    # -- lineage ---------------------------------------------------------------------------------------------------

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        with explained(f"tagging {self.name}"):
            self.tracking.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in renamed(values).items()])

    def uses(self, artifacts: Iterable[Artifact], context: str) -> None:
        """State the corpora among `artifacts` as this run's datasets, with what is done with them."""
        inputs = [dataset_input(artifact, context) for artifact in artifacts if artifact.kind in CORPUS_KINDS]
        if inputs:
            with explained(f"logging the datasets of {self.name}"):
                self.tracking.client.log_inputs(self.id, datasets=inputs)

    def made(self, artifact: Artifact, *, reused: bool) -> None:
        """State what this step yielded: identity as tags, statistics as metrics and parameters, the record as a file.

        A reused artifact is linked to the run that made it (`original_run`), where this server knows one.
        """
        tags = {
            "artifact": artifact.label,
            "kind": artifact.kind,
            "address": artifact.address,
            "recipe": artifact.recipe,
            "digest": artifact.digest,
            "reused": str(reused).lower(),
        }
        if reused and (original := self.tracking.maker_of(artifact, self.experiment_id)):
            tags["original_run"] = original
        self.tags(tags)
        self.metrics(artifact.statistics)
        texts = {name: value for name, value in flatten(artifact.statistics, "/").items() if isinstance(value, str)}
        params = [Param(name, as_parameter(value)) for name, value in renamed(texts).items()]
        with explained(f"logging the artifact of {self.name}"):
            for batch in batches(params, MAX_PARAMS_PER_BATCH):
                self.tracking.client.log_batch(self.id, params=batch)
        self.json("artifact.json", artifact.model_dump(mode="json"))

    def gave_model(self, model_id: str) -> None:
        """State a LoggedModel as this run's output."""
        with explained(f"linking a model to {self.name}"):
            outputs = self.tracking.client.get_run(self.id).outputs
            if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
                self.tracking.client.log_outputs(self.id, [LoggedModelOutput(model_id, step=0)])

    # -- files -----------------------------------------------------------------------------------------------------

    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with what is in it, as an artifact of the run."""
        with explained(f"keeping {path.name}"):
            if path.is_dir():
                self.tracking.client.log_artifacts(self.id, str(path), folder)
            else:
                self.tracking.client.log_artifact(self.id, str(path), folder)

    def json(self, name: str, value: Any) -> None:
        """Keep a JSON value as the file `name`."""
        with explained(f"keeping {name}"):
            self.tracking.client.log_dict(self.id, value, name)

    def table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows as a table that MLflow shows and compares; `name` ends in `.json`."""
        with explained(f"keeping {name}"):
            # dtype=object: MLflow asks for the "object" columns, which pandas no longer takes text for without a warning.
            self.tracking.client.log_table(self.id, pd.DataFrame(list(rows), dtype=object), name)

    def figure(self, name: str, figure: Figure) -> None:
        """Keep a plot as the file `name` (`.png`, `.svg`)."""
        with explained(f"keeping {name}"):
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
