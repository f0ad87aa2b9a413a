"""Samples of processor, memory, disk, network and graphics cards while a run lasts.

Design decision: MLflow's sensors, with a loop of ours. MLflow's own stops for good at the first call that fails, may keep
the end of a run waiting for minutes, and says nothing of a run that is shorter than its interval; ours writes through a
backlog, and samples once at the end where it has not yet.
"""

from __future__ import annotations

import logging
import time

from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from components.core.errors import TrackingError
from components.registry.client.metric_buffer import MetricBuffer

logger = logging.getLogger(__name__)

SAMPLE_EVERY_S = 2.0
"""Between two samples; one costs some 10 ms. MLflow's own MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL goes before it."""


class SystemMetrics(SystemMetricsMonitor):  # type: ignore[misc]
    """The samples of one run, as `system/cpu_utilization_percentage` and others, over their number."""

    def __init__(self, run_id: str, uri: str, backlog: MetricBuffer) -> None:
        super().__init__(run_id, sampling_interval=SAMPLE_EVERY_S, tracking_uri=uri)
        self._backlog, self._count = backlog, 0
        self.collect_metrics()  # Processor time is counted from one sample to the next: this one has nothing before it.
        self._clear()

    def monitor(self) -> None:
        """Sample until `finish`; the loop of MLflow's thread."""
        try:
            while not self._shutdown_event.wait(self.sampling_interval):
                self._sample()
        except TrackingError as error:  # Raised again by `finish`, which writes what is left.
            logger.warning("no more samples of the system: %s", error.got)

    def finish(self) -> None:
        """Stop sampling and write the rest.

        Raises:
            TrackingError: the server stayed away, or refused.
        """
        self._shutdown_event.set()
        if self._process:
            self._process.join()
        if not self._count:
            self._sample()
        self._backlog.close()

    def _sample(self) -> None:
        self.collect_metrics()
        now, step = int(time.time() * 1000), self._count
        self._count += 1
        found = {
            f"{self._metrics_prefix}{name}": value
            for name, value in self.aggregate_metrics().items()
        }
        self._clear()
        self._backlog.add([Metric(name, value, now, step) for name, value in found.items()])

    def _clear(self) -> None:
        for one in self.monitors:
            one.clear_metrics()
