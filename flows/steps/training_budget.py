"""The budget of a training over its stages: usage of finished stages, and a forecast.

`components.training` stops a stage before it exceeds the budget. The flow then fails with its
error, which releases the devices; the same command with a higher limit resumes from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from components.core.artifact import Artifact
from components.core.files import parse_json
from components.training.budget import Usage, excess_forecast
from components.training.run_file import METRICS_FILE, USAGE_FILE
from flows.runtime.context import FlowContext
from flows.settings.recipes import Recipe

if TYPE_CHECKING:
    from components.training.metrics import StepMetrics

_NUM_FORECAST_STEPS = 20
"""Steps after which the speed is stable enough for a forecast (assumption)."""


def usage_of_stages(context: FlowContext, checkpoints: Mapping[str, Artifact]) -> Usage:
    """Return the usage of trained stages together; nothing is read without a budget.

    Raises:
        ArtifactError: the record of a checkpoint is missing or damaged.
    """
    usage = Usage()
    if not context.execution.training.budget.limits:
        return usage
    for checkpoint in checkpoints.values():
        usage = usage.plus(_usage_of_stage(context, checkpoint))
    return usage


def _usage_of_stage(context: FlowContext, checkpoint: Artifact) -> Usage:
    """Return the usage of a stage; with a warning if an older version trained it."""
    from components.training.metrics import parse_metrics

    paths = {file.path for file in checkpoint.files}
    if USAGE_FILE in paths:
        return Usage.parse(parse_json(context.store.read_file(checkpoint, USAGE_FILE)))
    has_metrics = METRICS_FILE in paths
    steps = parse_metrics(context.store.read_file(checkpoint, METRICS_FILE)) if has_metrics else []
    if not steps:
        context.warn(f"{checkpoint.label} has no record of its time: the budget does not count it")
        return Usage()
    usage = steps[-1].usage
    if not usage.device_s:
        num_devices = context.execution.training.world_size
        context.warn(
            f"{checkpoint.label} has no record of its devices: the budget counts {num_devices}, "
            "the present world_size"
        )
        usage = Usage().after(usage.elapsed_s, num_devices)
    return usage


def excess_warning(
    context: FlowContext, earlier_stages: Usage, later_stages: Sequence[str]
) -> Callable[[StepMetrics], None]:
    """Return a function that takes the steps of a stage, and warns once if all stages together need
    more than the budget at the measured speed.

    Args:
        context: prints the warning.
        earlier_stages: usage of the finished stages.
        later_stages: stages that this run trains after the present stage.
    """
    training = context.execution.training
    is_due = True

    def check_step(step: StepMetrics) -> None:
        nonlocal is_due
        if is_due and step.step >= _NUM_FORECAST_STEPS:
            is_due = False
            needed = forecast_usage(context.recipe, later_stages, step, training.world_size)
            message = excess_forecast(
                training.budget, earlier_stages.plus(needed), training.world_size
            )
            if message:
                context.warn(message)

    return check_step


def forecast_usage(
    recipe: Recipe, later_stages: Sequence[str], step: StepMetrics, num_devices: int
) -> Usage:
    """Return the usage of the present stage and the stages after it, at the speed of a step.

    Args:
        recipe: the recipe.
        later_stages: stages after the present stage.
        step: a step of the present stage.
        num_devices: devices that train.
    """
    configs = [recipe.training.stages[stage] for stage in later_stages]
    later_tokens = sum(config.steps * config.global_batch_tokens for config in configs)
    return step.usage.after(step.time_left_s + later_tokens / step.tokens_per_s, num_devices)
