"""Deployments have the parameters of `codegen run`; `infra/prefect.yaml` equals `codegen serve`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema

from components.core.errors import ConfigError
from flows.deploy.deployments import (
    DEPLOYMENTS,
    deployments,
    flows_without_corpora,
    parameters,
    prefect_yaml_build_step,
    prefect_yaml_values,
)
from flows.settings.execution import Execution, execution_from_environment
from flows.settings.recipes import RECIPES, recipe

_FILE = Path(__file__).parents[3] / "infra" / "prefect.yaml"
_KEYWORDS = {"required", "properties", "definitions", "items", "enum", "anyOf", "$ref", "type"}
"""Keywords of JSON Schema, which Prefect would confuse with fields of the same name."""


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("flow_name", DEPLOYMENTS)
def test_the_default_parameters_are_recipe_and_execution(flow_name: str, name: str) -> None:
    execution = Execution(workspace="elsewhere")
    values = DEPLOYMENTS[flow_name].flow.validate_parameters(
        parameters(flow_name, recipe(name), execution)
    )
    assert values.get("recipe", recipe(name)) == recipe(name)
    assert values["execution"] == execution.replace(project=str(execution.project_path))


@pytest.mark.parametrize("flow_name", DEPLOYMENTS)
def test_the_form_describes_the_fields(flow_name: str) -> None:
    schema = parameter_schema(DEPLOYMENTS[flow_name].flow).model_dump()
    execution = schema["definitions"]["Execution"]["properties"]
    assert execution["workspace"]["description"].startswith("Folder for everything")
    fields = {
        name
        for definition in schema["definitions"].values()
        for name in definition.get("properties", {})
    }
    assert not fields & _KEYWORDS


def test_only_schedules_with_a_cron_option_are_active() -> None:
    created = deployments(
        "tiny", recipe("tiny"), Execution(), {"refresh-data": "30 4 * * 1"}, "Europe/Berlin"
    )
    schedules = {
        deployment.flow_name: deployment.schedules[0]
        for deployment in created
        if deployment.schedules
    }
    assert {name: schedule.active for name, schedule in schedules.items()} == {
        name: name == "refresh-data" for name, spec in DEPLOYMENTS.items() if spec.cron
    }
    schedule = schedules["refresh-data"].schedule
    assert isinstance(schedule, CronSchedule)
    assert (schedule.cron, schedule.timezone) == ("30 4 * * 1", "Europe/Berlin")
    assert {deployment.full_name for deployment in created} == {
        f"{name}/tiny" for name in DEPLOYMENTS
    }


@pytest.mark.parametrize(
    ("crons", "timezone", "got"),
    [
        ({"pipelin": "0 1 * * 6"}, "UTC", "no schedulable flow 'pipelin'"),
        ({"pipeline": "every day"}, "UTC", "the schedule of pipeline is 'every day'"),
        ({"rollback": "0 1 * * 6"}, "UTC", "no schedulable flow 'rollback'"),
        ({}, "Berlin", "no time zone 'Berlin'"),
    ],
)
def test_an_invalid_schedule_is_an_error(crons: dict[str, str], timezone: str, got: str) -> None:
    with pytest.raises(ConfigError, match=got):
        deployments("tiny", recipe("tiny"), Execution(), crons, timezone)


def test_prefect_yaml_has_the_same_deployments() -> None:
    document = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    template_values = prefect_yaml_values("tiny", Execution(workspace="elsewhere"))
    entries: dict[str, dict[str, Any]] = {}
    for deployment in document["deployments"]:
        path, function = deployment["entrypoint"].split(":")
        flow = getattr(
            importlib.import_module(path.removesuffix(".py").replace("/", ".")), function
        )
        entries[flow.name] = {**deployment, "flow": flow}
    assert entries.keys() == DEPLOYMENTS.keys()
    assert document["pull"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "{{ values.project }}"}}
    ]
    for name, expected in DEPLOYMENTS.items():
        entry = entries[name]
        assert entry["flow"] is expected.flow
        assert entry["tags"] == ["codegen", *expected.tags]
        schedule = {"cron": expected.cron, "timezone": "UTC", "active": False, "slug": "codegen"}
        assert entry.get("schedules", []) == ([schedule] if expected.cron else [])
        limit = {"limit": expected.concurrency_limit, "collision_strategy": "ENQUEUE"}
        assert entry.get("concurrency_limit") == (limit if expected.concurrency_limit else None)
        assert entry["work_pool"] == {
            "name": "codegen",
            "job_variables": {"env": "{{ values.env }}"},
        }
        assert _render(entry["parameters"], template_values) == parameters(
            name, recipe("tiny"), Execution(workspace="elsewhere")
        )


@pytest.mark.parametrize(
    "values",
    [
        {"tracking_uri": "https://ada:lovelace@mlflow.example.org"},
        {"tracking_uri": "postgresql://ada:love/lovelace@db.example.org/mlflow"},
        {"store": "sftp://ada:lovelace@example.org/store"},
    ],
)
def test_parameters_contain_no_password(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Execution.parse(values)
    assert "lovelace" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["https://ada:lovelace@mlflow.example.org", "postgresql://ada:love/lace@db.example.org/mlflow"],
)
def test_the_password_of_a_tracking_uri_stays_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    execution = execution_from_environment()
    assert "love" not in execution.model_dump_json()
    assert "love" not in str(parameters("pipeline", recipe("tiny"), execution))
    assert execution.resolved_tracking_uri == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="no password"):
        _ = execution.resolved_tracking_uri


def test_a_recipe_without_corpora_is_deployed_without_the_flows_that_need_them() -> None:
    created = deployments("16b", recipe("16b"), Execution(), {"evaluate-model": "0 6 * * *"}, "UTC")
    names = {deployment.full_name for deployment in created}
    assert names == {"evaluate-model/16b", "promote-version/16b", "rollback/16b"}
    omitted = {"pipeline", "refresh-data", "train-stage", "follow-training"}
    assert flows_without_corpora(recipe("16b")) == omitted
    assert flows_without_corpora(recipe("tiny")) == set()
    with pytest.raises(ConfigError, match="codegen-16b names no sources"):
        deployments("16b", recipe("16b"), Execution(), {"pipeline": "0 1 * * 6"}, "UTC")


def test_prefect_yaml_is_not_deployed_for_a_recipe_without_corpora() -> None:
    with pytest.raises(ConfigError, match="codegen-350m names no sources"):
        prefect_yaml_build_step("350m")


def _render(value: Any, template_values: dict[str, Any]) -> Any:
    """Replace Prefect's template `{{ values.NAME }}`."""
    if isinstance(value, dict):
        return {key: _render(item, template_values) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("{{ values."):
        return template_values[value.removeprefix("{{ values.").removesuffix(" }}")]
    return value
