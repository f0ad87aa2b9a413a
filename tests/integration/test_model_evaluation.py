"""`codegen eval` as a user runs it: on a folder, killed with `kill -9`, and judged anew."""

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
    (folder / "checkpoint-500").mkdir()  # What a trainer left within it is of no concern.
    (folder / "checkpoint-500" / "config.json").write_text("{}")
    return folder


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli.main", "eval", *arguments]
    if arguments[0] != "score":
        command += ["--json", *SETTINGS, "--exec", f"workspace={workspace}"]
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
    }
    return subprocess.Popen(
        command,
        env=kept,
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


def num_lines(workspace: Path) -> int:
    journals = list((workspace / "store").glob("**/samples.journal.jsonl"))
    return journals[0].read_bytes().count(b"\n") if journals else 0


def test_a_killed_evaluation_goes_on_and_says_the_same(tmp_path: Path, model: Path) -> None:
    expected = evaluate(tmp_path / "one", str(model))["humaneval"]
    killed = tmp_path / "two"
    for moment in (1, 300):
        process = start(killed, str(model))
        kill_process_tree_when(process, lambda moment=moment: num_lines(killed) >= moment)  # type: ignore[misc]
    found = evaluate(killed, str(model))["humaneval"]
    assert found["digest"] == expected["digest"]
    figures = {name: value for name, value in expected.items() if name != "address"}
    assert {name: value for name, value in found.items() if name != "address"} == figures
    for name in ("results.json", "samples.jsonl"):
        assert (Path(found["address"]) / name).read_bytes() == (
            Path(expected["address"]) / name
        ).read_bytes()
    store = Store(killed / "store")
    (samples,) = (one for one in store.list_artifacts() if one.kind == "samples")
    timings = json.loads((Path(samples.address) / "observed" / "timings.json").read_text())
    assert timings["num_resumed_samples"] >= 300

    # Another way to judge the same samples, of the model by its other name, draws none anew.
    fast = ("--set", "evaluation.humaneval.mode=fast")
    again = evaluate(killed, f"checkpoint/{_checkpoint(store)}", *fast)["humaneval"]
    assert again["protocol"] != expected["protocol"]
    assert again["mode"] == "fast"
    assert [one.digest for one in store.list_artifacts() if one.kind == "samples"] == [
        samples.digest
    ]

    # And as others would judge these very samples.
    found_here = evaluate(
        killed, "score", found["address"] + "/samples.jsonl", "--json", "--k", "1"
    )
    assert found_here["outcomes"] == expected["outcomes"]
    assert found_here["pass@1"] == expected["pass@1"]


def num_verdicts(workspace: Path) -> int:
    return sum(
        one.read_bytes().count(b"\n") for one in (workspace / "execution-cache").glob("*.jsonl")
    )


def test_what_a_killed_evaluation_executed_is_not_executed_again(
    tmp_path: Path, model: Path
) -> None:
    """Killed while programs run, some of them as it draws; the programs of both runs together are those of one."""
    expected = evaluate(tmp_path / "one", str(model))["humaneval"]
    killed = tmp_path / "two"
    for moment in (1, 200):
        kill_process_tree_when(start(killed, str(model)), lambda moment=moment: num_verdicts(killed) >= moment)  # type: ignore[misc]
    left = num_verdicts(killed)
    found = evaluate(killed, str(model))["humaneval"]
    assert found["digest"] == expected["digest"]
    timings = json.loads((Path(found["address"]) / "observed" / "timings.json").read_text())
    assert left - 1 <= timings["num_cached_programs"] <= left  # The last line may have been torn.
    assert 200 <= timings["num_cached_programs"] < found["num_programs"]
    assert list((killed / "execution-cache").iterdir()) == []


def test_a_killed_scoring_of_samples_goes_on(tmp_path: Path) -> None:
    lines = [
        {"task_id": f"HumanEval/{one % 164}", "completion": f"    return {one}\n"}
        for one in range(1500)
    ]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples.jsonl").write_text(
            "".join(json.dumps(one) + "\n" for one in lines)
        )
    expected = evaluate(tmp_path, "score", str(tmp_path / "one" / "samples.jsonl"), "--json")
    killed = tmp_path / "two"

    def num_found() -> int:
        return sum(one.read_bytes().count(b"\n") for one in killed.glob("*.journal"))

    kill_process_tree_when(
        start(killed, "score", str(killed / "samples.jsonl"), "--json"), lambda: num_found() >= 256
    )
    process = start(killed, "score", str(killed / "samples.jsonl"), "--json")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert json.loads(output) == expected
    results = "samples.jsonl_results.jsonl"
    assert sorted(one.name for one in killed.iterdir()) == ["samples.jsonl", results]
    assert (killed / results).read_bytes() == (tmp_path / "one" / results).read_bytes()


def test_an_artifact_that_is_no_checkpoint_is_said_to_be(tmp_path: Path) -> None:
    built = Store(tmp_path / "store").get_or_build(
        "samples", "x", config={}, parents={}, code_version=1, build=lambda _: {}
    )
    process = start(tmp_path, built.artifact.address)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{built.artifact.label} is no model" in errors
    assert "Traceback" not in errors


def _checkpoint(store: Store) -> str:
    (label,) = (one.label for one in store.list_artifacts() if one.kind == "checkpoint")
    return label.removeprefix("checkpoint/")
