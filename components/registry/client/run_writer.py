"""Writing to an MLflow run: parameters, tags, files, buffered metrics and system metrics.

A run is addressed by its id through the client, never through MLflow's active run, which is a
global of each thread; Prefect moves work between threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from requests import RequestException

from components.core.config import Config, all_values
from components.core.errors import TrackingError
from components.registry.client.connection import wrap_mlflow_errors
from components.registry.client.naming import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_PER_BATCH,
    as_parameter,
    batches,
    flatten,
    numbers,
    with_mlflow_names,
)
from components.registry.client.retry import RetryingMlflowClient, is_connection_error

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 2.0
"""Maximum delay of a metric, so that MLflow's charts follow a training."""
SAMPLE_INTERVAL_S = 2.0
"""Shortest time between two samples, which take about 10 ms each. The environment variable
MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it."""
_MAX_SAMPLE_INTERVAL_S = 60.0
_INTERVAL_SHARE = 0.001
"""The interval grows with a run, to this share of its duration, up to the maximum.
Otherwise a stage of weeks would write tens of millions of rows to the database (docs/scale.md)."""

RecordRow = Callable[[Config | Mapping[str, Any]], None]


class RunWriter:
    """Writes to a run."""

    def __init__(self, client: RetryingMlflowClient, run_id: str, name: str) -> None:
        self._client = client
        self.id = run_id
        self.name = name
        self._params: dict[str, str] = {}

    def log_params(self, config: Config | Mapping[str, Any]) -> None:
        """Log a config as flat parameters (`stages.nl.steps`) and as the file `config.json`."""
        values = all_values(config)
        self._params = self._write_params(flatten(values, "."))
        self.log_json("config.json", values)

    def _write_params(self, values: Mapping[str, Any]) -> dict[str, str]:
        params = {name: as_parameter(value) for name, value in with_mlflow_names(values).items()}
        rows = [Param(name, value) for name, value in params.items()]
        with wrap_mlflow_errors(f"logging the parameters of {self.name}"):
            for batch in batches(rows, MAX_PARAMS_PER_BATCH):
                self._client.log_batch(self.id, params=batch)
        return params

    def _write_metrics(self, metrics: list[Metric]) -> None:
        with wrap_mlflow_errors(f"logging metrics of {self.name}"):
            for batch in batches(metrics, MAX_METRICS_PER_BATCH):
                self._client.log_batch(self.id, metrics=batch)

    @contextmanager
    def metric_stream(self, prefix: str = "training") -> Iterator[RecordRow]:
        """Log rows of metrics as they arrive, without blocking during an outage of the server.

        Each row has `step`, and optionally `tokens`. A metric is logged over steps
        (`training/loss`) and over tokens (`training_by_tokens/loss`), because only the latter
        compares runs with different batch sizes.

        Raises:
            TrackingError: the server rejected a row, or was unreachable at the end of the block.
        """
        buffer = MetricBuffer(self._client, self.id, self.name)

        def record(row: Config | Mapping[str, Any]) -> None:
            values = row.model_dump() if isinstance(row, Config) else row
            buffer.add(_metrics_over_both_axes(prefix, values))

        try:
            yield record
        finally:
            buffer.close()

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        if not values:
            return
        rows = [RunTag(key, value) for key, value in with_mlflow_names(values).items()]
        with wrap_mlflow_errors(f"tagging {self.name}"):
            self._client.log_batch(self.id, tags=rows)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder with its contents."""
        with wrap_mlflow_errors(f"uploading {path.name}"):
            upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            upload(self.id, str(path), folder)

    def log_json(self, name: str, value: Any) -> None:
        """Upload a JSON value as the file `name`."""
        with wrap_mlflow_errors(f"uploading {name}"):
            self._client.log_dict(self.id, value, name)

    def log_table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Upload rows as a table that MLflow displays and compares; `name` ends in `.json`."""
        # MLflow selects "object" columns, which pandas no longer infers for text.
        table = pd.DataFrame(list(rows), dtype=object)
        with wrap_mlflow_errors(f"uploading {name}"):
            self._client.log_table(self.id, table, name)


def now_ms() -> int:
    """Return the current time as MLflow stores it."""
    return int(time.time() * 1000)


def _metrics_over_both_axes(prefix: str, row: Mapping[str, Any]) -> Iterator[Metric]:
    timestamp = now_ms()
    axes = {"step": prefix, "tokens": f"{prefix}_by_tokens"}
    values = numbers({name: value for name, value in row.items() if name not in axes})
    for axis, family in axes.items():
        if axis in row:
            for name, value in with_mlflow_names(values).items():
                yield Metric(f"{family}/{name}", value, timestamp, int(row[axis]))


class MetricBuffer:
    """Metrics of a run, written every few seconds without waiting for the server.

    If the server is unreachable, metrics stay in memory in order, with their timestamps. Only
    `close` waits. Not thread-safe. If the process dies, a trainer's metrics are read again from
    its files.
    """

    def __init__(self, client: RetryingMlflowClient, run_id: str, name: str) -> None:
        self._client = client
        self._run_id = run_id
        self._name = name
        self._pending: list[Metric] = []
        self._last_flush = time.monotonic()
        self._is_offline = False

    def add(self, metrics: Iterable[Metric]) -> None:
        """Append metrics; write all pending metrics if the flush interval has passed.

        Raises:
            TrackingError: the server rejected the metrics.
        """
        self._pending.extend(metrics)
        if time.monotonic() - self._last_flush >= FLUSH_INTERVAL_S:
            with wrap_mlflow_errors(f"logging metrics of {self._name}"):
                self._try_flush()
            self._last_flush = time.monotonic()

    def close(self) -> None:
        """Write all pending metrics; wait for the server if it is unreachable.

        Raises:
            TrackingError: the server stayed unreachable, or rejected the metrics.
        """
        with wrap_mlflow_errors(f"logging metrics of {self._name}"):
            self._flush(self._client)

    def _try_flush(self) -> None:
        # The health check is quick; a write to a server that hangs would block for minutes.
        if self._is_offline and not self._client.policy.is_healthy():
            return
        try:
            self._flush(self._client.raw_client)
        except (MlflowException, RequestException) as error:
            if not is_connection_error(error):
                raise
            self._is_offline = True
            logger.warning("MLflow does not answer; metrics of %s are buffered", self._name)
        else:
            if self._is_offline:
                self._is_offline = False
                logger.warning("MLflow answers again; metrics of %s are written", self._name)

    def _flush(self, client: RetryingMlflowClient | MlflowClient) -> None:
        while self._pending:
            batch = self._pending[:MAX_METRICS_PER_BATCH]
            client.log_batch(self._run_id, metrics=batch)
            del self._pending[: len(batch)]


def sample_interval_s(shortest_s: float, duration_s: float) -> float:
    """Return the time until the next sample of a run that has taken `duration_s` so far."""
    longest_s = max(shortest_s, _MAX_SAMPLE_INTERVAL_S)
    return min(longest_s, max(shortest_s, duration_s * _INTERVAL_SHARE))


class SystemMetrics(SystemMetricsMonitor):  # type: ignore[misc]
    """Samples CPU, memory, disk, network and GPUs of a run (`system/cpu_...`) by sample number.

    MLflow's sensors with our own loop: MLflow's loop stops at the first failed call, can delay the
    end of a run for minutes, and records nothing for a run shorter than its interval.
    """

    def __init__(self, run_id: str, uri: str, buffer: MetricBuffer) -> None:
        super().__init__(run_id, sampling_interval=SAMPLE_INTERVAL_S, tracking_uri=uri)
        self._started = time.monotonic()
        self._buffer = buffer
        self._num_samples = 0
        self.collect_metrics()  # CPU time is measured between samples; the first is invalid.
        self._clear()

    def monitor(self) -> None:
        """Sample until `finish`; runs in MLflow's thread."""
        try:
            while not self._shutdown_event.wait(self._next_interval_s()):
                self._sample()
        except TrackingError as error:  # `finish` writes the rest and raises the error again.
            logger.warning("sampling of system metrics stopped: %s", error.got)

    def _next_interval_s(self) -> float:
        return sample_interval_s(self.sampling_interval, time.monotonic() - self._started)

    def finish(self) -> None:
        """Stop sampling and write all pending samples.

        Raises:
            TrackingError: the server stayed unreachable, or rejected the samples.
        """
        self._shutdown_event.set()
        if self._process:
            self._process.join()
        if not self._num_samples:
            self._sample()
        self._buffer.close()

    def _sample(self) -> None:
        self.collect_metrics()
        timestamp = now_ms()
        step = self._num_samples
        self._num_samples += 1
        values = self.aggregate_metrics()
        self._clear()
        self._buffer.add(
            Metric(f"{self._metrics_prefix}{name}", value, timestamp, step)
            for name, value in values.items()
        )

    def _clear(self) -> None:
        for sensor in self.monitors:
            sensor.clear_metrics()
