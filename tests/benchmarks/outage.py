"""Outage of the tracking server for 60 s during a training stage: delay of training, and metrics
that reach the server.

    python tests/benchmarks/outage.py [--outage-s 60]

Trains one small stage with a real `mlflow server` on SQLite that is killed after a third of the
steps.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # As in a flow.
sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.tracking_server import tracking_server
from fixtures.training import EXECUTION, STAGE, toy_run

from components.registry.tracking import Tracking
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics


def main(outage_s: float, steps: int) -> None:
    """Train through the outage and print the measurements."""
    logging.basicConfig(level=logging.WARNING, format="%(relativeCreated)8.0f ms  %(message)s")
    with tempfile.TemporaryDirectory() as scratch, tracking_server(Path(scratch)) as server:
        folder = Path(scratch)
        received: list[tuple[float, StepMetrics]] = []
        marks: dict[str, float] = {}

        def interrupt_server() -> None:
            marks["killed"] = time.monotonic()
            server.kill()
            time.sleep(outage_s)
            server.start()
            marks["restarted"] = time.monotonic()

        outage = threading.Thread(target=interrupt_server)
        stage = toy_run(folder / "inputs", STAGE.replace(steps=steps, decay_steps=steps - 10))
        (folder / "stage").mkdir()
        tracking = Tracking(server.uri, folder / "artifacts")
        with tracking.run("train", experiment="outage", system_metrics=True) as run:
            with run.metric_stream() as record:

                def on_step(step: StepMetrics) -> None:
                    received.append((time.monotonic(), step))
                    record(step.model_dump(exclude_none=True))
                    if step.step >= steps // 3 and not marks:
                        marks["killed"] = time.monotonic()
                        outage.start()

                train_stage(
                    folder / "stage",
                    stage,
                    EXECUTION.replace(checkpoint_every_steps=steps),
                    on_step,
                )
            outage.join()
        _report(tracking, run.id, received, marks)


def _report(
    tracking: Tracking,
    run_id: str,
    received: list[tuple[float, StepMetrics]],
    marks: dict[str, float],
) -> None:
    losses = tracking.client.get_metric_history(run_id, "training/loss")
    system = tracking.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    intervals_s = [after - before for (before, _), (after, _) in itertools.pairwise(received)]
    during = [time_s for time_s, _ in received if marks["killed"] <= time_s <= marks["restarted"]]
    print(f"outage                           {marks['restarted'] - marks['killed']:8.1f} s")
    print(
        f"steps trained                    {len(received):8,}, {len(during):,} of them during the "
        "outage"
    )
    print(f"longest time between two steps   {max(intervals_s):8.1f} s")
    expected = [(step.step, step.loss) for _, step in received]
    is_equal, is_complete = (
        [(metric.step, metric.value) for metric in losses] == expected,
        [metric.step for metric in system] == list(range(len(system))),
    )
    print(
        f"steps in MLflow                  {len(losses):8,}, the same in the same order: {is_equal}"
    )
    print(
        f"system metrics                   {len(system):8,}, numbered without a gap: {is_complete}"
    )
    print(f"status                           {tracking.client.get_run(run_id).info.status}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outage-s", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    main(arguments.outage_s, arguments.steps)
