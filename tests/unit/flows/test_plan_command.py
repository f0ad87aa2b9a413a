"""`codegen plan`: tables, errors, and proposals that fit."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from flows.cli.main import app
from flows.cli.options import console


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty project: a plan looks for corpora in the present folder."""
    monkeypatch.chdir(tmp_path)


def run_plan(*arguments: str) -> str:
    """Return the output of `codegen plan`; raises its error."""
    result = CliRunner().invoke(app, ["plan", *arguments])
    if result.exception:
        raise result.exception
    return result.stdout


PAPER_TOKENS = ("--tokens", "nl=354.7e9,multi=119.2e9,mono=71.7e9")
"""Of the corpora of the paper (docs/paper.md, section 1)."""


def memory_rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if re.match(r"[0-3] +[\d,]+\.", line)]


def test_a_small_model_has_its_parameters_in_millions() -> None:
    assert "356.7M parameters on 1 x NVIDIA H100" in run_plan("--model", "350m", *PAPER_TOKENS)


def test_a_plan_of_16b_on_64_gpus_has_the_expected_numbers() -> None:
    text = run_plan(
        "--model", "16b", "--gpus", "64", "--gpu", "h100", "--price", "2.50", *PAPER_TOKENS
    )
    assert "16.032B parameters on 64 x NVIDIA H100" in text
    # 16.032B parameters. Bytes each: weights 2, gradients 2, optimizer 12, cast 4; the last two are
    # divided by 64.
    assert " ".join(memory_rows(text)[0]) == "0 32.06 32.06 192.39 0.00 64.13 320.64 step no"
    assert [row[1:4] for row in memory_rows(text)[1:3]] == [
        ["32.06", "32.06", "3.01"],
        ["32.06", "0.50", "3.01"],
    ]
    assert [row[-1] for row in memory_rows(text)] == ["no", "no", "best", "yes"]
    assert re.search(r"^nl +734,003,200,000 ", text, re.MULTILINE)
    total = re.search(r"^all .* ([\d,.]+) +([\d,.]+) *$", text, re.MULTILINE)
    assert total
    hours, cost = (float(number.replace(",", "")) for number in total.groups())
    assert cost == pytest.approx(hours * 64 * 2.5, rel=1e-4)
    prose = " ".join(text.split())
    assert "40% of 989.5 TFLOP/s (an assumption: nothing was measured on this device)" in prose
    assert "checkpoints during a stage 897.8 GB" in prose  # 4 * 14 * 16.032
    assert "final checkpoints in the store 192.4 GB" in prose  # 3 * 4 * 16.032
    assert "copies of registered versions 192.4 GB" in prose
    assert "prepared corpora 1,091.2 GB" in prose  # 2 * 545.6e9
    assert "gathering the final weights 9.0 GB" in prose  # 8 * 0.5, and a weight file of 5
    assert "--exec training.device=cuda --exec training.precision=bf16" in text


@pytest.mark.parametrize("columns", [80, 40])
def test_sentences_fit_the_terminal_and_no_table_is_cut(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(console, "_width", columns)
    text = run_plan(
        "--model", "16b", "--gpus", "64", "--gpu", "h100", "--price", "2.50", *PAPER_TOKENS
    )
    assert "\u2026" not in text
    assert [row[-1] for row in memory_rows(text)] == ["no", "no", "best", "yes"]
    command = text.index("codegen run")
    sentences = [line for line in text[:command].splitlines() if re.search(r"[.,;:]$", line)]
    assert max(map(len, sentences)) <= columns


def test_a_plan_ends_with_the_command_that_runs_it() -> None:
    text = run_plan(
        "-r", "starter", "--gpu", "cpu", "--gpus", "2", "--micro-batch", "2", "--zero-stage", "1"
    )
    command = text.strip().splitlines()[-1]
    assert command.startswith("codegen run -r starter --exec training.world_size=2")
    fields = re.findall(r"--exec training\.(\w+)=", command)
    assert set(fields) <= set(TrainingExecution.model_fields)


def test_no_number_is_cut_off_on_a_narrow_terminal() -> None:
    text = run_plan("-r", "16b", "--gpus", "64", "--price", "2.5", *PAPER_TOKENS)
    assert "…" not in text
    assert all(
        len(line) <= 80
        for line in text.splitlines()
        if re.match(r"(ZeRO|[0-3]|stage|nl|multi|mono|all|evaluation|humaneval|mtpb|bits) ", line)
    )
    tables = [line for line in text.splitlines() if re.search(r"[a-z]  +[\d,.]+", line)]
    assert len(tables) > 15
    assert max(map(len, tables)) <= 80


def test_the_json_document_has_the_same_numbers() -> None:
    document = json.loads(run_plan("-r", "16b", "--gpus", "64", "--json", *PAPER_TOKENS))
    training = document["training"]
    assert training["num_parameters"] == 16_032_155_648
    assert training["best"] == training["rows"][2]
    assert training["rows"][2]["layout"]["zero_stage"] == 2
    assert training["total"]["cost"] is None
    assert document["cost"] is None
    assert document["hours"] == training["total"]["hours"] + document["evaluation"]["hours"]
    names = [evaluation["name"] for evaluation in document["evaluations"]]
    assert names == ["humaneval", "mtpb multi", "mtpb single", "bits per byte"]
    # 8 languages of three corpora, 256 sequences each
    assert document["evaluations"][-1]["num_tokens"] == 8 * 256 * 2048
    corpora_bytes = 2 * (354_700_000_000 + 119_200_000_000 + 71_700_000_000)
    assert training["disk"]["min_corpora_bytes"] == corpora_bytes
    assert training["disk"]["max_corpora_bytes"] == corpora_bytes


@pytest.mark.parametrize(
    "arguments",
    [
        ("-r", "16b", "--gpus", "1", "--gpu", "l40s", "--micro-batch", "4"),
        ("-r", "16b", "--gpus", "64", "--zero-stage", "1"),
        ("-r", "6b", "--gpus", "2", "--gpu", "a100-40", "--set", "training.stages.nl.steps=400000"),
        ("-r", "2b", "--gpu", "cpu", "--precision", "fp32"),
    ],
    ids=["one L40S", "ZeRO 1", "two A100", "a CPU"],
)
def test_a_plan_that_does_not_fit_is_an_error_with_proposals_that_fit(
    arguments: Sequence[str],
) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s) needs [\d.]+ GB on each of .*expected: at most"
    ) as caught:
        run_plan(*arguments, *PAPER_TOKENS)
    proposals = re.findall(r"`codegen plan ([^`]+)`", caught.value.fix)
    assert proposals
    for command in proposals:
        proposed = shlex.split(command)
        assert [row[-1] for row in memory_rows(run_plan(*proposed))] == ["best"]
        assert "--set" not in arguments or arguments[-1] in proposed


def test_a_model_that_never_fits_has_no_proposal() -> None:
    batch = "training.stages.nl.global_batch_tokens=2048"
    huge = ["--set", "model.num_layers=4000", "--set", batch]
    with pytest.raises(ConfigError, match="choose a device with more memory"):
        run_plan("-r", "16b", "--gpu", "l40s", *huge, *PAPER_TOKENS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "h1"), "there is no device 'h1'"),
        (("--offload", "disk"), "offload is 'disk'"),
        (("--offload", "all", "--zero-stage", "1"), "set zero_stage to 3"),
        (("-r", "350m", "--micro-batch", "7", *PAPER_TOKENS), "set micro_batch to 4"),
        (("--price", "-1"), "price is -1.0"),
        (("--mfu", "nan"), "mfu is nan"),
        (("-r", "17b"), "there is no recipe '17b'"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else "",
)
def test_invalid_input_is_an_error(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_plan(*arguments)


@pytest.mark.parametrize(
    ("option", "value"), [("--gpus", "0"), ("--zero-stage", "-1"), ("--micro-batch", "0")]
)
def test_a_number_out_of_range_is_a_usage_error_that_names_the_option(
    option: str, value: str
) -> None:
    result = CliRunner().invoke(app, ["plan", option, value])
    assert result.exit_code == 2
    assert option in result.stderr


def test_a_plan_without_a_price_has_no_costs_and_shows_short_trainings() -> None:
    lines = run_plan("-r", "starter", "--gpus", "2").splitlines()
    header = next(line.split() for line in lines if line.startswith("stage"))
    total = next(line.split() for line in lines if line.startswith("all"))
    assert header == ["stage", "tokens", "FLOPs", "hours"]
    # 2.97e13 FLOPs at 40 % of 2 x 989.5 TFLOP/s, in hours.
    assert float(total[3]) == pytest.approx(2.97e13 / (0.4 * 2 * 989.5e12) / 3600, rel=0.05)


def test_offloading_excludes_zero_stage_0() -> None:
    text = run_plan(
        *("-r", "16b", "--gpus", "8", "--offload", "optimizer", "--checkpoint-activations"),
        *PAPER_TOKENS,
    )
    assert [row[0] for row in memory_rows(text)] == ["1", "2", "3"]
    # Offloaded: 16 * 16.032. A copy of a checkpoint: 14 * 16.032. Libraries: 8 * 0.5.
    assert "training 485.0 GB" in " ".join(text.split())
