"""Figures on their way to a run, for those who must not wait: a trainer that is followed, samples of the system.

Design decision: figures are written every few seconds with one quick try; where nobody answers they wait in memory, in their
order and with the times at which they were measured, and go with the next try. Only the end of the block waits for the
server. Not covered: the process's own death, after which a trainer's figures are read from its files again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from requests import RequestException

from components.registry.client.connection import wrap_mlflow_errors
from components.registry.client.naming import MAX_METRICS_PER_BATCH
from components.registry.client.retry import RetryingMlflowClient, is_connection_error

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

FLUSH_EVERY_S = 2.0
"""How long a figure may wait before it is written, so that the page follows a training."""


class MetricBuffer:
    """The figures of one run that were not written yet. For one thread."""

    def __init__(self, client: RetryingMlflowClient, run_id: str, name: str) -> None:
        self._client, self._run_id, self._name = client, run_id, name
        self._waiting: list[Metric] = []
        self._tried = time.monotonic()
        self._away = False

    def add(self, metrics: Iterable[Metric]) -> None:
        """Take figures, and write what there is where that was not tried of late.

        Raises:
            TrackingError: the server answered, and refused.
        """
        self._waiting.extend(metrics)
        if time.monotonic() - self._tried >= FLUSH_EVERY_S:
            with wrap_mlflow_errors(f"logging metrics of {self._name}"):
                self._try()
            self._tried = time.monotonic()

    def close(self) -> None:
        """Write the rest, waiting for the server where it is away.

        Raises:
            TrackingError: it stayed away, or refused.
        """
        with wrap_mlflow_errors(f"logging metrics of {self._name}"):
            self._write(self._client)

    def _try(self) -> None:
        if (
            self._away and not self._client.patience.answers()
        ):  # Asked first: one that hangs would keep us for minutes.
            return
        try:
            self._write(self._client.raw_client)
        except (MlflowException, RequestException) as error:
            if not is_connection_error(error):
                raise
            self._away = True
            logger.warning("MLflow does not answer; %s goes on, and its metrics wait", self._name)
        else:
            if self._away:
                self._away = False
                logger.warning("MLflow answers again: the metrics of %s are written", self._name)

    def _write(self, client: RetryingMlflowClient | MlflowClient) -> None:
        while self._waiting:
            batch = self._waiting[:MAX_METRICS_PER_BATCH]
            client.log_batch(self._run_id, metrics=batch)
            del self._waiting[: len(batch)]
