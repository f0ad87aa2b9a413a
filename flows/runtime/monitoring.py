"""Prometheus metrics of a training, served by the process of its flow run.

`metrics_port` of the execution config opens the port while a stage is trained. Monitoring never
stops a training: if the port cannot be opened, the flow logs a warning and continues.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.settings.execution import Execution

if TYPE_CHECKING:  # Imports torch.
    from components.training.metrics import StepMetrics

logger = logging.getLogger(__name__)

_GAUGES = {
    "step": "Finished optimizer steps of the stage.",
    "steps": "Optimizer steps of the complete stage.",
    "tokens": "Trained tokens of the stage.",
    "loss_nats": "Mean loss of the last batch that was not skipped, in nats per token.",
    "learning_rate": "Learning rate of the last step.",
    "tokens_per_second": "Throughput of the last step over all ranks.",
    "mfu_ratio": "Model FLOPs utilization of the last step, 0 to 1.",
    "seconds_left": "Estimated time until the last step of the stage.",
    "last_step_timestamp_seconds": "Unix time at which the flow received the last step.",
}
"""Metrics `codegen_training_...`, with their description for Prometheus."""


@contextmanager
def training_metrics(
    execution: Execution, recipe: str, stage: str, num_steps: int
) -> Iterator[Callable[[StepMetrics], None]]:
    """Serve the metrics of a stage during the block; yields a function that records a step."""
    if execution.metrics_port is None:
        yield lambda _: None
        return
    from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

    registry = CollectorRegistry()
    labels = {"recipe": recipe, "stage": stage}
    gauges = {
        name: Gauge(f"codegen_training_{name}", text, list(labels), registry=registry).labels(
            **labels
        )
        for name, text in _GAUGES.items()
    }
    skipped = Counter(
        "codegen_training_skipped_batches", "Skipped batches.", list(labels), registry=registry
    ).labels(**labels)
    gauges["steps"].set(num_steps)

    def record(step: StepMetrics) -> None:
        values = {
            "step": step.step,
            "tokens": step.tokens,
            "learning_rate": step.learning_rate,
            "tokens_per_second": step.tokens_per_s,
            "mfu_ratio": step.mfu,
            "seconds_left": step.time_left_s,
            "last_step_timestamp_seconds": time.time(),
        }
        if step.skipped:
            skipped.inc()
        elif step.loss is not None:
            values["loss_nats"] = step.loss
        for name, value in values.items():
            gauges[name].set(value)

    try:
        server, thread = start_http_server(
            execution.metrics_port, addr=execution.metrics_host, registry=registry
        )
    except OSError as error:
        logger.warning(
            "no Prometheus metrics of stage %s: %s:%d cannot be opened: %s",
            stage,
            execution.metrics_host,
            execution.metrics_port,
            error.strerror,
        )
        yield record
        return
    try:
        yield record
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
