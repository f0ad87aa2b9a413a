"""What the platform adds to the bare steps of a recipe: Prefect, MLflow, expectations and the
store, in a whole process.

    python tests/benchmarks/overhead.py [--first]

`codegen run` of the starter recipe in a project of its own, whose corpora were pulled before and
whose databases were made by a preparation of the tiny recipe; --first: in one that has no
databases. A bare step is what its build took (`duration_s` of its artifact: reading, training,
drawing, executing); all else between the start and the end of the process is the platform's, the
validations too, though they are a build. The figures are in docs/figures.md.
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


def codegen(project: Path, *arguments: str) -> None:
    """Run a command over a project, which has to end well."""
    command = [sys.executable, "-m", "flows.cli.main", *arguments, "--exec", f"project={project}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", action="store_true", help="in a workspace without databases")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = new_project(Path(folder) / "project")
        if not asked.first:
            codegen(project, "prepare", "-r", "tiny")
        codegen(project, "data", "pull", "--preset", RECIPE)
        store = Store(project / "var" / "store")
        before = {one.label for one in store.list_artifacts()}
        started = time.monotonic()
        codegen(project, "run", "-r", RECIPE)
        whole_s = time.monotonic() - started
        made = [one for one in store.list_artifacts() if one.label not in before]
        took_s = {one.label: cast(float, one.provenance["duration_s"]) for one in made}
        validated_s = sum(took_s[one.label] for one in made if one.kind == "validation")
        bare_s = sum(took_s.values()) - validated_s
        added_s = whole_s - bare_s
        print(
            f"{RECIPE}: {whole_s:.1f} s from start to end, {bare_s:.1f} s of it bare steps, "
            f"{len(made)} steps"
        )
        print(
            f"added: {added_s:.1f} s, {added_s / bare_s:.1%} of the bare steps; of it validation "
            f"{validated_s:.1f} s"
        )
        print(
            f"added to each step, validation left out: {(added_s - validated_s) / len(made):.2f} s"
        )


if __name__ == "__main__":
    main()
