"""How far the servers of a team scale: MLflow and Prefect on PostgreSQL, beside the needs of a 16B
run.

    python tests/benchmarks/scale.py estimate [--recipe 16b] [--gpus 64]
    python tests/benchmarks/scale.py mlflow [--runs 1000] [--points 1000]
    python tests/benchmarks/scale.py prefect [--runs 200] [--tasks 10]

`estimate` computes the numbers of docs/scale.md. `mlflow` writes runs through an MLflow server, in
the batches that flows write, and reads them as its pages do. `prefect` starts flow runs at the same
time. Both start their servers, and PostgreSQL needs root and Debian's package.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.postgres import Postgres, postgres_server
from fixtures.prefect_on_postgres import DATABASE, prefect_on_postgres
from fixtures.tracking_server import tracking_server

_BATCH = 1_000
"""Points of a request; the most that MLflow accepts, and what flows send after an outage."""
_NUM_METRICS = 10
_NUM_PARAMS = 50
_NUM_WRITERS = 4
_NUM_LONG_POINTS = 100_000
_NUM_PROCESSES = 4
_PAPER_TOKENS = {"nl": 354_700_000_000, "multi": 119_200_000_000, "mono": 71_700_000_000}
"""docs/paper.md, section 1; of the Pile without GitHub."""
_METRICS_PER_STEP = 28
"""Rows of a step, counted after a run of the starter: 14 metrics, each over steps and tokens."""
_SYSTEM_METRICS = 8 + 8 * 4
"""Rows of a sample: 8 of a host (counted), and 4 for each of 8 GPUs (MLflow's sensors, read)."""


def timed(function: Callable[[], object], repetitions: int = 5) -> str:
    """Return the median duration of calls."""
    durations = []
    for _ in range(repetitions):
        started = time.monotonic()
        function()
        durations.append(time.monotonic() - started)
    return f"{statistics.median(durations) * 1_000:,.0f} ms"


# -- MLflow


def measure_mlflow(num_runs: int, num_points: int) -> None:
    """Write runs with metrics, then read them."""
    with postgres_server() as postgres, tempfile.TemporaryDirectory() as folder:
        postgres.create_database("mlflow")
        with tracking_server(Path(folder), postgres.uri("mlflow")) as server:
            _write_runs(server.uri, num_runs, num_points)
            _print_size(postgres, "mlflow")
            _read_runs(server.uri)


def _write_runs(url: str, num_runs: int, num_points: int) -> None:
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(url)
    experiment = client.create_experiment("scale")

    def write(number: int) -> None:
        run = client.create_run(experiment, run_name=f"run-{number}").info.run_id
        params = [Param(f"field.{index}", str(number * index)) for index in range(_NUM_PARAMS)]
        client.log_batch(run, params=params, tags=[RunTag("stage", "nl")])
        points = [
            Metric(
                f"training/metric_{index % _NUM_METRICS}", index / 3, index, index // _NUM_METRICS
            )
            for index in range(num_points)
        ]
        for start in range(0, num_points, _BATCH):
            client.log_batch(run, metrics=points[start : start + _BATCH])
        client.set_terminated(run)

    started = time.monotonic()
    with ThreadPoolExecutor(_NUM_WRITERS) as threads:
        list(threads.map(write, range(num_runs)))
    duration_s = time.monotonic() - started
    total = num_runs * num_points
    print(
        f"{num_runs:,} runs, {total:,} metric points: {duration_s:.0f} s, "
        f"{total / duration_s:,.0f} points/s"
    )
    long_run = client.create_run(experiment, run_name="long").info.run_id
    for start in range(0, _NUM_LONG_POINTS, _BATCH):
        steps = range(start, start + _BATCH)
        client.log_batch(
            long_run, metrics=[Metric("loss", 1 / (step + 1), step, step) for step in steps]
        )


def _read_runs(url: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("scale").experiment_id
    (long_run,) = client.search_runs([experiment], "attributes.run_name = 'long'")
    order = ["metrics.`training/metric_0` DESC"]
    print(
        "a page of 100 runs, sorted by a metric:",
        timed(lambda: client.search_runs([experiment], order_by=order, max_results=100)),
    )
    print("a run:", timed(lambda: client.get_run(long_run.info.run_id)))
    print(
        f"the history of a metric with {_NUM_LONG_POINTS:,} points:",
        timed(lambda: client.get_metric_history(long_run.info.run_id, "loss"), repetitions=3),
    )


def _print_size(postgres: Postgres, database: str) -> None:
    size = int(
        postgres.run("psql", "-d", database, "-Atc", f"select pg_database_size('{database}')")
    )
    print(f"database {database}: {size / 1e6:,.0f} MB")


# -- Prefect


def measure_prefect(num_runs: int, num_tasks: int) -> None:
    """Start flow runs at the same time, and measure requests of the UI meanwhile."""
    with tempfile.TemporaryDirectory() as folder, prefect_on_postgres(Path(folder)) as server:
        os.environ |= server.client_settings(Path(folder)) | {"PREFECT_LOGGING_LEVEL": "ERROR"}
        _run_flows(num_runs, num_tasks)
        _print_size(server.postgres, DATABASE)


def _run_flows(num_runs: int, num_tasks: int) -> None:
    from prefect.client.orchestration import get_client

    per_process = num_runs // _NUM_PROCESSES
    started = time.monotonic()
    latencies = []
    with (
        ProcessPoolExecutor(_NUM_PROCESSES) as processes,
        get_client(sync_client=True) as client,
    ):
        futures = [
            processes.submit(run_flows_in_threads, per_process, num_tasks)
            for _ in range(_NUM_PROCESSES)
        ]
        while not all(future.done() for future in futures):
            request_started = time.monotonic()
            client.read_flow_runs(limit=50)
            latencies.append(time.monotonic() - request_started)
            time.sleep(0.2)
        names = [name for future in futures for name in future.result()]
        duration_s = time.monotonic() - started
        runs = [
            client.read_flow_runs(limit=200, offset=offset) for offset in range(0, num_runs, 200)
        ]
    states = [run.state.name for page in runs for run in page if run.state]
    print(
        f"{len(names)} flow runs at the same time, {num_tasks} tasks each: {duration_s:.0f} s; "
        f"{states.count('Completed')} Completed"
    )
    print(
        f"a list of 50 flow runs meanwhile: median {statistics.median(latencies) * 1e3:,.0f} ms, "
        f"95 % within {statistics.quantiles(latencies, n=20)[-1] * 1e3:,.0f} ms"
    )


def run_flows_in_threads(num_runs: int, num_tasks: int) -> list[str]:
    """Run flows in threads; each waits until all of them run."""
    import threading

    from prefect import flow, task

    barrier = threading.Barrier(num_runs)

    @task
    def step(number: int) -> int:
        return number

    @flow
    def pipeline() -> str:
        barrier.wait()
        for number in range(num_tasks):
            step(number)
        return "finished"

    with ThreadPoolExecutor(num_runs) as threads:
        return list(threads.map(lambda _: pipeline(), range(num_runs)))


# -- the needs of a run


def estimate(recipe_name: str, num_gpus: int) -> None:
    """Print what a run of a recipe reads and writes, by the constants of the code."""
    from components.dataset.config import RANGE_BYTES
    from components.dataset.shards import SHARD_TOKENS, TOKEN_DTYPE
    from components.evaluation.workload import sampling_work
    from components.registry.client.run_writer import SAMPLE_INTERVAL_S
    from components.training.config import ParallelLayout, TrainingExecution
    from components.training.planning.devices import find_device
    from components.training.planning.memory import checkpoint_bytes
    from components.training.planning.planner import make_plan
    from flows.settings.execution import HEARTBEAT_S
    from flows.settings.recipes import recipe as find_recipe

    recipe = find_recipe(recipe_name)
    execution = TrainingExecution()
    layout = ParallelLayout(world_size=num_gpus, micro_batch=1, zero_stage=2, precision="bf16")
    plan = make_plan(recipe.model, recipe.training, [layout], find_device("a100-80"))
    for corpus, num_tokens in _PAPER_TOKENS.items():
        size = num_tokens * TOKEN_DTYPE.itemsize
        print(f"corpus {corpus}: {-(-num_tokens // SHARD_TOKENS):,} shards, {size / 1e9:,.0f} GB")
    size = checkpoint_bytes(recipe.model, layout)
    for stage in plan.stages:
        num_steps = recipe.training.stages[stage.name].steps
        step_s = stage.hours * 3_600 / num_steps
        num_checkpoints = num_steps // execution.checkpoint_every_steps
        interval_s = step_s * execution.checkpoint_every_steps
        num_sequences = stage.tokens // recipe.model.context_length
        duration_s = stage.hours * 3_600
        num_samples = _num_samples(duration_s)
        num_constant = round(duration_s / SAMPLE_INTERVAL_S)
        print(
            f"stage {stage.name}: {num_steps:,} steps of {step_s:.1f} s on {num_gpus} GPUs\n"
            f"  checkpoints: {num_checkpoints:,} of {size / 1e9:,.0f} GB, one in "
            f"{interval_s / 60:.0f} min: {size / interval_s / 1e6:,.0f} MB/s on average\n"
            f"  streaming: {num_sequences:,} ranges, {num_sequences / duration_s:,.0f} requests/s, "
            f"{num_sequences * RANGE_BYTES / 1e12:,.1f} TB\n"
            f"  rows of training metrics: {num_steps * _METRICS_PER_STEP:,}\n"
            f"  rows of system metrics: {num_samples * _SYSTEM_METRICS:,}; at a constant interval: "
            f"{num_constant * _SYSTEM_METRICS:,}\n"
            f"  heartbeats in Prefect: {round(duration_s / HEARTBEAT_S):,}"
        )
    work = sampling_work(recipe.evaluation)
    print("samples of a stage:", ", ".join(f"{part.name} {part.num_samples:,}" for part in work))


def _num_samples(duration_s: float) -> int:
    """Return how often the system metrics of a run are sampled."""
    from components.registry.client.run_writer import SAMPLE_INTERVAL_S, sample_interval_s

    elapsed_s, number = 0.0, 0
    while elapsed_s < duration_s:
        elapsed_s += sample_interval_s(SAMPLE_INTERVAL_S, elapsed_s)
        number += 1
    return number


def main() -> None:
    """Run a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, runs, size_option, size in (
        ("mlflow", 1_000, "--points", 1_000),
        ("prefect", 200, "--tasks", 10),
    ):
        command = commands.add_parser(name)
        command.add_argument("--runs", type=int, default=runs)
        command.add_argument(size_option, dest="size", type=int, default=size)
    command = commands.add_parser("estimate")
    command.add_argument("--recipe", default="16b")
    command.add_argument("--gpus", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.command == "estimate":
        estimate(arguments.recipe, arguments.gpus)
        return
    measure = {"mlflow": measure_mlflow, "prefect": measure_prefect}[arguments.command]
    measure(arguments.runs, arguments.size)


if __name__ == "__main__":
    main()
