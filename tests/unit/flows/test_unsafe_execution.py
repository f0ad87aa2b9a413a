"""Execution without a sandbox: needs an option, and the gate sees it."""

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
        recipe_hash="0" * 64,
        digest="0" * 64,
        statistics=statistics,
    )


@pytest.mark.parametrize(
    ("statistics", "sandboxed"),
    [
        ([{"bits": 1.0}, {"executed": True, "isolated": True}], True),
        ([{"executed": True, "isolated": True}, {"executed": True, "isolated": False}], False),
        ([{"executed": False, "isolated": None}, {"bits": 1.0}], None),
        ([{"executed": True}], False),  # A missing entry counts as not isolated.
    ],
)
def test_evidence_states_whether_all_programs_ran_in_a_sandbox(
    statistics: list[dict[str, JsonValue]], sandboxed: bool | None
) -> None:
    evaluations = {str(index): evaluation(**values) for index, values in enumerate(statistics)}
    assert is_sandboxed(evaluations) is sandboxed


@pytest.mark.parametrize("command", ["run", "evaluate", "promote"])
def test_commands_that_execute_generated_code_have_the_option(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert "--unsafe-execution" in result.stdout
