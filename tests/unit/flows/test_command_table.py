"""The command table: consistent with the commands, and all that `codegen --help` imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from components.core.artifact import Kind
from components.data.config import Preset
from components.training.planning.devices import DEVICES
from flows.cli import options
from flows.cli.data import PresetName
from flows.cli.main import COMMANDS, app
from flows.settings.recipes import RECIPES, recipe

GROUP: Any = typer.main.get_command(app)
ENTRIES = {name: entry for section in COMMANDS.values() for name, entry in section.items()}

HEAVY = {
    "torch",
    "mlflow",
    "great_expectations",
    "deepspeed",
    "matplotlib",
    "pandas",
    "transformers",
    "dvc",
    "ray",
    "scipy",
    "sklearn",
    "pyarrow",
}


def load(name: str) -> Any:
    return GROUP.resolve_command(typer.Context(GROUP), [name])[1]


def leaf_commands(command: Any) -> list[Any]:
    subcommands = getattr(command, "commands", {})
    if not subcommands:
        return [command]
    return [leaf for subcommand in subcommands.values() for leaf in leaf_commands(subcommand)]


def modules_imported_by(script: str) -> set[str]:
    """Return the top-level modules that a script imports, in its own process."""
    script += "\nimport sys"
    script += "\nprint('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(result.stdout.splitlines()[-1].split())


def without_spaces(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("name", ENTRIES)
def test_every_help_is_complete_at_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = [([name], load(name))]
    while commands:
        path, command = commands.pop()
        output = CliRunner().invoke(app, [*path, "--help"]).output
        assert max(map(len, output.splitlines())) <= 80
        subcommands = getattr(command, "commands", {})
        commands += [([*path, child], subcommands[child]) for child in subcommands]
        sentences = [re.split(r"(?<=\.)\s", child.help)[0] for child in subcommands.values()]
        for text in [command.help, *sentences, *(option.help for option in command.params)]:
            assert without_spaces(text) in without_spaces(output)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_table_has_the_first_sentence_of_the_help(name: str) -> None:
    command = load(name)
    help_text = command.help.replace("\n", " ")
    sentence = ENTRIES[name][1]
    assert help_text == sentence or help_text.startswith(f"{sentence} ")
    assert sentence.endswith(".")
    assert command.name == name
    assert "--debug" in {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_command_and_option_has_a_help_text(name: str) -> None:
    for command in leaf_commands(load(name)):
        assert command.help, command.name
        for parameter in command.params:
            assert parameter.help, (command.name, parameter.name)


def test_completion_proposes_all_valid_names() -> None:
    assert tuple(options.recipe_names()) == tuple(RECIPES)
    assert tuple(options.stage_names()) == recipe("tiny").training.all_stages
    assert tuple(options.device_names()) == tuple(DEVICES)
    assert tuple(options.artifact_kinds()) == get_args(Kind)
    assert tuple(PresetName) == get_args(Preset)


def test_help_imports_no_command() -> None:
    script = """
import contextlib, sys
sys.argv = ["codegen", "--help"]
from flows.cli.main import main
with contextlib.suppress(SystemExit):
    main()
"""
    modules = modules_imported_by(script)
    assert "typer" in modules
    assert not modules & (
        HEAVY | {"pydantic", "pydantic_core", "prefect", "rich", "fsspec", "psutil", "attr"}
    )


def test_the_help_of_commands_imports_nothing_heavy() -> None:
    script = """
import contextlib, sys
from flows.cli.main import main
for name in %s:
    sys.argv = ["codegen", name, "--help"]
    with contextlib.suppress(SystemExit):
        main()
"""
    modules = modules_imported_by(script % sorted(ENTRIES))
    assert not modules & (HEAVY | {"prefect", "fsspec", "attr"})


def test_the_flows_import_prefect_and_nothing_else_heavy() -> None:
    modules = modules_imported_by(
        "import flows.pipeline, flows.cli.plan, flows.evaluate\n"
        "import components.training.planning.planner"
    )
    assert "prefect" in modules
    assert not modules & HEAVY


def test_help_lists_the_commands_by_section() -> None:
    output = CliRunner().invoke(app, ["--help"]).stdout
    sections = ("Run", "Inspect", "Models", "Data", "System")
    positions = [output.index(f"\n{section}:\n") for section in sections]
    assert positions == sorted(positions)
    assert all(f"\n  {name} " in output for name in ENTRIES)
    assert output.index("\n  doctor ") > positions[-1]


def test_an_unknown_command_proposes_the_nearest_command() -> None:
    result = CliRunner().invoke(app, ["lineag"])
    assert result.exit_code == 2
    assert "No such command 'lineag'. Did you mean 'lineage'?" in result.output
    assert "Did you mean 'compare'?" in CliRunner().invoke(app, ["models", "compar"]).output


def test_recipe_list_prints_a_json_document() -> None:
    recipes = json.loads(CliRunner().invoke(app, ["recipe", "list", "--json"]).stdout)
    assert [entry["recipe"] for entry in recipes] == list(RECIPES)
    assert recipes[1] == {
        "recipe": "tiny",
        "name": "codegen-tiny",
        "num_parameters": recipe("tiny").model.num_parameters,
    }
