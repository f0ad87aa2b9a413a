"""The table of commands: what it says is what the commands say, and it is all that `codegen --help` reads."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from components.core.artifact import Kind
from components.training.planning.devices import DEVICES
from flows.cli import options
from flows.cli.main import app
from flows.settings.recipes import RECIPES, recipe

GROUP: Any = typer.main.get_command(app)
ROWS = {name: row for rows in GROUP.sections.values() for name, row in rows.items()}

HEAVY = {
    "torch", "mlflow", "great_expectations", "daft", "deepspeed", "matplotlib", "pandas", "transformers", "dvc", "ray",
    "scipy", "sklearn", "pyarrow",
}  # fmt: skip


def loaded(name: str) -> Any:
    return GROUP.resolve_command(typer.Context(GROUP), [name])[1]


def imported_by(script: str) -> set[str]:
    """The top-level modules that a script imports, in a process of its own."""
    script += (
        "\nimport sys; print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_the_command_says_of_itself(name: str) -> None:
    command = loaded(name)
    said = command.help.replace("\n", " ")
    assert said == ROWS[name][1] or said.startswith(f"{ROWS[name][1]} ")
    assert ROWS[name][1].endswith(".")
    assert command.name == name
    assert "--debug" in {option for one in command.params for option in one.opts}


def test_the_words_that_are_proposed_are_those_that_are_taken() -> None:
    assert tuple(RECIPES) == options.RECIPE_NAMES
    assert tuple(type(recipe("tiny").training.stages).model_fields) == options.STAGE_NAMES
    assert tuple(DEVICES) == options.DEVICE_NAMES
    assert get_args(Kind) == options.KINDS


def test_help_imports_no_command_and_nothing_that_one_stands_on() -> None:
    script = """
import contextlib, sys
sys.argv = ["codegen", "--help"]
from flows.cli.main import main
with contextlib.suppress(SystemExit):
    main()
"""
    found = imported_by(script)
    assert "typer" in found
    assert not found & (
        HEAVY | {"pydantic", "pydantic_core", "prefect", "rich", "fsspec", "psutil", "attr"}
    )


def test_a_commands_help_imports_no_more_than_its_options_need() -> None:
    script = """
import contextlib, sys
from flows.cli.main import main
for name in %s:
    sys.argv = ["codegen", name, "--help"]
    with contextlib.suppress(SystemExit):
        main()
"""
    assert not imported_by(script % sorted(ROWS)) & (HEAVY | {"prefect", "fsspec", "attr"})


def test_the_flows_import_prefect_and_nothing_else_that_is_heavy() -> None:
    found = imported_by(
        "import flows.pipeline, flows.cli.plan, flows.evaluate, components.training.planning.planner"
    )
    assert "prefect" in found
    assert not found & HEAVY


def test_help_has_a_section_for_what_a_person_wants() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    places = [
        shown.index(f"\n{section}:\n") for section in ("Run", "Look", "Models", "Data", "Machine")
    ]
    assert places == sorted(places)
    assert all(f"\n  {name} " in shown for name in ROWS)
    assert shown.index("\n  doctor ") > places[-1]


def test_the_nearest_command_is_named() -> None:
    done = CliRunner().invoke(app, ["lineag"])
    assert done.exit_code == 2
    assert "No such command 'lineag'. Did you mean 'lineage'?" in done.output
    assert "Did you mean 'compare'?" in CliRunner().invoke(app, ["models", "compar"]).output


def test_recipes_as_one_json_document() -> None:
    found = json.loads(CliRunner().invoke(app, ["recipe", "list", "--json"]).stdout)
    assert [one["recipe"] for one in found] == list(RECIPES)
    assert found[1] == {
        "recipe": "tiny",
        "name": "codegen-tiny",
        "num_parameters": recipe("tiny").model.num_parameters,
    }
