"""Concurrent pipelines of the tiny recipe on SQLite: how many complete, and how often a database
was locked.

    python tests/benchmarks/many_pipelines.py [--runs 8] [--without-server]

Runs of `codegen serve` with its real servers. Each run has another name and seed, so no run reuses
the artifacts of another. With --without-server, each run is a `codegen run` with a temporary server
on the same database. The archives are the small ones of the tests.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.archives import build_archives
from fixtures.prefect_stack import FINAL_STATES, Stack, start_codegen
from fixtures.projects import FixtureArchives, new_project

_LOCKED = "database is locked"
_POLL_INTERVAL_S = 3.0


def run_deployments(folder: Path, archives: FixtureArchives, runs: int) -> list[str]:
    """Run deployments of one server; return the name of each final state."""
    stack = Stack(new_project(folder / "project"), archives)
    try:
        parameters = stack.parameters("pipeline/tiny")
        flow_runs = []
        for number in range(runs):
            recipe = copy.deepcopy(parameters["recipe"]) | {
                "name": f"codegen-{number}",
                "seed": number,
            }
            flow_runs.append(stack.run("pipeline/tiny", recipe=recipe))
        while any(stack.state(flow_run)["type"] not in FINAL_STATES for flow_run in flow_runs):
            if stack.process.poll() is not None:
                raise SystemExit(
                    f"codegen serve ended with status {stack.process.returncode}; see {stack.log}"
                )
            time.sleep(_POLL_INTERVAL_S)
        return [stack.state(flow_run)["name"] for flow_run in flow_runs]
    finally:
        stack.process.terminate()
        stack.process.wait()


def run_commands(folder: Path, archives: FixtureArchives, runs: int) -> list[str]:
    """Run commands without a server; return the exit status of each."""
    project = new_project(folder / "project")
    processes = []
    for number in range(runs):
        arguments = [
            "run",
            "-r",
            "tiny",
            "--set",
            f"name=codegen-{number}",
            "--set",
            f"seed={number}",
        ]
        with (folder / f"run-{number}.log").open("w") as log:
            processes.append(start_codegen(project, archives, *arguments, output=log))
    return [f"status {process.wait()}" for process in processes]


def main() -> None:
    """Print the duration, the final states and the number of database locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--without-server", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        archives = FixtureArchives(folder / "archives", build_archives(folder / "archives"))
        started = time.monotonic()
        run_all = run_commands if arguments.without_server else run_deployments
        ends = run_all(folder, archives, arguments.runs)
        duration_s = time.monotonic() - started
        logs = [*folder.rglob("*.log")]
        locked = {
            log.name: log.read_text(errors="replace").count(f"OperationalError) {_LOCKED}")
            for log in logs
        }
        print(
            f"{os.cpu_count()} cores, {arguments.runs} pipelines "
            f"{'without a server' if arguments.without_server else 'on one server'}: "
            f"{duration_s:.0f} s"
        )
        print(f"ends: {', '.join(f'{ends.count(end)} {end}' for end in sorted(set(ends)))}")
        counts = ", ".join(f"{number} in {name}" for name, number in sorted(locked.items()))
        print(f"'{_LOCKED}': {counts}")
        if arguments.without_server and set(ends) != {"status 0"}:
            for log in logs:
                print(f"-- {log.name}\n{log.read_text(errors='replace')[-600:]}")


if __name__ == "__main__":
    main()
