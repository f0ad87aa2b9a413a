"""The forecast of the usage of all stages."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from components.core.artifact import Artifact
from components.training.budget import Usage
from components.training.config import Budget, TrainingExecution
from components.training.metrics import StepMetrics
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import recipe
from flows.steps.training_budget import excess_warning, forecast_usage

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


def test_later_stages_are_forecast_at_the_speed_of_the_present_stage() -> None:
    target = recipe("starter")
    usage = forecast_usage(target, "nl", {}, STEP, 2)
    assert usage == Usage(elapsed_s=410.0 + 6_800.0, device_s=820.0 + 13_600.0)
    artifact = Artifact(
        kind="checkpoint", name="nl", address="/none", recipe_hash="0", digest="0", parents=()
    )
    usage = forecast_usage(target, "multi", {"nl": artifact}, STEP, 2)
    assert usage == Usage(elapsed_s=410.0 + 4_400.0, device_s=820.0 + 8_800.0)


@pytest.mark.parametrize(
    ("hours", "is_exceeded"),
    # 410 + 2,000 + 2 * 2,400 s of this recipe, and 3,600 s of an earlier stage: 10,810 s.
    [(3.0, True), (3.01, False)],
)
def test_a_run_warns_once_if_the_measured_speed_does_not_suffice(
    tmp_path: Path, hours: float, is_exceeded: bool
) -> None:
    training = TrainingExecution(world_size=2, budget=Budget(hours=hours))
    execution = Execution(project=str(tmp_path), training=training)
    output = StringIO()
    # The MLflow run is not used.
    context = FlowContext(
        recipe("starter"), execution, execution.open_store(), cast(Any, None), Console(file=output)
    )
    warn = excess_warning(context, "nl", Usage(elapsed_s=3_600.0, device_s=7_200.0), {})
    warn(STEP.replace(step=19))
    assert output.getvalue() == ""
    warn(STEP)
    warn(STEP.replace(step=101))
    assert output.getvalue().count("training needs 3 hours") == int(is_exceeded)
