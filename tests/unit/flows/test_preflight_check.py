"""Preflight checks find settings that would stop a flow after hours."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from rich.console import Console

from components.core.errors import ConfigError, EvaluationError
from components.training.config import TrainingExecution
from flows.deploy.serve import serve
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import codegen_350m, tiny

# A step of the recipe has four sequences.


def test_an_automatic_micro_batch_is_accepted() -> None:
    preflight_check(tiny(), Execution(training=TrainingExecution(micro_batch="auto", world_size=2)))


@pytest.mark.parametrize(("world_size", "micro_batch"), [(3, "auto"), (1, 3)])
def test_a_batch_that_cannot_be_divided_is_refused(world_size: int, micro_batch: int | str) -> None:
    training = TrainingExecution.parse({"micro_batch": micro_batch, "world_size": world_size})
    with pytest.raises(ConfigError, match="4 sequences"):
        preflight_check(tiny(), Execution(training=training))


def test_only_trained_stages_are_checked() -> None:
    execution = Execution(training=TrainingExecution(world_size=4))
    uneven = tiny().override(["training.stages.nl.global_batch_tokens=256"])
    with pytest.raises(ConfigError, match="1 sequences"):
        preflight_check(uneven, execution)
    preflight_check(uneven.override(["training.start_stage=multi"]), execution)


def test_deepspeed_options_that_contradict_the_recipe_are_refused() -> None:
    options = {"gradient_clipping": 0.5, "csv_monitor": {"enabled": True}}
    training = TrainingExecution(micro_batch=2, world_size=2, deepspeed_config=options)
    with pytest.raises(ConfigError, match=r"gradient_clipping is 0.5 instead of 1.0"):
        preflight_check(tiny(), Execution(training=training))


def test_a_stage_gate_requires_no_skipped_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODEGEN_MTPB", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no process listens on this port
    gate = {"requirements": [{"metrics": ["mtpb/pass_rate_multi"], "threshold": 0.0}]}
    execution = Execution(workspace=str(tmp_path), training=TrainingExecution(micro_batch="auto"))
    with pytest.raises(ConfigError, match="mtpb is skipped"):
        preflight_check(tiny().override([f"stage_gates.nl={json.dumps(gate)}"]), execution)


def test_every_benchmark_of_the_recipe_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no process listens on this port
    file = tmp_path / "mine.jsonl"
    file.write_text('{"task_id": 1}\n')
    benchmark = json.dumps({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    recipe = tiny().override([f"benchmarks.mine={benchmark}"])
    execution = Execution(workspace=str(tmp_path), training=TrainingExecution(micro_batch="auto"))
    preflight_check(tiny(), execution)  # MTPB is optional.
    with pytest.raises(EvaluationError, match="the file of mine is missing"):
        preflight_check(recipe, execution)
    with_file = execution.override([f"benchmark_files.mine={file}"])
    for use in ("search", "evaluate"):
        with pytest.raises(EvaluationError, match=r"mine\.jsonl:1 has the fields task_id"):
            preflight_check(recipe.override([f"benchmarks.mine.{use}=false"]), with_file)
    unused = ["benchmarks.mine.search=false", "benchmarks.mine.evaluate=false"]
    preflight_check(recipe.override(unused), execution)
    with pytest.raises(EvaluationError, match="the file of mtpb is missing"):
        preflight_check(codegen_350m(), execution)


def test_a_missing_benchmark_file_is_an_error_before_a_server_starts(tmp_path: Path) -> None:
    recipe = tiny().override(["benchmarks.mine=" + json.dumps({"sha256": "0" * 64})])
    with pytest.raises(EvaluationError, match="the file of mine is missing"):
        serve(
            recipe,
            Execution(workspace=str(tmp_path)),
            name="tiny",
            crons={},
            timezone="UTC",
            prefect_port=1,
            mlflow_port=1,
            console=Console(),
        )


def test_the_path_of_an_unknown_benchmark_is_refused() -> None:
    execution = Execution(benchmark_files={"mbpp": "mbpp.jsonl"})
    with pytest.raises(ConfigError, match="mbpp") as refused:
        preflight_check(tiny(), execution)
    assert "humaneval" in refused.value.expected
