"""`codegen deepspeed` prints what a stage passes to DeepSpeed, and nothing else on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[2] / "golden" / "deepspeed_350m_nl.json"
PAPER = ("world_size=8", "micro_batch=4", "device=cuda", "precision=bf16")


def options(folder: Path, *places: str) -> list[str]:
    at = (f"project={folder}", *(f"training.{one}" for one in places))
    return ["deepspeed", *(word for one in at for word in ("--exec", one))]


def run(
    folder: Path, *arguments: str, places: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli.main", *options(folder, *places), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def printed(folder: Path, *arguments: str, places: tuple[str, ...] = ()) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(folder, *arguments, places=places).stdout)
    return document


def test_the_golden_file_of_350m(tmp_path: Path) -> None:
    assert printed(tmp_path, "-r", "350m", places=PAPER) == json.loads(GOLDEN.read_text())


def test_recipe_stage_and_place_are_those_that_are_named(tmp_path: Path) -> None:
    places = ("world_size=2", "micro_batch=1", "device=cpu", "precision=fp32", "zero_stage=2")
    sets = ("--stage", "mono", "--set", "training.stages.mono.gradient_clip=0.5")
    document = printed(tmp_path, "-r", "tiny", *sets, places=places)
    assert document["gradient_clipping"] == 0.5
    assert document["zero_optimization"]["stage"] == 2
    assert document["bf16"] == {"enabled": False}
    assert printed(tmp_path, "-r", "tiny", places=places)["gradient_clipping"] == 1.0


def test_the_probe_of_precision_leaves_standard_output_to_the_document(tmp_path: Path) -> None:
    assert printed(tmp_path, "-r", "tiny", places=("device=cpu",))["bf16"]["enabled"] in (
        True,
        False,
    )


@pytest.mark.parametrize(
    ("arguments", "places", "says"),
    [
        (("--stage", "nil"), (), "there is no stage 'nil'"),
        ((), ("world_size=7",), "world_size is 7"),
        ((), ("micro_batch=auto",), "micro_batch is auto"),
    ],
)
def test_what_cannot_be_printed(
    tmp_path: Path, arguments: tuple[str, ...], places: tuple[str, ...], says: str
) -> None:
    refused = run(tmp_path, "-r", "tiny", *arguments, places=places)
    assert refused.returncode == 1
    assert not refused.stdout
    assert says in refused.stderr
