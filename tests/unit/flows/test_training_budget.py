"""The forecast of the usage of all stages."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from components.core.artifact import Artifact
from components.core.files import write_json, write_jsonl
from components.training.budget import Usage
from components.training.config import Budget, TrainingExecution
from components.training.metrics import StepMetrics
from components.training.run_file import METRICS_FILE, USAGE_FILE
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import recipe
from flows.steps.training_budget import excess_warning, forecast_usage, usage_of_stages

STEP = StepMetrics(
    step=100,
    loss=1.0,
    learning_rate=1e-3,
    grad_norm=0.5,
    tokens=204_800,
    tokens_per_s=512.0,
    mfu=0.5,
    elapsed_s=410.0,
    device_s=820.0,
    time_left_s=2_000.0,
)
"""Stages of the starter have 600 steps of 2,048 tokens; 512 tokens a second are 4 s a step."""


def open_context(folder: Path, output: StringIO, hours: float) -> FlowContext:
    training = TrainingExecution(world_size=2, budget=Budget(hours=hours))
    execution = Execution(project=str(folder), training=training)
    # The MLflow run is not used.
    return FlowContext(
        recipe("starter"), execution, execution.open_store(), cast(Any, None), Console(file=output)
    )


def test_later_stages_are_forecast_at_the_speed_of_the_present_stage() -> None:
    target = recipe("starter")
    usage = forecast_usage(target, ["multi", "mono"], STEP, 2)
    assert usage == Usage(elapsed_s=410.0 + 6_800.0, device_s=820.0 + 13_600.0)
    usage = forecast_usage(target, ["mono"], STEP, 2)
    assert usage == Usage(elapsed_s=410.0 + 4_400.0, device_s=820.0 + 8_800.0)
    assert forecast_usage(target, [], STEP, 2) == Usage(elapsed_s=2_410.0, device_s=4_820.0)


@pytest.mark.parametrize(
    ("hours", "is_exceeded"),
    # 410 + 2,000 + 2 * 2,400 s of this recipe, and 3,600 s of an earlier stage: 10,810 s.
    [(3.0, True), (3.01, False)],
)
def test_a_run_warns_once_if_the_measured_speed_does_not_suffice(
    tmp_path: Path, hours: float, is_exceeded: bool
) -> None:
    output = StringIO()
    context = open_context(tmp_path, output, hours)
    earlier_stages = Usage(elapsed_s=3_600.0, device_s=7_200.0)
    warn = excess_warning(context, earlier_stages, ["multi", "mono"])
    warn(STEP.replace(step=19))
    assert output.getvalue() == ""
    warn(STEP)
    warn(STEP.replace(step=101))
    assert output.getvalue().count("training needs 3 hours") == int(is_exceeded)


def publish(context: FlowContext, name: str, *, usage: bool, steps: list[StepMetrics]) -> Artifact:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "model").touch()
        if usage:
            write_json(folder / USAGE_FILE, {"elapsed_s": 500.0, "device_s": 1_000.0})
        if steps:
            lines = [step.model_dump(exclude_defaults=True) for step in steps]
            write_jsonl(folder / METRICS_FILE, lines)
        return {}

    result = context.store.get_or_build(
        "checkpoint", name, config={"name": name}, parents={}, code_version=1, build=build
    )
    return result.artifact


def test_checkpoints_of_older_versions_count_by_their_last_step(tmp_path: Path) -> None:
    output = StringIO()
    context = open_context(tmp_path, output, hours=1.0)

    def usage(name: str, *, usage: bool = False, steps: list[StepMetrics]) -> Usage:
        return usage_of_stages(context, {"nl": publish(context, name, usage=usage, steps=steps)})

    assert usage("new", usage=True, steps=[STEP]) == Usage(elapsed_s=500.0, device_s=1_000.0)
    assert usage("with-devices", steps=[STEP.replace(elapsed_s=1.0), STEP]) == STEP.usage
    assert output.getvalue() == ""
    old_step = STEP.replace(device_s=0.0)
    assert usage("without-devices", steps=[old_step]) == Usage(elapsed_s=410.0, device_s=820.0)
    assert "no record of its devices: the budget counts 2" in output.getvalue()
    assert usage("without-metrics", steps=[]) == Usage()
    assert "no record of its time: the budget does not count it" in output.getvalue()
