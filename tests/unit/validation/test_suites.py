"""Suites are files that people edit: a mistake in one is an error, never a rule that silently does not apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.validation.config import ValidationConfig
from components.validation.suites import SUITES, identity, load_suite

GOOD: dict[str, Any] = {
    "description": "Numbers are at most {limit:,}, in {places}",
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "number", "max_value": {"$PARAMETER": "limit"}},
}
PARAMETERS = {"limit": 1000, "places": ["a", "b"]}


def written(folder: Path, rule: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps({"name": "mine", "expectations": [rule]}))
    return path


def test_descriptions_are_filled_in_and_parameters_kept(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, GOOD), "mine-nl", PARAMETERS)
    assert suite.name == "mine-nl"
    assert [rule.description for rule in suite.expectations] == ["Numbers are at most 1,000, in a, b"]
    assert suite.suite_parameter_options == ("limit",)


@pytest.mark.parametrize(
    "wrong",
    [
        {**GOOD, "type": "expect_column_values_to_be_betwen"},
        {**GOOD, "kwargs": {"column": "number", "maximum": 3}},
        {**GOOD, "kwargs": {"max_value": 3}},
        {**GOOD, "kwargs": {"column": "number", "max_value": {"$PARAMETER": "limt"}}},
        {**GOOD, "description": "Numbers are at most {limt}"},
        {**GOOD, "description": "Numbers are at most {places:,}"},
        {**GOOD, "sverity": "critical"},
        {"type": GOOD["type"], "kwargs": {"column": "number", "max_value": 3}},
        "no rule",
    ],
    ids=["type", "kwarg", "no column", "parameter", "word", "format", "field", "no description", "no rule"],
)
def test_a_mistake_in_a_rule_is_an_error_that_names_the_file(tmp_path: Path, wrong: Any) -> None:
    path = written(tmp_path, wrong)
    with pytest.raises(ConfigError, match=r"the suite mine\.json") as error:
        load_suite(path, "mine", PARAMETERS)
    assert str(path) in error.value.do


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"expectations": 3}'])
def test_a_file_that_is_no_suite_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"the suite mine\.json is no suite"):
        load_suite(path, "mine", PARAMETERS)


def test_every_rule_has_its_own_words() -> None:
    for path in SUITES.glob("*.json"):
        words = [rule["description"] for rule in json.loads(path.read_text())["expectations"]]
        assert len(words) == len(set(words)), path.name


def test_identity_is_the_limits_and_the_suites_of_the_kind() -> None:
    config = ValidationConfig()
    assert set(identity(config, "raw")["suites"]) == {"raw-documents", "raw-languages", "raw-drift"}  # type: ignore[arg-type]
    assert identity(config, "raw") != identity(config.replace(max_document_bytes=1), "raw")
    assert identity(config, "raw") != identity(config, "prepared")
