"""The forecast of the usage of all stages."""

from __future__ import annotations

from components.core.artifact import Artifact
from components.training.budget import Usage
from components.training.metrics import StepMetrics
from flows.settings.recipes import recipe
from flows.steps.training_budget import forecast_usage


def test_later_stages_are_forecast_at_the_speed_of_the_present_stage() -> None:
    """Stages of 600 steps of 2,048 tokens; 512 tokens a second are 4 s a step."""
    step = StepMetrics(
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
    target = recipe("starter")
    finished: dict[str, Artifact] = {}
    usage = forecast_usage(target, "nl", finished, step, 2)
    assert usage == Usage(elapsed_s=410.0 + 6_800.0, device_s=820.0 + 13_600.0)
    artifact = Artifact(
        kind="checkpoint", name="nl", address="/none", recipe_hash="0", digest="0", parents=()
    )
    usage = forecast_usage(target, "multi", {"nl": artifact}, step, 2)
    assert usage == Usage(elapsed_s=410.0 + 4_400.0, device_s=820.0 + 8_800.0)
