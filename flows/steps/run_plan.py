"""The plan of a complete run: training and evaluations, with hours and cost in total.

Pure arithmetic on the recipe (`components.training.planning`, `components.evaluation.workload`).
Not covered: fetching, validating and preparing corpora (`codegen data estimate` measures them),
promotion, start-up of the steps, and benchmarks of your own, whose files are not read.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import computed_field

from components.core.config import Config, ListOrTuple
from components.evaluation.workload import num_held_out_tokens, sampling_work
from components.training.config import ParallelLayout
from components.training.planning.devices import Device
from components.training.planning.inference import sampling_s, scoring_s
from components.training.planning.planner import Plan, make_plan
from flows.settings.recipes import Recipe

_S_PER_HOUR = 3600


class EvaluationPlan(Config):
    """An evaluation of a checkpoint."""

    name: str
    num_samples: int | None
    """Completions; for several turns, histories. None for bits per byte."""
    num_tokens: int
    """Most new tokens of all samples, or the scored tokens."""
    hours: float
    """On the devices of a single host."""
    cost: float | None
    """Of all devices, which are reserved meanwhile; None without a price."""


class RunPlan(Config):
    """The plan of a run."""

    training: Plan
    evaluations: ListOrTuple[EvaluationPlan]
    """Of each checkpoint."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def evaluation(self) -> EvaluationPlan:
        """All evaluations of the checkpoints of all stages together."""
        num_stages = len(self.training.stages)
        costs = [plan.cost for plan in self.evaluations if plan.cost is not None]
        return EvaluationPlan(
            name="all",
            num_samples=num_stages * sum(plan.num_samples or 0 for plan in self.evaluations),
            num_tokens=num_stages * sum(plan.num_tokens for plan in self.evaluations),
            hours=num_stages * sum(plan.hours for plan in self.evaluations),
            cost=num_stages * sum(costs) if costs else None,
        )

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def hours(self) -> float:
        """Hours of training and evaluations."""
        return self.training.total.hours + self.evaluation.hours

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def cost(self) -> float | None:
        """Cost of training and evaluations; None without a price."""
        training_cost, evaluation_cost = self.training.total.cost, self.evaluation.cost
        if training_cost is None or evaluation_cost is None:
            return None
        return training_cost + evaluation_cost


def make_run_plan(
    recipe: Recipe,
    layouts: list[ParallelLayout],
    device: Device,
    *,
    devices_per_host: int,
    corpora_tokens: Mapping[str, int] | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> RunPlan:
    """Plan the training and the evaluations of a recipe; see `make_plan`.

    Args:
        recipe: the recipe.
        layouts: layouts to compare.
        device: the type of all devices.
        devices_per_host: devices of a host; those of a single host evaluate.
        corpora_tokens: training tokens of the corpora that are known.
        mfu: model FLOP/s over the peak of training; None: the device's default.
        price: price per device and hour.
    """
    training = make_plan(
        recipe.model,
        recipe.training,
        layouts,
        device,
        ranks_per_host=devices_per_host,
        corpora_tokens=corpora_tokens,
        mfu=mfu,
        price=price,
    )
    num_devices = training.best.layout.world_size
    num_evaluating_devices = min(devices_per_host, num_devices)

    def plan_evaluation(
        name: str, num_samples: int | None, num_tokens: int, seconds: float
    ) -> EvaluationPlan:
        hours = seconds / _S_PER_HOUR
        cost = None if price is None else hours * num_devices * price
        return EvaluationPlan(
            name=name, num_samples=num_samples, num_tokens=num_tokens, hours=hours, cost=cost
        )

    evaluations = []
    for work in sampling_work(recipe.evaluation):
        if work.benchmark not in recipe.evaluated_benchmarks:
            continue
        seconds = sampling_s(
            recipe.model,
            device,
            num_evaluating_devices,
            num_new_tokens=work.num_new_tokens,
            num_prompt_tokens=work.num_prompt_tokens,
            num_attended_tokens=work.num_attended_tokens,
            max_tokens=work.max_tokens,
        )
        plan = plan_evaluation(work.name, work.num_samples, work.num_new_tokens, seconds)
        evaluations.append(plan)
    # Corpora without sources count too: a plan can be made before they are known.
    corpora = dict.fromkeys([*recipe.trained_corpora, *recipe.corpora])
    num_splits = sum(len(recipe.data.corpora[name].languages) for name in corpora)
    num_tokens = num_held_out_tokens(recipe.evaluation, num_splits, recipe.model.context_length)
    seconds = scoring_s(recipe.model, device, num_evaluating_devices, num_tokens)
    evaluations.append(plan_evaluation("bits per byte", None, num_tokens, seconds))
    return RunPlan(training=training, evaluations=tuple(evaluations))
