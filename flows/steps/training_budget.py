"""The budget of a training over its stages: usage of finished stages, and a forecast.

`components.training` stops a stage before it exceeds the budget. The flow then fails with its
error, which releases the devices; the same command with a higher limit resumes from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from components.core.artifact import Artifact
from components.core.files import parse_json
from components.training.budget import Usage, excess_forecast
from components.training.run_file import USAGE_FILE
from flows.runtime.context import FlowContext
from flows.settings.recipes import Recipe

if TYPE_CHECKING:
    from components.training.metrics import StepMetrics

_NUM_FORECAST_STEPS = 20
"""Steps after which the speed is stable enough for a forecast (assumption)."""


def usage_of_stages(context: FlowContext, checkpoints: Mapping[str, Artifact]) -> Usage:
    """Return the usage of trained stages together; nothing is read without a budget.

    Raises:
        ArtifactError: a checkpoint has no valid record of its usage.
    """
    usage = Usage()
    if not context.execution.training.budget.limits:
        return usage
    for checkpoint in checkpoints.values():
        document = parse_json(context.store.read_file(checkpoint, USAGE_FILE))
        usage = usage.plus(Usage.parse(document))
    return usage


def excess_warning(
    context: FlowContext, stage: str, earlier_stages: Usage, finished: Mapping[str, Artifact]
) -> Callable[[StepMetrics], None]:
    """Return a function that takes the steps of a stage, and warns once if all stages together need
    more than the budget at the measured speed.

    Args:
        context: prints the warning.
        stage: the present stage.
        earlier_stages: usage of the finished stages.
        finished: their checkpoints.
    """
    training = context.execution.training
    is_due = True

    def take(step: StepMetrics) -> None:
        nonlocal is_due
        if is_due and step.step >= _NUM_FORECAST_STEPS:
            is_due = False
            needed = forecast_usage(context.recipe, stage, finished, step, training.world_size)
            message = excess_forecast(
                training.budget, earlier_stages.plus(needed), training.world_size
            )
            if message:
                context.warn(message)

    return take


def forecast_usage(
    recipe: Recipe,
    stage: str,
    finished: Mapping[str, Artifact],
    step: StepMetrics,
    num_devices: int,
) -> Usage:
    """Return the usage of the present stage and the stages after it, at the speed of a step.

    Args:
        recipe: the recipe.
        stage: the present stage.
        finished: finished stages by name.
        step: a step of the present stage.
        num_devices: devices that train.
    """
    later_tokens = sum(
        config.steps * config.global_batch_tokens
        for name, config in recipe.training.trained.items()
        if name != stage and name not in finished
    )
    return step.usage.after(step.time_left_s + later_tokens / step.tokens_per_s, num_devices)
