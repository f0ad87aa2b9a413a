"""`codegen eval` on a folder: resumed after `kill -9`, and scored again with other settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.models import lively_model, write_tokenizer
from fixtures.processes import kill_process_tree_when

from components.core.store import Store
from components.model.config import ModelConfig
from components.model.huggingface import save_checkpoint

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

SHAPE = ModelConfig(
    num_layers=2, num_heads=4, head_dim=8, rotary_dim=4, context_length=1024, padded_vocab_size=512
)
SETTINGS = (
    "-r",
    "tiny",
    "-n",
    "3",
    "--temperature",
    "0.8",
    "--set",
    "evaluation.humaneval.max_new_tokens=60",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model") / "My Model"
    folder.mkdir()
    save_checkpoint(lively_model(SHAPE), write_tokenizer(folder.parent / "tokenizer"), folder)
    (folder / "checkpoint-500").mkdir()  # Subfolders are not imported.
    (folder / "checkpoint-500" / "config.json").write_text("{}")
    return folder


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli.main", "eval", *arguments]
    if arguments[0] != "score":
        command += ["--json", *SETTINGS, "--exec", f"workspace={workspace}"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
    }
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def evaluate(workspace: Path, *arguments: str) -> dict[str, Any]:
    process = start(workspace, *arguments)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    document: dict[str, Any] = json.loads(output)
    return document


def count_samples(workspace: Path) -> int:
    journals = list((workspace / "store").glob("**/samples.journal.jsonl"))
    return journals[0].read_bytes().count(b"\n") if journals else 0


def test_a_killed_evaluation_resumes_with_the_same_result(tmp_path: Path, model: Path) -> None:
    expected = evaluate(tmp_path / "reference", str(model))["humaneval"]
    killed = tmp_path / "killed"
    for num_required in (1, 300):
        process = start(killed, str(model))
        kill_process_tree_when(
            process, lambda num_required=num_required: count_samples(killed) >= num_required
        )  # type: ignore[misc]
    resumed = evaluate(killed, str(model))["humaneval"]
    assert resumed["digest"] == expected["digest"]
    assert resumed | {"address": ""} == expected | {"address": ""}
    for name in ("results.json", "samples.jsonl"):
        assert (Path(resumed["address"]) / name).read_bytes() == (
            Path(expected["address"]) / name
        ).read_bytes()
    store = Store(killed / "store")
    (samples,) = (artifact for artifact in store.list_artifacts() if artifact.kind == "samples")
    timings = json.loads((Path(samples.address) / "observed" / "timings.json").read_text())
    assert timings["num_resumed_samples"] >= 300

    # Another execution mode reuses the samples, also if the model is named by its label.
    fast = ("--set", "evaluation.humaneval.mode=fast")
    rescored = evaluate(killed, f"checkpoint/{_checkpoint(store)}", *fast)["humaneval"]
    assert rescored["protocol"] != expected["protocol"]
    assert rescored["mode"] == "fast"
    assert [
        artifact.digest for artifact in store.list_artifacts() if artifact.kind == "samples"
    ] == [samples.digest]

    # `codegen eval score` gives the same scores for the file of samples.
    scored = evaluate(killed, "score", resumed["address"] + "/samples.jsonl", "--json", "--k", "1")
    assert scored["outcomes"] == expected["outcomes"]
    assert scored["pass@1"] == expected["pass@1"]


def count_cached_results(workspace: Path) -> int:
    return sum(
        path.read_bytes().count(b"\n") for path in (workspace / "execution-cache").glob("*.jsonl")
    )


def test_a_resumed_evaluation_does_not_repeat_executed_programs(
    tmp_path: Path, model: Path
) -> None:
    """Killed while programs run, also during sampling."""
    expected = evaluate(tmp_path / "reference", str(model))["humaneval"]
    killed = tmp_path / "killed"
    for num_required in (1, 200):
        kill_process_tree_when(
            start(killed, str(model)),
            lambda num_required=num_required: count_cached_results(killed) >= num_required,
        )  # type: ignore[misc]
    num_cached = count_cached_results(killed)
    resumed = evaluate(killed, str(model))["humaneval"]
    assert resumed["digest"] == expected["digest"]
    timings = json.loads((Path(resumed["address"]) / "observed" / "timings.json").read_text())
    assert (
        num_cached - 1 <= timings["num_cached_programs"] <= num_cached
    )  # The last may be partial.
    assert 200 <= timings["num_cached_programs"] < resumed["num_programs"]
    assert list((killed / "execution-cache").iterdir()) == []


def test_a_killed_scoring_of_samples_resumes(tmp_path: Path) -> None:
    samples = [
        {"task_id": f"HumanEval/{number % 164}", "completion": f"    return {number}\n"}
        for number in range(1500)
    ]
    for name in ("reference", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples.jsonl").write_text(
            "".join(json.dumps(sample) + "\n" for sample in samples)
        )
    expected = evaluate(tmp_path, "score", str(tmp_path / "reference" / "samples.jsonl"), "--json")
    killed = tmp_path / "killed"

    def count_results() -> int:
        return sum(path.read_bytes().count(b"\n") for path in killed.glob("*.journal"))

    kill_process_tree_when(
        start(killed, "score", str(killed / "samples.jsonl"), "--json"),
        lambda: count_results() >= 256,
    )
    process = start(killed, "score", str(killed / "samples.jsonl"), "--json")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert json.loads(output) == expected
    results = "samples.jsonl_results.jsonl"
    assert sorted(path.name for path in killed.iterdir()) == ["samples.jsonl", results]
    assert (killed / results).read_bytes() == (tmp_path / "reference" / results).read_bytes()


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    result = Store(tmp_path / "store").get_or_build(
        "samples", "x", config={}, parents={}, code_version=1, build=lambda _: {}
    )
    process = start(tmp_path, result.artifact.address)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{result.artifact.label} is not a model" in errors
    assert "Traceback" not in errors


def _checkpoint(store: Store) -> str:
    (label,) = (
        artifact.label for artifact in store.list_artifacts() if artifact.kind == "checkpoint"
    )
    return label.removeprefix("checkpoint/")
