"""Suites are edited by users: a mistake is an error, never a silently skipped rule."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus_files_on_disk import SMALL, Prepared, records, write_raw

from components.core.errors import ConfigError, ValidationFailedError
from components.data.config import DataConfig
from components.validation.config import ValidationConfig
from components.validation.prepared import read_metrics, validate_prepared
from components.validation.raw import read_profiles, validate_raw
from components.validation.suite_files import (
    PACKAGE_SUITES,
    SUITE_TABLES,
    SuiteFile,
    copy_suites,
    validation_identity,
)
from components.validation.suites import load_suite, read_suites

VALID_RULE: dict[str, Any] = {
    "description": "Numbers are at most {limit:,}, in {places}",
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "number", "max_value": {"$PARAMETER": "limit"}},
}
PARAMETERS = {"limit": 1000, "places": ["a", "b"]}
COLUMNS = ("number", "name")


def write_suite(folder: Path, *rules: Any, name: str = "mine") -> SuiteFile:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "expectations": rules}))
    return SuiteFile(path, path.read_bytes())


@pytest.fixture
def user_suites(tmp_path: Path) -> Path:
    """A user's folder with copied suites."""
    copy_suites(tmp_path / "rules")
    return tmp_path / "rules"


# -- a suite


def test_parameters_and_descriptions_are_filled_in_and_parameters_are_listed(
    tmp_path: Path,
) -> None:
    suite = load_suite(write_suite(tmp_path, VALID_RULE), "mine-nl", PARAMETERS, COLUMNS)
    assert suite.name == "mine-nl"
    assert [rule.description for rule in suite.expectations] == [
        "Numbers are at most 1,000, in a, b"
    ]
    assert [rule.max_value for rule in suite.expectations] == [1000]
    assert [rule.meta["parameters"] for rule in suite.expectations] == [
        ["limit", "limit", "places"]
    ]


CONDITION = {"type": "comparison", "column": {"name": "nam"}, "operator": "==", "parameter": "x"}
PAIR = {"column_A": "number", "column_B": "nome"}
LIST = {"column_list": ["name", "nmber"], "sum_total": 3}
BETWEEN, BETWEN = "expect_column_values_to_be_between", "expect_column_values_to_be_betwen"
INVALID_RULES: dict[str, tuple[Any, str, str]] = {
    "type": (
        {**VALID_RULE, "type": BETWEN},
        f"of the type {BETWEN!r}, which is unknown",
        f"did you mean {BETWEEN!r}?",
    ),
    "no type": (
        {"description": "Some", "kwargs": {"column": "number"}},
        "of the type None, which is unknown",
        "",
    ),
    "kwarg": (
        {**VALID_RULE, "kwargs": {"column": "number", "maximum": 3}},
        "maximum: extra fields not permitted",
        "",
    ),
    "no column": ({**VALID_RULE, "kwargs": {"max_value": 3}}, "column: field required", ""),
    "no kwargs": ({**VALID_RULE, "kwargs": 5}, "kwargs must be a dict", ""),
    "column": (
        {**VALID_RULE, "kwargs": {"column": "nunber", "max_value": 3}},
        "about the column 'nunber', which is unknown",
        "did you mean 'number'?",
    ),
    "second column": (
        {**VALID_RULE, "type": "expect_column_pair_values_to_be_equal", "kwargs": PAIR},
        "the column 'nome'",
        "did you mean 'name'?",
    ),
    "column of a list": (
        {**VALID_RULE, "type": "expect_multicolumn_sum_to_equal", "kwargs": LIST},
        "the column 'nmber'",
        "did you mean 'number'?",
    ),
    "column of a condition": (
        {**VALID_RULE, "kwargs": {"column": "number", "max_value": 3, "row_condition": CONDITION}},
        "about the column 'nam', which is unknown",
        "did you mean 'name'?",
    ),
    "parameter": (
        {**VALID_RULE, "kwargs": {"column": "number", "max_value": {"$PARAMETER": "limt"}}},
        "with the parameter 'limt', which is unknown",
        "did you mean 'limit'?",
    ),
    "word": (
        {**VALID_RULE, "description": "Numbers are at most {limt}"},
        "cannot be filled in: KeyError: 'limt'",
        "",
    ),
    "attribute": (
        {**VALID_RULE, "description": "At most {limit.foo}"},
        "cannot be filled in: AttributeError",
        "",
    ),
    "brace": (
        {**VALID_RULE, "description": "At most {limit"},
        "cannot be filled in: ValueError",
        "",
    ),
    "format": (
        {**VALID_RULE, "description": "Numbers are at most {places:,}"},
        "cannot be filled in: ValueError",
        "",
    ),
    "field": ({**VALID_RULE, "sverity": "critical"}, "unexpected keyword argument 'sverity'", ""),
    "severity": (
        {**VALID_RULE, "severity": "fatal"},
        "Invalid severity 'fatal'. Must be one of: critical, warning, info",
        "",
    ),
    "no description": (
        {"type": BETWEEN, "kwargs": {"column": "number"}},
        "a rule without a description",
        "",
    ),
    "description": ({**VALID_RULE, "description": 5}, "a rule without a description", ""),
    "no rule": ("no rule", 'a rule without a description: "no rule"', ""),
}


@pytest.mark.parametrize(("rule", "got", "hint"), INVALID_RULES.values(), ids=INVALID_RULES)
def test_an_invalid_rule_is_an_error_that_names_the_file(
    tmp_path: Path, rule: Any, got: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_suite(tmp_path, VALID_RULE, rule)
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError) as error:
        load_suite(file, "mine", PARAMETERS, COLUMNS)
    assert error.value.got.startswith("the suite mine.json has a ")
    assert got in error.value.got
    assert error.value.fix == f"{hint} correct {file.path}".strip()
    assert len(str(error.value).splitlines()) == 3
    assert caplog.records == [], "Great Expectations must not log it again"


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"expectations": 3}', b"\xff\xfe\x00", b"", b"[" * 100_000],
    ids=lambda content: repr(content[:30]),
)
def test_a_file_that_is_not_a_suite_is_an_error_that_names_it(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(ConfigError, match=r"the suite mine\.json is not a suite: ") as error:
        load_suite(SuiteFile(tmp_path / "mine.json", content), "mine", PARAMETERS, COLUMNS)
    assert error.value.fix == f"correct {tmp_path / 'mine.json'}"


def test_descriptions_are_unique_in_a_suite() -> None:
    for path in PACKAGE_SUITES.glob("*.json"):
        rules = json.loads(path.read_text())["expectations"]
        descriptions = {rule["description"] for rule in rules}
        assert len(descriptions) == len(rules), path.name


# -- a folder of suites


def test_copied_suites_equal_those_of_the_package(user_suites: Path) -> None:
    package = read_suites(ValidationConfig())
    copied = read_suites(ValidationConfig(suites=str(user_suites)))
    assert set(package) == {path.stem for path in PACKAGE_SUITES.glob("*.json")}
    assert {name: file.content for name, file in copied.items()} == {
        name: file.content for name, file in package.items()
    }
    assert {file.path.parent for file in copied.values()} == {user_suites}


def test_a_relative_folder_is_relative_to_the_project(user_suites: Path) -> None:
    suites = read_suites(ValidationConfig(suites="rules"), user_suites.parent)
    assert {file.path.parent for file in suites.values()} == {user_suites}


def test_copying_does_not_overwrite_files(user_suites: Path) -> None:
    (user_suites / "raw-drift.json").write_text("mine")
    (user_suites / "raw-documents.json").unlink()
    assert copy_suites(user_suites) == [user_suites / "raw-documents.json"]
    assert (user_suites / "raw-documents.json").read_bytes() == (
        PACKAGE_SUITES / "raw-documents.json"
    ).read_bytes()
    assert (user_suites / "raw-drift.json").read_text() == "mine"


def test_an_impossible_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the suites cannot be copied to"):
        copy_suites(tmp_path / "file" / "rules")


def _rename(user_suites: Path) -> None:
    (user_suites / "raw-documents.json").rename(user_suites / "raw-document.json")


def _damage_last(user_suites: Path) -> None:
    (user_suites / "prepared-drift.json").write_text("{")


def _replace_by_folder(user_suites: Path) -> None:
    (user_suites / "raw-drift.json").unlink()
    (user_suites / "raw-drift.json").mkdir()


MISTAKES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "misspelt": (
        _rename,
        "raw-document.json in {} is not a suite",
        "did you mean 'raw-documents.json'? rename {}/raw-document.json",
    ),
    "missing": (
        lambda user_suites: (user_suites / "raw-drift.json").unlink(),
        "{} has no raw-drift.json",
        "`codegen data suites {}` copies missing suites",
    ),
    "broken": (
        _damage_last,
        "the suite prepared-drift.json is not a suite: JSONDecodeError",
        "correct {}/prepared-drift.json",
    ),
    "a folder": (
        _replace_by_folder,
        "the suite raw-drift.json cannot be read: Is a directory",
        "correct {}/raw-drift.json",
    ),
}


@pytest.mark.parametrize(("damage", "got", "fix"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_folder_is_an_error(
    user_suites: Path, damage: Callable[[Path], object], got: str, fix: str
) -> None:
    damage(user_suites)
    with pytest.raises(ConfigError) as error:
        read_suites(ValidationConfig(suites=str(user_suites)))
    assert error.value.got.startswith(got.format(user_suites))
    assert error.value.fix.startswith(fix.format(user_suites))


def test_the_error_for_a_missing_folder_has_the_command_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"validation\.suites is .*/none, which is not a folder"
    ) as error:
        read_suites(ValidationConfig(suites="none"), tmp_path)
    assert f"`codegen data suites {tmp_path / 'none'}`" in error.value.fix


# -- identity


def test_the_identity_is_limits_and_suite_contents_of_a_kind(user_suites: Path) -> None:
    package = ValidationConfig()
    config = ValidationConfig(suites=str(user_suites))
    identity = validation_identity(package, "raw", read_suites(package))
    assert set(identity["suites"]) == {"raw-documents", "raw-languages", "raw-drift"}  # type: ignore[arg-type]
    assert validation_identity(config, "raw", read_suites(config)) == identity, (
        "the location does not matter"
    )
    assert (
        validation_identity(package.replace(max_document_bytes=1), "raw", read_suites(package))
        != identity
    )
    (user_suites / "raw-drift.json").write_bytes(
        (user_suites / "raw-drift.json").read_bytes() + b"\n"
    )
    assert validation_identity(config, "raw", read_suites(config)) != identity
    prepared = validation_identity(config, "prepared", read_suites(config))
    assert prepared == validation_identity(package, "prepared", read_suites(package)), (
        "an edit of a raw suite does not affect prepared corpora"
    )


# -- suites and tables


def validate_twice(folder: Path, config: ValidationConfig) -> None:
    """Validate a raw and a prepared corpus twice, so that drift is checked, too."""
    corpus = write_raw(folder / "data", records())
    prepared = Prepared("nl", ("English",)).write(folder / "nl")
    for name in ("first", "second"):
        raw, packed = folder / name / "raw", folder / name / "prepared"
        validate_raw(
            raw,
            corpora={"nl": corpus},
            config=config,
            data=DataConfig(),
            gx_root=folder / "gx",
            previous=read_profiles(folder / "first" / "raw"),
        )
        validate_prepared(
            packed,
            prepared={"nl": prepared},
            config=config,
            data=DataConfig(),
            gx_root=folder / "gx",
            previous=read_metrics(folder / "first" / "prepared"),
        )


def test_tables_have_exactly_the_declared_columns_and_parameters(
    user_suites: Path, tmp_path: Path
) -> None:
    for name, table in SUITE_TABLES.items():
        columns = {"column_set": list(table.columns), "exact_match": True}
        description = " ".join(
            f"{{{parameter}}}" for parameter in (*SMALL.limits, *table.parameters)
        )
        write_suite(
            user_suites,
            {
                "description": description,
                "type": "expect_table_columns_to_match_set",
                "kwargs": columns,
            },
            name=name,
        )
    validate_twice(tmp_path, SMALL.replace(suites=str(user_suites), drift="fail"))
    results = json.loads((tmp_path / "second" / "raw" / "results.json").read_text())
    results += json.loads((tmp_path / "second" / "prepared" / "results.json").read_text())
    assert {result["suite"]: result["success"] for result in results} == dict.fromkeys(
        SUITE_TABLES, True
    )


def test_a_suite_without_rules_has_no_results(user_suites: Path, tmp_path: Path) -> None:
    for name in SUITE_TABLES:
        write_suite(user_suites, name=name)
    validate_twice(tmp_path, SMALL.replace(suites=str(user_suites)))
    assert json.loads((tmp_path / "second" / "raw" / "results.json").read_text()) == []


def test_a_rule_that_cannot_be_evaluated_is_an_error_of_the_suite(
    user_suites: Path, tmp_path: Path
) -> None:
    rule = {
        "description": "English has documents",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "language", "min_value": 1},
    }
    file = write_suite(user_suites, rule, name="raw-languages")
    with pytest.raises(
        ConfigError, match=r"raw-languages\.json has a rule \(English has documents\) that cannot"
    ) as error:
        validate_twice(tmp_path, SMALL.replace(suites=str(user_suites)))
    assert not isinstance(error.value, ValidationFailedError)
    assert "of the same type" in error.value.got
    assert "language, num_documents, size_bytes" in error.value.expected
    assert error.value.fix == f"correct {file.path}"
