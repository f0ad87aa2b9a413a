"""A tracking server that is away for 60 s while a stage is trained: what training loses, what
arrives, and when.

    python tests/benchmarks/outage.py [--away-s 60]

One toy stage, long enough to call_with_retry the outage, with a real `mlflow server` over SQLite
that is killed at a third of the stage. The figures are in docs/figures.md.
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


def main(away_s: float, steps: int) -> None:
    """Print one line a figure."""
    logging.basicConfig(level=logging.WARNING, format="%(relativeCreated)8.0f ms  %(message)s")
    with tempfile.TemporaryDirectory() as scratch, tracking_server(Path(scratch)) as server:
        folder = Path(scratch)
        seen: list[tuple[float, StepMetrics]] = []
        marks: dict[str, float] = {}

        def away() -> None:
            marks["killed"] = time.monotonic()
            server.kill()
            time.sleep(away_s)
            server.start()
            marks["back"] = time.monotonic()

        outage = threading.Thread(target=away)
        stage = toy_run(folder / "inputs", STAGE.replace(steps=steps, decay_steps=steps - 10))
        (folder / "stage").mkdir()
        tracking = Tracking(server.uri, folder / "artifacts")
        with tracking.run("train", experiment="outage", system_metrics=True) as run:
            with run.metric_stream() as record:

                def on_step(step: StepMetrics) -> None:
                    seen.append((time.monotonic(), step))
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
        _report(tracking, run.id, seen, marks)


def _report(
    tracking: Tracking, run_id: str, seen: list[tuple[float, StepMetrics]], marks: dict[str, float]
) -> None:
    kept = tracking.client.get_metric_history(run_id, "training/loss")
    system = tracking.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(seen)]
    meanwhile = [at for at, _ in seen if marks["killed"] <= at <= marks["back"]]
    print(f"away                             {marks['back'] - marks['killed']:8.1f} s")
    print(
        f"steps trained                    {len(seen):8,}, {len(meanwhile):,} of them while it "
        "was away"
    )
    print(f"longest wait between two steps   {max(gaps):8.1f} s")
    expected = [(one.step, one.loss) for _, one in seen]
    same, whole = (
        [(one.step, one.value) for one in kept] == expected,
        [one.step for one in system] == list(range(len(system))),
    )
    print(f"steps in MLflow                  {len(kept):8,}, the same in the same order: {same}")
    print(f"samples of the system            {len(system):8,}, numbered without a gap: {whole}")
    print(f"status                           {tracking.client.get_run(run_id).info.status}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--away-s", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=3000)
    given = parser.parse_args()
    main(given.away_s, given.steps)
