"""How long a person waits before `codegen` does anything: help, and the imports of a command and of
the flows.

Whole processes, the interpreter's own start included, which is measured beside them; the median of
`--repeats`, and the processor time, which another program on the machine disturbs less. No
assertion: the figures are for docs/figures.md.

    nice -n -15 python tests/benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "codegen --help": ["-m", "flows.cli.main", "--help"],
    "codegen run --help": ["-m", "flows.cli.main", "run", "--help"],
    "codegen recipe list": ["-m", "flows.cli.main", "recipe", "list"],
    "from prefect import flow": ["-c", "from prefect import flow"],
    "import flows.pipeline": ["-c", "import flows.pipeline"],
}


def measure(arguments: list[str], repeats: int) -> tuple[float, float]:
    """Median seconds of wall clock and of processor."""
    wall, processor = [], []
    for _ in range(repeats):
        before, started = os.times(), time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        wall.append(time.perf_counter() - started)
        after = os.times()
        processor.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    """Print a line for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, "
        f"median of {repeats}"
    )
    print(f"{'':<26} {'wall':>7} {'cpu':>7}")
    for name, arguments in CASES.items():
        measure(arguments, 1)  # Compiles what was not compiled, and warms the disk's cache.
        wall, processor = measure(arguments, repeats)
        print(f"{name:<26} {wall:>5.2f} s {processor:>5.2f} s", flush=True)


if __name__ == "__main__":
    main()
