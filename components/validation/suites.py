"""Suites: the rules, as files that a person can read and edit.

A file is a Great Expectations suite in Great Expectations' own JSON, with one addition: a `description`, which is the rule
in words, may quote the limits (`{max_document_bytes:,}`). It heads the rule in Data Docs and in errors. A rule with
`"severity": "warning"` is shown where it is broken, and stops nothing.

Design decision: everything is checked strictly here, and before the first document is read, so that a mistake in the last
suite does not show after hours: Great Expectations 1.24 only logs a rule that it cannot build, and a rule that is skipped
looks like a rule that holds. What is not covered: where the files lie (`suite_files`).
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

from components.validation.config import ValidationConfig
from components.validation.suite_files import (
    SuiteFile,
    Suites,
    broken_suite,
    closest_match,
    read_files,
)
from components.validation.tables import EXAMPLES, SUITE_TABLES

CODE_VERSION = 3
"""Raised when the same suites and limits would judge the same data otherwise."""

_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")
"""Arguments by which the rules of Great Expectations name columns."""
_MAX_QUOTED = 100
"""Characters of a rule that an error quotes (assumption: enough to find it)."""


def read_suites(config: ValidationConfig, project: Path | None = None) -> Suites:
    """The suites of a recipe, each checked as far as that needs no data; see `suite_files.read_files`.

    Raises:
        ConfigError: a file is missing or has a name that is none, or a suite cannot be understood.
    """
    suites = read_files(config, project)
    for name, suite in suites.items():
        examples = {parameter: EXAMPLES[parameter] for parameter in SUITE_TABLES[name].parameters}
        load_suite(suite, name, {**config.limits, **examples}, SUITE_TABLES[name].columns)
    return suites


def load_suite(
    file: SuiteFile, name: str, parameters: Mapping[str, JsonValue], columns: Collection[str]
) -> gx.ExpectationSuite:
    """The suite in a file, under another name, its descriptions filled in with `parameters`.

    Raises:
        ConfigError: the file is no suite, or holds a rule that cannot be understood, or that is about a column which is
            none of the table's `columns`.
    """
    try:
        document = json.loads(file.content)
        rules = list(document["expectations"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken_suite(file.path, f"is no suite: {type(error).__name__}: {error}") from error
    expectations = [_rule(file.path, rule, parameters, columns) for rule in rules]
    return gx.ExpectationSuite(name=name, notes=document.get("notes"), expectations=expectations)


def parameters_of(value: Any) -> list[str]:
    """The names of the parameters that an expectation's arguments refer to."""
    if isinstance(value, Mapping):
        own = [value["$PARAMETER"]] if "$PARAMETER" in value else []
        return own + [name for item in value.values() for name in parameters_of(item)]
    return (
        [name for item in value for name in parameters_of(item)] if isinstance(value, list) else []
    )


def _rule(
    path: Path, rule: Any, parameters: Mapping[str, JsonValue], columns: Collection[str]
) -> Any:
    """The rule as Great Expectations' own object, its words filled in."""
    if not isinstance(rule, dict) or not isinstance(words := rule.get("description"), str):
        raise broken_suite(
            path, f"has a rule without a description in words: {json.dumps(rule)[:_MAX_QUOTED]}"
        )
    this, named = f"has a rule ({words})", parameters_of(rule)
    for kind, given, known in (
        ("of the type", [rule.get("type")], list_registered_expectation_implementations()),
        ("with the parameter", named, list(parameters)),
        ("about the column", _columns_of(rule.get("kwargs")), columns),
    ):
        if unknown := [name for name in given if name not in known]:
            expected = f"one of {', '.join(known)}"
            raise broken_suite(
                path,
                f"{this} {kind} {unknown[0]!r}, which is unknown",
                expected,
                closest_match(unknown[0], known),
            )
    description = _fill(path, words, parameters)
    # A limit that was applied where documents were counted stands in the words alone.
    settings = [*named, *(name for _, name, _, _ in Formatter().parse(words) if name)]
    try:
        filled = {**rule, "description": description, "meta": {"settings": settings}}
        return ExpectationConfiguration(**filled).to_domain_obj()
    except (GreatExpectationsError, ValueError, AttributeError, TypeError) as error:
        raise broken_suite(
            path, f"{this} that cannot be understood: {_in_one_line(error)}"
        ) from error


def _columns_of(value: Any) -> list[str]:
    """The columns that a rule's arguments name, those of a condition on rows (`"column": {"name": ...}`) included."""
    if not isinstance(value, Mapping):
        return (
            [name for item in value for name in _columns_of(item)]
            if isinstance(value, list)
            else []
        )
    found: list[Any] = []
    for argument, item in value.items():
        if argument not in _COLUMN_ARGUMENTS:
            found += _columns_of(item)
        else:
            found += (
                item
                if isinstance(item, list)
                else [item.get("name") if isinstance(item, Mapping) else item]
            )
    return [name for name in found if isinstance(name, str)]


def _fill(path: Path, words: str, parameters: Mapping[str, JsonValue]) -> str:
    shown = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    try:
        return words.format_map(shown)
    except (KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise broken_suite(
            path,
            f"has a description ({words}) that cannot be filled in: {type(error).__name__}: {error}",
            f"in braces, one of {', '.join(parameters)}, with a format that fits its value",
        ) from error


def _in_one_line(error: Exception) -> str:
    """What is wrong, without the lines and the types of pydantic's report."""
    if isinstance(error, gx_pydantic.ValidationError):
        found = ((".".join(str(part) for part in one["loc"]), one["msg"]) for one in error.errors())
        return "; ".join(
            dict.fromkeys(
                message if place == "__root__" else f"{place}: {message}"
                for place, message in found
            )
        )
    return " ".join(str(error).split())
