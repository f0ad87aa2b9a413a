"""What can be scheduled: the flows that Prefect offers as deployments, and what each is deployed with.

One decision: a deployment is a recipe. Its parameters are the recipe and the execution themselves, so the form on Prefect's
page has every field with its type, default and description, and `pipeline/starter` is what `codegen run -r starter` runs.
The same table serves `codegen serve` (no worker needed) and `infra/prefect.yaml` (workers; a test keeps the two equal).
"""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from components.core.network import redact_credentials
from components.training.config import StageName
from flows.evaluate import evaluate_model
from flows.pipeline import pipeline
from flows.prepare import PreparedData, prepare
from flows.promote import promote_version, rollback
from flows.settings.execution import Execution, environment
from flows.settings.recipes import Recipe
from flows.settings.recipes import recipe as named_recipe
from flows.train import train

if TYPE_CHECKING:
    from prefect.schedules import Schedule

ONE_AT_A_TIME = 1


@flow(name="refresh-data", flow_run_name="refresh the data of {recipe.name}")
def refresh_data(recipe: Recipe, execution: Execution) -> PreparedData:
    """Pull, validate and pack the corpora anew where their sources or the recipe changed.

    Args:
        recipe: what is to be made.
        execution: where it is made.
    """
    return prepare.fn(recipe, execution)


@flow(name="train-stage", flow_run_name="train {recipe.name} up to {stage}")
def train_stage(
    recipe: Recipe, execution: Execution, stage: StageName = "mono"
) -> dict[str, Artifact]:
    """Train one stage: those before it are reused where they are there, and trained where they are not.

    Args:
        recipe: what is to be made.
        execution: where it is made.
        stage: nl, multi or mono.
    """
    return train.fn(recipe, execution, last_stage=stage)


@dataclass(frozen=True)
class DeploymentSpec:
    """One flow as it is deployed."""

    flow: Flow[Any, Any]
    tags: tuple[str, ...]
    cron: str | None
    """When it runs once its schedule is switched on: on the page, or with `codegen serve --cron`. None: for people only."""
    concurrency_limit: int | None = None
    """Runs of one deployment at the same time; more wait in Prefect. None: as many as are asked for."""
    parameters: Mapping[str, Any] | None = None
    """Beside recipe and execution."""


DEPLOYMENTS: dict[str, DeploymentSpec] = {
    "pipeline": DeploymentSpec(
        pipeline, tags=("data", "training", "evaluation", "promotion"), cron="0 1 * * 6"
    ),
    "refresh-data": DeploymentSpec(
        refresh_data, tags=("data",), cron="0 0 * * *", concurrency_limit=ONE_AT_A_TIME
    ),
    "train-stage": DeploymentSpec(
        train_stage,
        tags=("training",),
        cron="0 2 * * *",
        concurrency_limit=ONE_AT_A_TIME,
        parameters={"stage": "mono"},
    ),
    "evaluate-model": DeploymentSpec(
        evaluate_model,
        tags=("evaluation",),
        cron="0 6 * * *",
        parameters={"model": "{recipe}-mono@champion", "benchmarks": ["humaneval"]},
    ),
    "promote-version": DeploymentSpec(
        promote_version,
        tags=("promotion",),
        cron="0 8 * * *",
        parameters={"model": "{recipe}-mono@candidate"},
    ),
    "rollback": DeploymentSpec(
        rollback, tags=("promotion",), cron=None, parameters={"model": "{recipe}-mono"}
    ),
}
"""By the name of the flow. Trainings of one host take turns however they were started (`flows.train`); evaluations run
beside them. Times are assumptions: data at midnight, training after it, evaluation in the morning."""


def deployments(
    name: str, recipe: Recipe, execution: Execution, crons: Mapping[str, str], timezone: str
) -> list[RunnerDeployment]:
    """A deployment of every flow, named for a recipe.

    Args:
        name: the recipe's, as the command line knows it: the deployments are `pipeline/NAME`, ...
        recipe: what the parameters say.
        execution: where the runs are.
        crons: schedules to switch on, by flow.
        timezone: of all schedules, e.g. Europe/Berlin.

    Raises:
        ConfigError: there is no such flow, or no such schedule or time zone.
    """
    require_schedules(crons, timezone)
    made = [
        one.flow.to_deployment(
            name,
            parameters=parameters(flow_name, recipe, execution),
            schedules=[_schedule(crons.get(flow_name), one.cron, timezone)] if one.cron else [],
            concurrency_limit=_limit(one),
            description=one.flow.description,
            tags=["codegen", *one.tags],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for flow_name, one in DEPLOYMENTS.items()
    ]
    return cast(list[RunnerDeployment], made)  # Coroutines only within an event loop.


def parameters(flow_name: str, recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """What a run of a deployed flow is given where nobody says otherwise, as JSON has it.

    Raises:
        ConfigError: there is a password in it.
    """
    own = {
        name: value.format(recipe=recipe.name) if isinstance(value, str) else value
        for name, value in (DEPLOYMENTS[flow_name].parameters or {}).items()
    }
    if (uri := execution.tracking_uri or "") != redact_credentials(uri):
        raise ConfigError(
            "the tracking URI holds a password, and what a deployment is given is shown to everybody",
            expected="a URI without one",
            fix="put it into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    place = execution.replace(project=str(execution.project_path))
    given = {"recipe": _json(recipe), "execution": _json(place), **own}
    return {
        name: value
        for name, value in given.items()
        if name in DEPLOYMENTS[flow_name].flow.parameters.properties
    }


def _json(config: Recipe | Execution) -> dict[str, Any]:
    """As JSON: tuples are lists, and fields that say what they would say anyway are there all the same, for the form."""
    return dict(json.loads(config.model_dump_json()))


def require_schedules(crons: Mapping[str, str], timezone: str) -> None:
    """Check schedules that a person wrote.

    Raises:
        ConfigError: says which is none.
    """
    if timezone not in zoneinfo.available_timezones():
        raise ConfigError(
            f"there is no time zone {timezone!r}",
            expected="one of the IANA's, e.g. Europe/Berlin or UTC",
            fix="mend --timezone",
        )
    for flow_name, cron in crons.items():
        if flow_name not in DEPLOYMENTS or not DEPLOYMENTS[flow_name].cron:
            raise ConfigError(
                f"there is no flow {flow_name!r} to be scheduled",
                expected=f"one of {', '.join(name for name, one in DEPLOYMENTS.items() if one.cron)}",
                fix='write --cron "pipeline=0 1 * * 6"',
            )
        try:
            CronSchedule(cron=cron, timezone=timezone)
        except ValidationError as error:
            raise ConfigError(
                f"the schedule of {flow_name} is {cron!r}: {error.errors()[0]['msg']}",
                expected="minute, hour, day, month, weekday, e.g. 0 1 * * 6",
                fix=f'write, e.g., --cron "{flow_name}=0 1 * * 6"',
            ) from None


def _schedule(chosen: str | None, usual: str, timezone: str) -> Schedule:
    return Cron(chosen or usual, timezone=timezone, active=chosen is not None, slug="codegen")


def active_schedules(full_name: str) -> list[DeploymentScheduleCreate]:
    """The schedules of a deployment that is there already, where one of them is on; deploying it anew would lose them."""
    with get_client(sync_client=True) as client:
        try:
            there = client.read_deployment_by_name(full_name).schedules
        except ObjectNotFound:
            return []
    if not any(one.active for one in there):
        return []
    kept = {"schedule", "active", "slug", "parameters"}
    return [
        DeploymentScheduleCreate(**{name: getattr(one, name) for name in kept}) for one in there
    ]


def _limit(one: DeploymentSpec) -> ConcurrencyLimitConfig | None:
    if one.concurrency_limit is None:
        return None
    return ConcurrencyLimitConfig(
        limit=one.concurrency_limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
    )


def prefect_yaml_build_step(recipe: str | None = None) -> dict[str, Any]:
    """A build step of `infra/prefect.yaml`: see `values`. Sets up the automations, as `codegen serve` does.

    Args:
        recipe: its name on the command line; starter where it is not given.
    """
    from flows.cli.options import load_execution
    from flows.deploy.automations import create_missing_automations

    create_missing_automations()
    return prefect_yaml_values(recipe or "starter", load_execution([]))


def prefect_yaml_values(name: str, execution: Execution) -> dict[str, Any]:
    """What the placeholders of `infra/prefect.yaml` stand for, from the same recipe and environment as `codegen serve`."""
    recipe = named_recipe(name)
    return {
        "name": name,
        **parameters("pipeline", recipe, execution),
        "champion": parameters("evaluate-model", recipe, execution)["model"],
        "candidate": parameters("promote-version", recipe, execution)["model"],
        "mono": parameters("rollback", recipe, execution)["model"],
        "env": environment(execution),
        "project": str(execution.project_path),
    }
