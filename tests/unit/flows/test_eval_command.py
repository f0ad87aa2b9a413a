"""`codegen eval`: errors before anything is read, and printed scores."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from fixtures.codegen_command import run_codegen
from fixtures.processes import environment_without_settings
from typer.testing import CliRunner

from flows.cli.main import app


@pytest.mark.parametrize("k", ["", "1,x", "1,-5", "0,1", "1.5", "\u00b2", "1,,2"])
def test_an_invalid_k_is_an_error(tmp_path: Path, k: str) -> None:
    result = CliRunner().invoke(app, ["eval", "score", str(tmp_path / "absent.jsonl"), f"--k={k}"])
    assert result.exit_code == 1
    assert f"--k is {k!r}" in str(result.exception)


@pytest.mark.parametrize("option", ["--workers=0", "--workers=-1", "--timeout=0"])
def test_workers_and_timeout_must_be_positive(tmp_path: Path, option: str) -> None:
    result = CliRunner().invoke(
        app, ["eval", "score", str(tmp_path / "absent.jsonl"), option], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2
    assert "greater than or equal to 1" in result.output


def test_several_temperatures_are_an_error_for_mtpb_only() -> None:
    """HumanEval takes the best of several temperatures. Valid options fail later, at the recipe."""
    options = [
        "--benchmark=humaneval",
        "--benchmark=mtpb",
        "--temperature=0.2",
        "--temperature=0.8",
    ]
    result = CliRunner().invoke(app, ["eval", "a model", *options, "-r", "absent"])
    assert result.exit_code == 1
    assert "MTPB has 2 temperatures: 0.2, 0.8" in str(result.exception)
    for valid in (
        options[1:3],
        [options[0], *options[2:]],
        [*options, "--set", "evaluation.mtpb.temperature=0.2"],
    ):
        result = CliRunner().invoke(app, ["eval", "a model", *valid, "-r", "absent"])
        assert "'absent'" in str(result.exception)


def test_n_is_the_short_form_of_num_samples() -> None:
    for option in ("-n", "--num-samples"):
        result = CliRunner().invoke(app, ["eval", "a model", option, "0", "-r", "absent"])
        assert result.exit_code == 2
        result = CliRunner().invoke(app, ["eval", "a model", option, "3", "-r", "absent"])
        assert "'absent'" in str(result.exception)


def test_the_scores_of_samples_fit_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    problem = {"task_id": "a/1", "prompt": "def f():\n", "entry_point": "f"}
    test = "def check(candidate):\n    assert candidate() == 1\n"
    Path("problems.jsonl").write_text(json.dumps({**problem, "test": test}) + "\n")
    sample = {"task_id": "a/1", "completion": "    return 1\n"}
    Path("samples.jsonl").write_text(json.dumps(sample) + "\n")
    result = CliRunner().invoke(
        app, ["eval", "score", "samples.jsonl", "--problems", "problems.jsonl"]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert ["passed", "1"] in [line.split() for line in lines]
    assert "mode split" in " ".join(result.stdout.split())
    assert max(map(len, lines)) <= 80


def test_fetch_verifies_the_files_of_the_recipe(tmp_path: Path) -> None:
    variables = environment_without_settings() | {"https_proxy": "http://127.0.0.1:9"}
    own = tmp_path / "own.jsonl"
    record = {"task_id": 1, "text": "Return one.", "test_list": ["assert one() == 1"]}
    own.write_text(json.dumps(record))
    digest = hashlib.sha256(own.read_bytes()).hexdigest()

    def fetch(*arguments: str) -> subprocess.CompletedProcess[str]:
        benchmark = f"benchmarks.own={json.dumps({'sha256': digest})}"
        options = ("--set", benchmark, "--exec", "benchmark_files.own=own.jsonl", *arguments)
        return run_codegen("eval", "fetch", *options, cwd=tmp_path, environment=variables)

    assert "the file of mtpb is missing: https://" in fetch().stderr, "optional or not"
    without_mtpb = [
        word for use in ("search", "evaluate") for word in ("--set", f"benchmarks.mtpb.{use}=false")
    ]
    result = fetch(*without_mtpb, "--json")
    assert result.returncode == 0, result.stderr
    files = json.loads(result.stdout)
    assert files["own"] == "own.jsonl"
    assert files["humaneval"].endswith("HumanEval.jsonl.gz")
    assert "mtpb" not in files
    own.write_text("{ }\n")
    assert f"expected: the pinned file, {digest}" in fetch(*without_mtpb).stderr
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    assert "own.jsonl:1 has the fields" in fetch(*without_mtpb).stderr
