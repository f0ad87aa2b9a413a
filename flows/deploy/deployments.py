"""The deployments: flows that can be scheduled, their parameters and schedules.

A deployment is a flow with a recipe as its default. Its parameters are the recipe and the execution
config, so the form in the Prefect UI shows every field with type, default and description, and
`pipeline/starter` does the same as `codegen run -r starter`. `codegen serve` (no worker) and
`infra/prefect.yaml` (workers) use this table; a test compares both.
"""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from components.core.errors import ConfigError
from flows.deploy.automations import DEPLOYMENT_TAG
from flows.evaluate import BITS_PER_BYTE, evaluate_model, follow
from flows.pipeline import pipeline
from flows.prepare import refresh_data
from flows.promote import promote_version, rollback
from flows.settings.execution import (
    Execution,
    environment,
    execution_from_environment,
    setup_environment,
)
from flows.settings.recipes import Recipe
from flows.settings.recipes import recipe as find_recipe
from flows.train import train_stage

if TYPE_CHECKING:
    from prefect.schedules import Schedule


@dataclass(frozen=True)
class DeploymentSpec:
    """A flow and the settings of its deployment."""

    flow: Flow[Any, Any]
    tags: tuple[str, ...]
    cron: str | None
    """The schedule, inactive by default. None: started by users only."""
    concurrency_limit: int | None = None
    """Concurrent runs of a deployment; further runs wait. None: unlimited."""
    needs_corpora: bool = False
    """Whether it reads the recipe's corpora. Such a flow is not deployed for a recipe whose corpora
    have no sources."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters other than recipe and execution."""


DEPLOYMENTS: dict[str, DeploymentSpec] = {
    "pipeline": DeploymentSpec(
        pipeline,
        tags=("data", "training", "evaluation", "promotion"),
        cron="0 1 * * 6",
        needs_corpora=True,
    ),
    "refresh-data": DeploymentSpec(
        refresh_data,
        tags=("data",),
        cron="0 0 * * *",
        concurrency_limit=1,
        needs_corpora=True,
    ),
    "train-stage": DeploymentSpec(
        train_stage,
        tags=("training",),
        cron="0 2 * * *",
        concurrency_limit=1,
        needs_corpora=True,
        parameters={"stage": "{last_stage}"},
    ),
    "evaluate-model": DeploymentSpec(
        evaluate_model,
        tags=("evaluation",),
        cron="0 6 * * *",
        parameters={"model": "{recipe}-{last_stage}@champion", "benchmarks": ["humaneval"]},
    ),
    "follow-training": DeploymentSpec(
        follow,
        tags=("evaluation",),
        cron=None,
        needs_corpora=True,
        parameters={"stage": "{last_stage}", "benchmarks": [BITS_PER_BYTE]},
    ),
    "promote-version": DeploymentSpec(
        promote_version,
        tags=("promotion",),
        cron="0 8 * * *",
        parameters={"model": "{recipe}-{last_stage}@candidate"},
    ),
    "rollback": DeploymentSpec(
        rollback, tags=("promotion",), cron=None, parameters={"model": "{recipe}-{last_stage}"}
    ),
}
"""By flow name. Trainings of a host are serialized however they start (`flows.train`); evaluations
run in parallel. The times are assumptions: data at midnight, then training, evaluation in the
morning."""


def deployments(
    name: str, recipe: Recipe, execution: Execution, crons: Mapping[str, str], timezone: str
) -> list[RunnerDeployment]:
    """Return a deployment of every flow that the recipe has the corpora for.

    Args:
        name: recipe name on the command line; the deployments are `pipeline/NAME`, ...
        recipe: default of the parameter `recipe`.
        execution: default of the parameter `execution`.
        crons: schedules to activate, by flow name.
        timezone: time zone of all schedules, e.g. Europe/Berlin.

    Raises:
        ConfigError: a flow, schedule or time zone is invalid, or a flow to schedule has no corpora.
    """
    _check_schedules(crons, timezone)
    omitted = flows_without_corpora(recipe)
    if omitted & crons.keys():
        recipe.require_corpora()
    created = []
    for flow_name, spec in DEPLOYMENTS.items():
        if flow_name in omitted:
            continue
        deployment = spec.flow.to_deployment(
            name,
            parameters=parameters(flow_name, recipe, execution),
            schedules=[_schedule(crons.get(flow_name), spec.cron, timezone)] if spec.cron else [],
            concurrency_limit=_concurrency_limit(spec),
            description=spec.flow.description,
            tags=[DEPLOYMENT_TAG, *spec.tags],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        created.append(cast(RunnerDeployment, deployment))  # A coroutine only in an event loop.
    return created


def flows_without_corpora(recipe: Recipe) -> set[str]:
    """Return the flows that a recipe cannot run, because its corpora have no sources."""
    if set(recipe.trained_corpora) <= set(recipe.corpora):
        return set()
    return {name for name, spec in DEPLOYMENTS.items() if spec.needs_corpora}


def parameters(flow_name: str, recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Return the default parameters of a deployed flow as JSON values."""
    spec = DEPLOYMENTS[flow_name]
    values: dict[str, Any] = {
        "recipe": _json_values(recipe),
        "execution": _json_values(execution.replace(project=str(execution.project_path))),
    }
    names = {"recipe": recipe.name, "last_stage": recipe.training.all_stages[-1]}
    for name, value in spec.parameters.items():
        values[name] = value.format_map(names) if isinstance(value, str) else value
    accepted = spec.flow.parameters.properties
    return {name: value for name, value in values.items() if name in accepted}


def _json_values(config: Recipe | Execution) -> dict[str, Any]:
    """Return all fields, also those with default values, which the form needs; tuples as lists."""
    return dict(json.loads(config.model_dump_json()))


def _check_schedules(crons: Mapping[str, str], timezone: str) -> None:
    if timezone not in zoneinfo.available_timezones():
        raise ConfigError(
            f"there is no time zone {timezone!r}",
            expected="an IANA time zone, e.g. Europe/Berlin or UTC",
            fix="correct --timezone",
        )
    schedulable = [name for name, spec in DEPLOYMENTS.items() if spec.cron]
    for flow_name, cron in crons.items():
        if flow_name not in schedulable:
            raise ConfigError(
                f"there is no schedulable flow {flow_name!r}",
                expected=f"one of {', '.join(schedulable)}",
                fix='use, e.g., --cron "pipeline=0 1 * * 6"',
            )
        try:
            CronSchedule(cron=cron, timezone=timezone)
        except ValidationError as error:
            raise ConfigError(
                f"the schedule of {flow_name} is {cron!r}: {error.errors()[0]['msg']}",
                expected="minute, hour, day, month and weekday, e.g. 0 1 * * 6",
                fix=f'use, e.g., --cron "{flow_name}=0 1 * * 6"',
            ) from None


def _schedule(cron: str | None, default_cron: str, timezone: str) -> Schedule:
    return Cron(cron or default_cron, timezone=timezone, active=cron is not None, slug="codegen")


def active_schedules(full_name: str) -> list[DeploymentScheduleCreate]:
    """Return the schedules of an existing deployment if any is active; a new deployment drops
    them."""
    with get_client(sync_client=True) as client:
        try:
            schedules = client.read_deployment_by_name(full_name).schedules
        except ObjectNotFound:
            return []
    if not any(schedule.active for schedule in schedules):
        return []
    fields = ("schedule", "active", "slug", "parameters")
    return [
        DeploymentScheduleCreate(**{name: getattr(schedule, name) for name in fields})
        for schedule in schedules
    ]


def _concurrency_limit(spec: DeploymentSpec) -> ConcurrencyLimitConfig | None:
    if spec.concurrency_limit is None:
        return None
    return ConcurrencyLimitConfig(
        limit=spec.concurrency_limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
    )


def prefect_yaml_build_step(recipe: str | None = None) -> dict[str, Any]:
    """Build step of `infra/prefect.yaml`: create the automations and return the template values.

    Args:
        recipe: recipe name on the command line, or a recipe file; default starter.

    Raises:
        ConfigError: a corpus of the recipe has no sources.
    """
    from flows.deploy.automations import create_missing_automations

    execution = execution_from_environment()
    find_recipe(recipe or "starter").require_corpora()
    setup_environment(execution)
    create_missing_automations()
    return prefect_yaml_values(recipe or "starter", execution)


def prefect_yaml_values(name: str, execution: Execution) -> dict[str, Any]:
    """Return the template values of `infra/prefect.yaml`: the same parameters as `codegen
    serve`."""
    recipe = find_recipe(name)
    return {
        "name": name,
        **parameters("pipeline", recipe, execution),
        "champion": parameters("evaluate-model", recipe, execution)["model"],
        "candidate": parameters("promote-version", recipe, execution)["model"],
        "model": parameters("rollback", recipe, execution)["model"],
        "stage": parameters("train-stage", recipe, execution)["stage"],
        "env": environment(execution),
        "project": str(execution.project_path),
    }
