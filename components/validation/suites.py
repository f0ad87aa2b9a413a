"""Parse suites: rule files that users can read and edit.

A file is a Great Expectations suite in its JSON format. In addition, each rule has a `description`,
which may quote limits (`{max_document_bytes:,}`) and is the rule's title in Data Docs and errors. A
rule with `"severity": "warning"` does not stop a run if it is broken. The built suite contains the
limits themselves, so Great Expectations can run it without the recipe.

All suites are checked strictly before the first document is read. Great Expectations 1.24 only logs
a rule that it cannot build, so a skipped rule would look like a rule that holds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

import great_expectations as gx
from great_expectations.compatibility import pydantic as gx_pydantic
from great_expectations.exceptions import GreatExpectationsError
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.expectations.registry import list_registered_expectation_implementations
from pydantic import JsonValue

from components.core.files import parse_json
from components.core.text import suggest_name
from components.validation.config import ValidationConfig
from components.validation.suite_files import (
    EXAMPLE_PARAMETERS,
    SUITE_TABLES,
    SuiteFile,
    Suites,
    invalid_suite,
    read_suite_files,
)

CODE_VERSION = 5
"""Raised if the same suites and limits would give other results for the same data."""

_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")
"""Arguments of Great Expectations' rules that name columns."""
_MAX_QUOTED_CHARS = 100
"""Characters of a rule that an error quotes (assumption: enough to find it)."""


def read_suites(config: ValidationConfig, project: Path | None = None) -> Suites:
    """Read the suites of a recipe (see `read_suite_files`) and check them without data."""
    suites = read_suite_files(config, project)
    for name, file in suites.items():
        table = SUITE_TABLES[name]
        parameters = {**config.limits, **{key: EXAMPLE_PARAMETERS[key] for key in table.parameters}}
        load_suite(file, name, parameters, table.columns)
    return suites


def load_suite(
    file: SuiteFile, name: str, parameters: Mapping[str, JsonValue], columns: Collection[str]
) -> gx.ExpectationSuite:
    """Build the suite of a file under another name, with parameters and descriptions filled in.

    Raises:
        ConfigError: the file is not a suite, or a rule is invalid or refers to an unknown column.
    """
    try:
        document = parse_json(file.content)
        rules = list(document["expectations"])
    except (KeyError, TypeError, ValueError) as error:
        raise invalid_suite(
            file.path, f"is not a suite: {type(error).__name__}: {error}"
        ) from error
    expectations = [_build_rule(file, rule, parameters, columns) for rule in rules]
    return gx.ExpectationSuite(
        name=name,
        notes=document.get("notes"),
        expectations=expectations,
        meta={"suite_file": str(file.path), "suite_sha256": file.sha256},
    )


def _build_rule(
    file: SuiteFile, rule: Any, parameters: Mapping[str, JsonValue], columns: Collection[str]
) -> Any:
    """Return Great Expectations' object for a rule."""
    path = file.path
    if not isinstance(rule, dict) or not isinstance(rule.get("description"), str):
        quoted = json.dumps(rule)[:_MAX_QUOTED_CHARS]
        raise invalid_suite(path, f"has a rule without a description: {quoted}")
    template = rule["description"]
    rule_name = f"has a rule ({template})"
    referenced = _find_parameters(rule)
    types = list_registered_expectation_implementations()
    _check_names(path, f"{rule_name} of the type", [rule.get("type")], types)
    _check_names(path, f"{rule_name} with the parameter", referenced, list(parameters))
    _check_names(path, f"{rule_name} about the column", _find_columns(rule.get("kwargs")), columns)
    description = _fill_description(path, template, parameters)
    # Limits that apply while documents are counted are only in the description.
    referenced += [name for _, name, _, _ in Formatter().parse(template) if name]
    try:
        # A result in Great Expectations' store contains its rules, but not the suite's meta.
        meta = {"parameters": referenced, "suite_sha256": file.sha256}
        kwargs = _insert_parameters(rule.get("kwargs"), parameters)
        filled = {**rule, "kwargs": kwargs, "description": description, "meta": meta}
        return ExpectationConfiguration(**filled).to_domain_obj()
    except (GreatExpectationsError, ValueError, AttributeError, TypeError) as error:
        raise invalid_suite(path, f"{rule_name} that is invalid: {_one_line(error)}") from error


def _check_names(path: Path, problem: str, names: list[Any], known_names: Collection[str]) -> None:
    for name in names:
        if name not in known_names:
            raise invalid_suite(
                path,
                f"{problem} {name!r}, which is unknown",
                f"one of {', '.join(known_names)}",
                suggest_name(name, known_names),
            )


def _find_parameters(value: Any) -> list[str]:
    """Return the names in `{"$PARAMETER": name}` anywhere in a rule."""
    names = []
    if isinstance(value, Mapping):
        if "$PARAMETER" in value:
            names.append(value["$PARAMETER"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            names += _find_parameters(item)
    return names


def _insert_parameters(value: Any, parameters: Mapping[str, JsonValue]) -> Any:
    """Replace each `{"$PARAMETER": name}` in a rule's arguments by its value."""
    if isinstance(value, list):
        return [_insert_parameters(item, parameters) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "$PARAMETER" in value:
        return parameters[value["$PARAMETER"]]
    return {name: _insert_parameters(item, parameters) for name, item in value.items()}


def _find_columns(value: Any) -> list[str]:
    """Return the columns in a rule's arguments, including those of row conditions.

    A row condition names a column as `"column": {"name": ...}`.
    """
    names: list[Any] = []
    if isinstance(value, list):
        for item in value:
            names += _find_columns(item)
    elif isinstance(value, Mapping):
        for argument, item in value.items():
            if argument not in _COLUMN_ARGUMENTS:
                names += _find_columns(item)
            elif isinstance(item, list):
                names += item
            else:
                names.append(item.get("name") if isinstance(item, Mapping) else item)
    return [name for name in names if isinstance(name, str)]


def _fill_description(path: Path, template: str, parameters: Mapping[str, JsonValue]) -> str:
    values = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    try:
        return template.format_map(values)
    except (KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise invalid_suite(
            path,
            f"has a description ({template}) that cannot be filled in: {reason}",
            f"in braces, one of {', '.join(parameters)}, with a format that fits its value",
        ) from error


def _one_line(error: Exception) -> str:
    """Return the message of an error without the line breaks and types of pydantic's report."""
    if not isinstance(error, gx_pydantic.ValidationError):
        return " ".join(str(error).split())
    messages = []
    for item in error.errors():
        location = ".".join(map(str, item["loc"]))
        message = item["msg"] if location == "__root__" else f"{location}: {item['msg']}"
        if message not in messages:
            messages.append(message)
    return "; ".join(messages)
