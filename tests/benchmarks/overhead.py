"""Time that Prefect, MLflow, Great Expectations and the store add to the bare steps of a recipe, in
a whole process.

    python tests/benchmarks/overhead.py [--first]

Runs the starter recipe in a new project with pulled corpora. Its databases were created by a
preparation of the tiny recipe; with --first there are no databases. The time of a bare step is the
`duration_s` of its artifact (reading, training, sampling, executing). All other time between the
start and the end of the process is overhead, and so are the validations, although they build
artifacts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.projects import new_project

from components.core.store import Store

RECIPE = "starter"


def codegen(project: Path, *options: str) -> None:
    """Run a command in a project.

    Raises:
        CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", "flows.cli.main", *options, "--exec", f"project={project}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print the total time, the bare time and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", action="store_true", help="in a workspace without databases")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = new_project(Path(folder) / "project")
        if not arguments.first:
            codegen(project, "prepare", "-r", "tiny")
        codegen(project, "data", "pull", "--preset", RECIPE)
        store = Store(project / "var" / "store")
        before = {artifact.label for artifact in store.list_artifacts()}
        started = time.monotonic()
        codegen(project, "run", "-r", RECIPE)
        total_s = time.monotonic() - started
        built = [artifact for artifact in store.list_artifacts() if artifact.label not in before]
        durations_s = {
            artifact.label: cast(float, artifact.provenance["duration_s"]) for artifact in built
        }
        validation_s = sum(
            durations_s[artifact.label] for artifact in built if artifact.kind == "validation"
        )
        bare_s = sum(durations_s.values()) - validation_s
        overhead_s = total_s - bare_s
        print(
            f"{RECIPE}: {total_s:.1f} s from start to end, {bare_s:.1f} s of it bare steps, "
            f"{len(built)} steps"
        )
        print(
            f"overhead: {overhead_s:.1f} s, {overhead_s / bare_s:.1%} of the bare steps; of it "
            f"validation {validation_s:.1f} s"
        )
        print(
            "overhead per step without validation: "
            f"{(overhead_s - validation_s) / len(built):.2f} s"
        )


if __name__ == "__main__":
    main()
