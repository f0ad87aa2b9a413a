"""Several pipelines of the tiny recipe at once, on SQLite: how many end well, and whether a
database was ever locked.

    python tests/benchmarks/many_pipelines.py [--runs 8] [--alone]

`codegen serve` with its real servers; every run has a name and a seed of its own, so that none
finds another's work. With --alone there is no server: as many `codegen run`, each with a temporary
one on the same database. On archives of the tests, which are small; the figures are in
docs/figures.md.
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
_LOOK_EVERY_S = 3.0


def served(folder: Path, archives: FixtureArchives, runs: int) -> list[str]:
    """The states in which runs of one server end."""
    one = Stack(new_project(folder / "project"), archives)
    try:
        given = one.parameters("pipeline/tiny")
        asked = []
        for number in range(runs):
            recipe = copy.deepcopy(given["recipe"]) | {"name": f"codegen-{number}", "seed": number}
            asked.append(one.run("pipeline/tiny", recipe=recipe))
        while any(one.state(run)["type"] not in FINAL_STATES for run in asked):
            if one.process.poll() is not None:
                raise SystemExit(
                    f"codegen serve ended with status {one.process.returncode}; see {one.log}"
                )
            time.sleep(_LOOK_EVERY_S)
        return [one.state(run)["name"] for run in asked]
    finally:
        one.process.terminate()
        one.process.wait()


def alone(folder: Path, archives: FixtureArchives, runs: int) -> list[str]:
    """The statuses of as many processes without a server."""
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
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--alone", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        archives = FixtureArchives(folder / "archives", build_archives(folder / "archives"))
        started = time.monotonic()
        ends = (alone if asked.alone else served)(folder, archives, asked.runs)
        took_s = time.monotonic() - started
        logs = [*folder.rglob("*.log")]
        locked = {
            log.name: log.read_text(errors="replace").count(f"OperationalError) {_LOCKED}")
            for log in logs
        }
        print(
            f"{os.cpu_count()} cores, {asked.runs} pipelines "
            f"{'alone' if asked.alone else 'served'}: {took_s:.0f} s"
        )
        print(f"ends: {', '.join(f'{ends.count(one)} {one}' for one in sorted(set(ends)))}")
        said = ", ".join(f"{number} in {name}" for name, number in sorted(locked.items()))
        print(f"'{_LOCKED}': {said}")
        if asked.alone and set(ends) != {"status 0"}:
            for log in logs:
                print(f"-- {log.name}\n{log.read_text(errors='replace')[-600:]}")


if __name__ == "__main__":
    main()
