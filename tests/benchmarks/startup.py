"""How long a user waits before `codegen` works: help, imports, servers, and a run without work.

Complete processes, including the start of the interpreter. Median of `--repeats`, with the
processor time of the process and its children, which other programs disturb less. No assertion: the
figures are for docs/figures.md.

    nice -n -15 python tests/benchmarks/startup.py
    python tests/benchmarks/startup.py --servers --repeats 5

With --servers: a first and a finished `codegen run -r tiny`, whose steps are all reused, and
`codegen ui` until both servers are healthy, in a new project. Commit all changes before: the run of
uncommitted code measures the logits of each checkpoint again.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.projects import new_project

from components.core.network import free_port

CODEGEN = ["-m", "flows.cli.main"]
CASES = {
    "python -c pass": ["-c", "pass"],
    "codegen --help": [*CODEGEN, "--help"],
    "codegen run --help": [*CODEGEN, "run", "--help"],
    "codegen recipe list": [*CODEGEN, "recipe", "list"],
    "from prefect import flow": ["-c", "from prefect import flow"],
    "import flows.pipeline": ["-c", "import flows.pipeline"],
}


def run(arguments: list[str]) -> float:
    """Run Python; return its seconds of wall clock."""
    started_s = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started_s


def start_ui(project: Path) -> float:
    """Run `codegen ui` until both servers are healthy; return the seconds until then."""
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *CODEGEN, "ui", *ports, "--exec", f"project={project}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    is_healthy = any("Ctrl-C stops" in line for line in process.stdout)
    duration_s = time.perf_counter() - started_s
    assert is_healthy
    process.send_signal(signal.SIGINT)
    process.communicate()
    return duration_s


def measure(name: str, repeats: int, call: Callable[[], float]) -> None:
    """Print the median seconds of wall clock and of processor."""
    wall = []
    processor = []
    for _ in range(repeats):
        before = os.times()
        wall.append(call())
        after = os.times()
        processor.append(sum(after[2:4]) - sum(before[2:4]))
    all_wall = ", ".join(f"{value:.2f}" for value in sorted(wall)) if repeats > 1 else ""
    print(
        f"{name:<26} {statistics.median(wall):>6.2f} s {statistics.median(processor):>6.2f} s  "
        f"{all_wall}",
        flush=True,
    )


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--servers", action="store_true", help="runs and servers, see above")
    parser.add_argument("--project", type=Path, help="use this project with a finished run")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, "
        f"median of {options.repeats}"
    )
    print(f"{'':<26} {'wall':>8} {'cpu':>8}")
    if not options.servers:
        for name, arguments in CASES.items():
            run(arguments)  # Compiles modules, and fills the disk's cache.
            measure(name, options.repeats, lambda arguments=arguments: run(arguments))
        return
    with tempfile.TemporaryDirectory() as folder:
        project = options.project or new_project(Path(folder) / "project")
        arguments = [*CODEGEN, "run", "-r", "tiny", "--exec", f"project={project}"]
        if not options.project:
            measure("first codegen run -r tiny", 1, lambda: run(arguments))
        measure("finished run -r tiny", options.repeats, lambda: run(arguments))
        measure("codegen ui until healthy", options.repeats, lambda: start_ui(project))


if __name__ == "__main__":
    main()
