"""`codegen eval` with settings that cannot be: one clear error, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app


@pytest.mark.parametrize("k", ["", "1,x", "1,-5", "0,1", "1.5", "\u00b2", "1,,2"])
def test_a_k_that_is_no_number_is_refused_and_not_left_out(tmp_path: Path, k: str) -> None:
    result = CliRunner().invoke(app, ["eval", "score", str(tmp_path / "absent.jsonl"), f"--k={k}"])
    assert result.exit_code == 1
    assert f"--k is {k!r}" in str(result.exception)


@pytest.mark.parametrize("option", ["--workers=0", "--workers=-1", "--timeout=0"])
def test_no_workers_and_no_time_are_refused(tmp_path: Path, option: str) -> None:
    result = CliRunner().invoke(
        app, ["eval", "score", str(tmp_path / "absent.jsonl"), option], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2
    assert "greater than or equal to 1" in result.output


def test_of_several_temperatures_none_is_taken_for_mtpbs() -> None:
    """HumanEval takes the best of several, MTPB has one; with that one named, the next thing wrong is the recipe."""
    several = [
        "--benchmark=humaneval",
        "--benchmark=mtpb",
        "--temperature=0.2",
        "--temperature=0.8",
    ]
    result = CliRunner().invoke(app, ["eval", "a model", *several, "-r", "absent"])
    assert result.exit_code == 1
    assert "MTPB was given the temperatures 0.2, 0.8" in str(result.exception)
    for fine in (
        several[1:3],
        [several[0], *several[2:]],
        [*several, "--set", "evaluation.mtpb.temperature=0.2"],
    ):
        result = CliRunner().invoke(app, ["eval", "a model", *fine, "-r", "absent"])
        assert "'absent'" in str(result.exception)
