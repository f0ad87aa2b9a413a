"""What is deployed is what `codegen run` runs; `infra/prefect.yaml` says the same as `codegen serve`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from components.core.errors import ConfigError
from flows.deploy.deployments import DEPLOYMENTS, deployments, parameters, prefect_yaml_values
from flows.settings.execution import Execution
from flows.settings.recipes import RECIPES, recipe

_FILE = Path(__file__).parents[3] / "infra" / "prefect.yaml"
_KEYWORDS = {"required", "properties", "definitions", "items", "enum", "anyOf", "$ref", "type"}
"""Of JSON Schema: a field of such a name is mistaken for one by Prefect."""


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("flow_name", DEPLOYMENTS)
def test_the_defaults_of_a_form_are_the_recipe(flow_name: str, name: str) -> None:
    execution = Execution(workspace="elsewhere")
    given = DEPLOYMENTS[flow_name].flow.validate_parameters(
        parameters(flow_name, recipe(name), execution)
    )
    assert given.get("recipe", recipe(name)) == recipe(name)
    assert given["execution"] == execution.replace(project=str(execution.project_path))


@pytest.mark.parametrize("flow_name", DEPLOYMENTS)
def test_a_form_says_what_each_field_is_for(flow_name: str) -> None:
    schema = parameter_schema(DEPLOYMENTS[flow_name].flow).model_dump()
    assert schema["definitions"]["Execution"]["properties"]["workspace"]["description"].startswith(
        "What runs leave behind"
    )
    fields = {name for one in schema["definitions"].values() for name in one.get("properties", {})}
    assert not fields & _KEYWORDS


def test_a_schedule_is_off_until_somebody_switches_it_on() -> None:
    made = deployments(
        "tiny", recipe("tiny"), Execution(), {"refresh-data": "30 4 * * 1"}, "Europe/Berlin"
    )
    schedules = {one.flow_name: one.schedules[0] for one in made if one.schedules}
    assert {name: one.active for name, one in schedules.items()} == {
        name: name == "refresh-data" for name, one in DEPLOYMENTS.items() if one.cron
    }
    assert (
        schedules["refresh-data"].schedule.cron,
        schedules["refresh-data"].schedule.timezone,
    ) == (  # type: ignore[union-attr]
        "30 4 * * 1",
        "Europe/Berlin",
    )
    assert {one.full_name for one in made} == {f"{name}/tiny" for name in DEPLOYMENTS}


@pytest.mark.parametrize(
    ("crons", "timezone", "got"),
    [
        ({"pipelin": "0 1 * * 6"}, "UTC", "there is no flow 'pipelin'"),
        ({"pipeline": "every day"}, "UTC", "the schedule of pipeline is 'every day'"),
        ({"rollback": "0 1 * * 6"}, "UTC", "there is no flow 'rollback' to be scheduled"),
        ({}, "Berlin", "no time zone 'Berlin'"),
    ],
)
def test_a_schedule_that_is_none_is_said(crons: dict[str, str], timezone: str, got: str) -> None:
    with pytest.raises(ConfigError, match=got):
        deployments("tiny", recipe("tiny"), Execution(), crons, timezone)


def test_the_file_for_workers_says_the_same() -> None:
    document = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    made = prefect_yaml_values("tiny", Execution(workspace="elsewhere"))
    found: dict[str, dict[str, Any]] = {}
    for one in document["deployments"]:
        path, function = one["entrypoint"].split(":")
        flow = getattr(
            importlib.import_module(path.removesuffix(".py").replace("/", ".")), function
        )
        found[flow.name] = {**one, "flow": flow}
    assert found.keys() == DEPLOYMENTS.keys()
    assert document["pull"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "{{ made.project }}"}}
    ]
    for name, expected in DEPLOYMENTS.items():
        one = found[name]
        assert one["flow"] is expected.flow
        assert one["tags"] == ["codegen", *expected.tags]
        usual = {"cron": expected.cron, "timezone": "UTC", "active": False, "slug": "codegen"}
        assert one.get("schedules", []) == ([usual] if expected.cron else [])
        enqueued = {"limit": expected.concurrency_limit, "collision_strategy": "ENQUEUE"}
        assert one.get("concurrency_limit") == (enqueued if expected.concurrency_limit else None)
        assert one["work_pool"] == {"name": "codegen", "job_variables": {"env": "{{ made.env }}"}}
        assert _filled(one["parameters"], made) == parameters(
            name, recipe("tiny"), Execution(workspace="elsewhere")
        )


def test_a_password_is_not_deployed() -> None:
    execution = Execution(tracking_uri="https://ada:lovelace@mlflow.example.org")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        parameters("pipeline", recipe("tiny"), execution)
    assert "lovelace" not in str(caught.value)


def _filled(value: Any, made: dict[str, Any]) -> Any:
    """What Prefect's template `{{ made.NAME }}` stands for."""
    if isinstance(value, dict):
        return {key: _filled(one, made) for key, one in value.items()}
    return made[value[8:-3]] if isinstance(value, str) and value.startswith("{{ made.") else value
