"""Starts of the process pools that could run the tasks of data preparation (decision 0015).

    python tests/benchmarks/engine.py [--runs 5] [--workers 2]

Every pool runs 8 calls of a small function in a module whose import takes most of the time: the
tokenize stage. Each measurement is a whole process, without the import of that module itself, and
the pools alternate. `again` is a second pool of the same process; `MB` is the proportional memory
of all processes. Needs `pip install daft==0.7.26 loky` for the rejected pools; a pool that is not
installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil

from components.preparation.tokenize_stage import progress_counts

NUM_TASKS = 8
WORK = [{"documents": number} for number in range(NUM_TASKS)]


def pool_of(method: str) -> Callable[[int], None]:
    """Python's process pool with a start method."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([progress_counts.__module__])

    def run(workers: int) -> None:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            assert len(list(pool.map(progress_counts, WORK))) == NUM_TASKS
            report_memory()

    return run


def run_loky(workers: int) -> None:
    """The pool of joblib."""
    from loky import ProcessPoolExecutor as LokyExecutor

    with LokyExecutor(workers) as pool:
        assert len(list(pool.map(progress_counts, WORK))) == NUM_TASKS
        report_memory()


def run_daft(workers: int) -> None:
    """Daft's processes for a Python function."""
    import daft

    @daft.cls(use_process=True, max_concurrency=workers)
    class Worker:
        @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=1)
        def run(self, numbers: daft.Series) -> list[int]:
            return [progress_counts({"documents": n}).documents for n in numbers.to_pylist()]

    frame = daft.from_pydict({"number": list(range(NUM_TASKS))})
    batches = frame.select(Worker().run(daft.col("number"))).to_arrow_iter()
    assert sum(len(batch) for batch in batches) == NUM_TASKS
    report_memory()


def run_engine(workers: int) -> None:
    """The engine of this project."""
    from components.data.config import DataExecution
    from components.data.engine import run_tasks

    work: list[Any] = [(f"task {number}", unit) for number, unit in enumerate(WORK)]
    results = run_tasks(progress_counts, work, DataExecution(num_workers=workers))
    assert len(list(results)) == NUM_TASKS


def report_memory() -> None:
    """Print the proportional memory of this process and its descendants."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    print(json.dumps({"MB": sum(process.memory_full_info().pss for process in processes) / 1e6}))


POOLS = {
    "engine": lambda: run_engine,
    "forkserver": lambda: pool_of("forkserver"),
    "spawn": lambda: pool_of("spawn"),
    "loky": lambda: run_loky,
    "daft": lambda: run_daft,
}


def measure(name: str, workers: int) -> None:
    """Run a pool twice in this process and print the durations."""
    durations = []
    started = time.perf_counter()
    run = POOLS[name]()
    for _ in range(2):
        run(workers)
        durations.append(time.perf_counter() - started)
        started = time.perf_counter()
    print(json.dumps({"first": durations[0], "again": durations[1]}))


def main() -> None:
    """Print the figures of each pool, or run as a measured process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pool", choices=list(POOLS))
    arguments = parser.parse_args()
    if arguments.pool:
        measure(arguments.pool, arguments.workers)
        return
    optional = {"loky", "daft"}
    names = [name for name in POOLS if name not in optional or importlib.util.find_spec(name)]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.runs):
        for name in names:
            command = [
                sys.executable,
                __file__,
                "--pool",
                name,
                "--workers",
                str(arguments.workers),
            ]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            lines = [json.loads(line) for line in output.splitlines()]
            results[name].append({key: value for line in lines for key, value in line.items()})
    for name, runs in results.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(name, "  ".join(f"{key} {value:.2f}" for key, value in medians.items()))


if __name__ == "__main__":
    main()
