"""Programs that ran without isolation: asked for by name, told to the gate."""

from __future__ import annotations

import pytest
from pydantic import JsonValue
from typer.testing import CliRunner

from components.core.artifact import Artifact
from flows.cli.main import app
from flows.steps.registration import is_sandboxed


def evaluation(**statistics: JsonValue) -> Artifact:
    return Artifact(
        kind="evaluation",
        name="tiny",
        address="x",
        recipe="0" * 64,
        digest="0" * 64,
        statistics=statistics,
    )


@pytest.mark.parametrize(
    ("measured", "sandboxed"),
    [
        ([{"bits": 1.0}, {"executed": True, "isolated": True}], True),
        ([{"executed": True, "isolated": True}, {"executed": True, "isolated": False}], False),
        ([{"executed": False, "isolated": None}, {"bits": 1.0}], None),
        ([{"executed": True}], False),  # whoever does not say was not isolated
    ],
)
def test_the_gate_learns_whether_every_program_was_isolated(
    measured: list[dict[str, JsonValue]], sandboxed: bool | None
) -> None:
    assert (
        is_sandboxed({str(place): evaluation(**one) for place, one in enumerate(measured)})
        is sandboxed
    )


@pytest.mark.parametrize("command", ["run", "evaluate", "promote"])
def test_commands_that_execute_know_the_option(command: str) -> None:
    assert (
        "--unsafe-execution"
        in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    )
