"""`codegen deepspeed` prints the DeepSpeed configuration of a stage and nothing else on stdout."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.codegen_command import run_codegen

GOLDEN = Path(__file__).parents[2] / "golden" / "deepspeed_350m_nl.json"
PAPER = ("world_size=8", "micro_batch=4", "device=cuda", "precision=bf16")


def options(folder: Path, *execution: str) -> list[str]:
    overrides = (f"project={folder}", *(f"training.{text}" for text in execution))
    return ["deepspeed", *(word for text in overrides for word in ("--exec", text))]


def run(
    folder: Path, *arguments: str, execution: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return run_codegen(*options(folder, *execution), *arguments)


def run_json(folder: Path, *arguments: str, execution: tuple[str, ...] = ()) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(folder, *arguments, execution=execution).stdout)
    return document


def test_350m_equals_the_golden_file(tmp_path: Path) -> None:
    assert run_json(tmp_path, "-r", "350m", execution=PAPER) == json.loads(GOLDEN.read_text())


def test_recipe_stage_and_execution_options_are_applied(tmp_path: Path) -> None:
    execution = ("world_size=2", "micro_batch=1", "device=cpu", "precision=fp32", "zero_stage=2")
    sets = ("--stage", "mono", "--set", "training.stages.mono.gradient_clip=0.5")
    document = run_json(tmp_path, "-r", "tiny", *sets, execution=execution)
    assert document["gradient_clipping"] == 0.5
    assert document["zero_optimization"]["stage"] == 2
    assert document["bf16"] == {"enabled": False}
    assert run_json(tmp_path, "-r", "tiny", execution=execution)["gradient_clipping"] == 1.0


def test_the_precision_probe_prints_nothing_to_stdout(tmp_path: Path) -> None:
    assert run_json(tmp_path, "-r", "tiny", execution=("device=cpu",))["bf16"]["enabled"] in (
        True,
        False,
    )


@pytest.mark.parametrize(
    ("arguments", "execution", "message"),
    [
        (("--stage", "nil"), (), "there is no stage 'nil'"),
        ((), ("world_size=7",), "world_size is 7"),
        ((), ("micro_batch=auto",), "micro_batch is auto"),
    ],
)
def test_invalid_input_is_an_error(
    tmp_path: Path, arguments: tuple[str, ...], execution: tuple[str, ...], message: str
) -> None:
    result = run(tmp_path, "-r", "tiny", *arguments, execution=execution)
    assert result.returncode == 1
    assert not result.stdout
    assert message in result.stderr
