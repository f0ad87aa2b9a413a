"""Suites: the rules, as files that a person can read and edit.

A file is a Great Expectations suite in Great Expectations' own JSON, with one addition: a `description`, which is the rule
in words, may quote the limits (`{max_document_bytes:,}`). It heads the rule in Data Docs and in errors. A rule with
`"severity": "warning"` is shown where it is broken, and stops nothing.

Design decision: a file is checked strictly here, since Great Expectations 1.24 only logs an expectation that it cannot
build and goes on without it, and a rule that is skipped looks like a rule that holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

import great_expectations as gx
from great_expectations.exceptions import GreatExpectationsError
from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.fingerprint import sha256_file
from components.validation.config import ValidationConfig

SUITES = Path(__file__).parent / "suites"

CODE_VERSION = 2
"""Raised when the same suites and limits would judge the same data otherwise."""


def identity(config: ValidationConfig, prefix: str) -> dict[str, JsonValue]:
    """What decides the outcome of validation, besides the data: the limits, and the suites named `prefix`-something."""
    suites: dict[str, JsonValue] = {path.stem: sha256_file(path) for path in sorted(SUITES.glob(f"{prefix}-*.json"))}
    return {"limits": config.model_dump(mode="json"), "suites": suites}


def load_suite(path: Path, name: str, parameters: Mapping[str, JsonValue]) -> gx.ExpectationSuite:
    """The suite in a file, under another name, its descriptions filled in with `parameters`.

    Raises:
        ConfigError: the file is no suite, or a rule in it is one that Great Expectations or we cannot understand.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rules = [_rule(path, rule, parameters) for rule in document["expectations"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise _broken(path, f"is no suite: {error!r}") from error
    return gx.ExpectationSuite(name=name, notes=document.get("notes"), expectations=rules)


def parameters_of(rule: Any) -> list[str]:
    """The names of the parameters that an expectation's arguments refer to."""
    if isinstance(rule, Mapping):
        own = [rule["$PARAMETER"]] if "$PARAMETER" in rule else []
        return own + [name for value in rule.values() for name in parameters_of(value)]
    return [name for value in rule for name in parameters_of(value)] if isinstance(rule, list) else []


def _rule(path: Path, rule: dict[str, Any], parameters: Mapping[str, JsonValue]) -> dict[str, Any]:
    words = rule["description"]
    if unknown := [name for name in parameters_of(rule) if name not in parameters]:
        raise _broken(
            path, f"has a rule ({words}) with the unknown parameter {unknown[0]!r}; known: {', '.join(parameters)}"
        )
    description = _fill(path, words, parameters)
    # A limit that was applied where documents were counted stands in the words alone.
    settings = [*parameters_of(rule), *(name for _, name, _, _ in Formatter().parse(words) if name)]
    rule = {**rule, "description": description, "meta": {"settings": settings}}
    try:
        if len(gx.ExpectationSuite(name="one", expectations=[rule]).expectations) == 1:
            return rule
        problem = f"Great Expectations cannot build {rule.get('type')!r} from {rule.get('kwargs')!r}"
    except (GreatExpectationsError, ValueError, AttributeError, TypeError) as error:
        problem = str(error)
    raise _broken(path, f"has a rule ({words}) that cannot be understood: {problem}")


def _fill(path: Path, words: str, parameters: Mapping[str, JsonValue]) -> str:
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in parameters.items()}
    try:
        return words.format_map(shown)
    except (KeyError, ValueError) as error:
        raise _broken(path, f"has a description ({words}) that cannot be filled in: {error!r}") from None


def _broken(path: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"the suite {path.name} {problem}",
        expected="a Great Expectations suite whose rules each have a type, kwargs and a description",
        do=f"mend {path}",
    )
