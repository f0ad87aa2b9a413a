"""`codegen plan` as a person meets it: what it prints, what it refuses, and that what it proposes is accepted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from flows.cli.main import app


def planned(*arguments: str) -> str:
    """What the command prints; an error that a person can mend is raised, as `main` gets it."""
    done = CliRunner().invoke(app, ["plan", *arguments])
    if done.exception:
        raise done.exception
    return done.stdout


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if re.match(r"[0-3] ", line)]


def test_the_command_of_the_issue() -> None:
    text = planned("--model", "16b", "--gpus", "64", "--gpu", "h100", "--price", "2.50")
    assert "16.032B parameters on 64 x NVIDIA H100" in text
    # 16.032B parameters: 2 bytes of weights, 2 of gradients, 12 of optimizer, 4 for the cast; the latter two divide by 64.
    assert rows(text)[0] == [
        "0",
        "32.06",
        "32.06",
        "192.39",
        "0.00",
        "64.13",
        "320.64",
        "step",
        "no",
    ]
    assert [row[1:4] for row in rows(text)[1:3]] == [
        ["32.06", "32.06", "3.01"],
        ["32.06", "0.50", "3.01"],
    ]
    assert [row[-1] for row in rows(text)] == ["no", "no", "best", "yes"]
    assert re.search(r"^nl +734,003,200,000 ", text, re.MULTILINE)
    hours, cost = re.search(r"^all .* ([\d,.]+) +([\d,.]+) *$", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert float(cost.replace(",", "")) == pytest.approx(
        float(hours.replace(",", "")) * 64 * 2.5, rel=1e-4
    )
    assert "40% of 989.5 TFLOP/s (an assumption: nothing was measured on this device)" in text
    assert "Disk for checkpoints: 673.4 GB" in text  # 3 * 14 * 16.032
    assert "--exec training.device=cuda --exec training.precision=bf16" in text


def test_what_the_trainer_can_do_ends_with_the_command_that_does_it() -> None:
    text = planned(
        "-r", "starter", "--gpu", "cpu", "--gpus", "2", "--micro-batch", "2", "--zero-stage", "1"
    )
    command = text.strip().splitlines()[-1]
    assert command.startswith("codegen run -r starter --exec training.world_size=2")
    fields = re.findall(r"--exec training\.(\w+)=", command)
    assert set(fields) <= set(TrainingExecution.model_fields)


def test_no_figure_is_cut_off_on_a_narrow_terminal() -> None:
    text = planned("-r", "16b", "--gpus", "64")
    assert "…" not in text
    assert all(
        len(line) <= 80
        for line in text.splitlines()
        if re.match(r"(ZeRO|[0-3]|stage|nl|multi|mono|all) ", line)
    )


def test_the_same_as_one_json_document() -> None:
    document = json.loads(planned("-r", "16b", "--gpus", "64", "--json"))
    assert document["num_parameters"] == 16_032_155_648
    assert document["best"] == document["rows"][2]
    assert document["rows"][2]["layout"]["zero_stage"] == 2
    assert document["total"]["cost"] is None


@pytest.mark.parametrize(
    "asked",
    [
        ("-r", "16b", "--gpus", "1", "--gpu", "l40s", "--micro-batch", "4"),
        ("-r", "16b", "--gpus", "64", "--zero-stage", "1"),
        ("-r", "6b", "--gpus", "2", "--gpu", "a100-40", "--set", "training.stages.nl.steps=400000"),
        ("-r", "2b", "--gpu", "cpu", "--precision", "fp32"),
    ],
    ids=["one L40S", "ZeRO 1", "two A100", "a core"],
)
def test_a_plan_that_cannot_fit_is_refused_and_what_is_proposed_is_accepted(
    asked: Sequence[str],
) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s) needs [\d.]+ GB on each of .*expected: at most the"
    ) as refused:
        planned(*asked)
    proposed = re.findall(r"`codegen plan ([^`]+)`", refused.value.fix)
    assert proposed
    for command in proposed:
        arguments = shlex.split(command)
        assert [row[-1] for row in rows(planned(*arguments))] == ["best"]
        assert "--set" not in asked or asked[-1] in arguments


def test_where_nothing_fits_no_command_is_proposed() -> None:
    huge = [
        "--set",
        "model.num_layers=4000",
        "--set",
        "training.stages.nl.global_batch_tokens=2048",
    ]
    with pytest.raises(ConfigError, match="take a device with more memory"):
        planned("-r", "16b", "--gpu", "l40s", *huge)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpu", "h1"), "there is no device 'h1'"),
        (("--gpus", "0"), "world_size is 0"),
        (("--offload", "disk"), "offload is 'disk'"),
        (("--offload", "all", "--zero-stage", "1"), "set zero_stage to 3"),
        (("--zero-stage", "-1"), "zero_stage is -1"),
        (("-r", "350m", "--micro-batch", "7"), "set micro_batch to 4"),
        (("--price", "-1"), "price is -1.0"),
        (("--mfu", "nan"), "mfu is nan"),
        (("-r", "17b"), "there is no recipe '17b'"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        planned(*arguments)


def test_offloading_leaves_out_the_stages_that_cannot() -> None:
    text = planned("-r", "16b", "--gpus", "8", "--offload", "optimizer", "--checkpoint-activations")
    assert [row[0] for row in rows(text)] == ["1", "2", "3"]
    assert "Offloading takes 32.1 GB of the host's memory" in text  # 16 * 16.032 / 8
