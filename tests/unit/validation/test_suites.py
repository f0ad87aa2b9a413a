"""Suites are files that people edit: a mistake in one is an error, never a rule that silently does not apply."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora_on_disk import SMALL, Prepared, records, write_raw

from components.core.errors import ConfigError, ValidationFailedError
from components.validation.config import ValidationConfig
from components.validation.prepared import read_figures, validate_prepared
from components.validation.raw import read_profiles, validate_raw
from components.validation.suite_files import SUITES, SuiteFile, copy_suites, identity
from components.validation.suites import load_suite, read_suites
from components.validation.tables import SUITE_TABLES

GOOD: dict[str, Any] = {
    "description": "Numbers are at most {limit:,}, in {places}",
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "number", "max_value": {"$PARAMETER": "limit"}},
}
PARAMETERS = {"limit": 1000, "places": ["a", "b"]}
COLUMNS = ("number", "name")


def written(folder: Path, *rules: Any, name: str = "mine") -> SuiteFile:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "expectations": rules}))
    return SuiteFile(path, path.read_bytes())


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder of suites, as it was copied."""
    copy_suites(tmp_path / "rules")
    return tmp_path / "rules"


# -- one suite ---------------------------------------------------------------------------------------------------------


def test_descriptions_are_filled_in_and_parameters_kept(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, GOOD), "mine-nl", PARAMETERS, COLUMNS)
    assert suite.name == "mine-nl"
    assert [rule.description for rule in suite.expectations] == [
        "Numbers are at most 1,000, in a, b"
    ]
    assert suite.suite_parameter_options == ("limit",)


CONDITION = {"type": "comparison", "column": {"name": "nam"}, "operator": "==", "parameter": "x"}
PAIR = {"column_A": "number", "column_B": "nome"}
LIST = {"column_list": ["name", "nmber"], "sum_total": 3}
BETWEEN, BETWEN = "expect_column_values_to_be_between", "expect_column_values_to_be_betwen"
WRONG: dict[str, tuple[Any, str, str]] = {
    "type": ({**GOOD, "type": BETWEN}, f"of the type {BETWEN!r}, which is unknown", f"did you mean {BETWEEN!r}?"),
    "no type": ({"description": "Some", "kwargs": {"column": "number"}}, "of the type None, which is unknown", ""),
    "kwarg": ({**GOOD, "kwargs": {"column": "number", "maximum": 3}}, "maximum: extra fields not permitted", ""),
    "no column": ({**GOOD, "kwargs": {"max_value": 3}}, "column: field required", ""),
    "no kwargs": ({**GOOD, "kwargs": 5}, "kwargs must be a dict", ""),
    "column": (
        {**GOOD, "kwargs": {"column": "nunber", "max_value": 3}},
        "about the column 'nunber', which is unknown",
        "did you mean 'number'?",
    ),
    "second column": (
        {**GOOD, "type": "expect_column_pair_values_to_be_equal", "kwargs": PAIR},
        "the column 'nome'",
        "did you mean 'name'?",
    ),
    "column of a list": (
        {**GOOD, "type": "expect_multicolumn_sum_to_equal", "kwargs": LIST}, "the column 'nmber'", "did you mean 'number'?"
    ),
    "column of a condition": (
        {**GOOD, "kwargs": {"column": "number", "max_value": 3, "row_condition": CONDITION}},
        "about the column 'nam', which is unknown",
        "did you mean 'name'?",
    ),
    "parameter": (
        {**GOOD, "kwargs": {"column": "number", "max_value": {"$PARAMETER": "limt"}}},
        "with the parameter 'limt', which is unknown",
        "did you mean 'limit'?",
    ),
    "word": ({**GOOD, "description": "Numbers are at most {limt}"}, "cannot be filled in: KeyError: 'limt'", ""),
    "attribute": ({**GOOD, "description": "At most {limit.foo}"}, "cannot be filled in: AttributeError", ""),
    "brace": ({**GOOD, "description": "At most {limit"}, "cannot be filled in: ValueError", ""),
    "format": ({**GOOD, "description": "Numbers are at most {places:,}"}, "cannot be filled in: ValueError", ""),
    "field": ({**GOOD, "sverity": "critical"}, "unexpected keyword argument 'sverity'", ""),
    "severity": ({**GOOD, "severity": "fatal"}, "Invalid severity 'fatal'. Must be one of: critical, warning, info", ""),
    "no description": ({"type": BETWEEN, "kwargs": {"column": "number"}}, "a rule without a description in words", ""),
    "description": ({**GOOD, "description": 5}, "a rule without a description in words", ""),
    "no rule": ("no rule", 'a rule without a description in words: "no rule"', ""),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "got", "hint"), WRONG.values(), ids=WRONG)
def test_a_mistake_in_a_rule_is_an_error_of_three_lines_that_names_the_file(
    tmp_path: Path, wrong: Any, got: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path, GOOD, wrong)
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError) as error:
        load_suite(file, "mine", PARAMETERS, COLUMNS)
    assert error.value.got.startswith("the suite mine.json has a ")
    assert got in error.value.got
    assert error.value.fix == f"{hint} mend {file.path}".strip()
    assert len(str(error.value).splitlines()) == 3
    assert caplog.records == [], "Great Expectations would say it again, with a traceback"


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"expectations": 3}', b"\xff\xfe\x00", b""], ids=repr
)
def test_a_file_that_is_no_suite_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"the suite mine\.json is no suite: ") as error:
        load_suite(SuiteFile(tmp_path / "mine.json", content), "mine", PARAMETERS, COLUMNS)
    assert error.value.fix == f"mend {tmp_path / 'mine.json'}"


def test_every_rule_has_its_own_words() -> None:
    for path in SUITES.glob("*.json"):
        words = [rule["description"] for rule in json.loads(path.read_text())["expectations"]]
        assert len(words) == len(set(words)), path.name


# -- a folder of suites ------------------------------------------------------------------------------------------------


def test_the_package_has_every_suite_and_a_copy_reads_the_same(own: Path) -> None:
    package, copied = (
        read_suites(ValidationConfig()),
        read_suites(ValidationConfig(suites=str(own))),
    )
    assert set(package) == {path.stem for path in SUITES.glob("*.json")}
    assert {name: one.sha256 for name, one in copied.items()} == {
        name: one.sha256 for name, one in package.items()
    }
    assert {one.path.parent for one in copied.values()} == {own}


def test_a_relative_folder_starts_at_the_project(own: Path) -> None:
    suites = read_suites(ValidationConfig(suites="rules"), own.parent)
    assert {one.path.parent for one in suites.values()} == {own}


def test_a_copy_changes_nothing_that_is_there(own: Path) -> None:
    (own / "raw-drift.json").write_text("mine")
    (own / "raw-documents.json").unlink()
    assert copy_suites(own) == [own / "raw-documents.json"]
    assert (own / "raw-documents.json").read_bytes() == (SUITES / "raw-documents.json").read_bytes()
    assert (own / "raw-drift.json").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the suites cannot be copied to"):
        copy_suites(tmp_path / "file" / "rules")


def _rename(own: Path) -> None:
    (own / "raw-documents.json").rename(own / "raw-document.json")


def _spoil_the_last(own: Path) -> None:
    (own / "prepared-drift.json").write_text("{")


def _make_a_folder(own: Path) -> None:
    (own / "raw-drift.json").unlink()
    (own / "raw-drift.json").mkdir()


MISTAKES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "misspelt": (
        _rename,
        "no suite is called raw-document.json, which lies in {}",
        "did you mean 'raw-documents.json'? rename {}/raw-document.json",
    ),
    "missing": (
        lambda own: (own / "raw-drift.json").unlink(), "{} has no raw-drift.json", "`codegen data suites {}` copies what is"
    ),
    "broken": (_spoil_the_last, "the suite prepared-drift.json is no suite: JSONDecodeError", "mend {}/prepared-drift.json"),
    "a folder": (_make_a_folder, "the suite raw-drift.json cannot be read: Is a directory", "mend {}/raw-drift.json"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "got", "fix"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_folder_is_an_error(
    own: Path, spoil: Callable[[Path], object], got: str, fix: str
) -> None:
    spoil(own)
    with pytest.raises(ConfigError) as error:
        read_suites(ValidationConfig(suites=str(own)))
    assert error.value.got.startswith(got.format(own))
    assert error.value.fix.startswith(fix.format(own))


def test_a_folder_that_is_not_there_is_an_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"validation\.suites means .*/none, which is no folder"
    ) as error:
        read_suites(ValidationConfig(suites="none"), tmp_path)
    assert f"`codegen data suites {tmp_path / 'none'}`" in error.value.fix


# -- identity ----------------------------------------------------------------------------------------------------------


def test_identity_is_the_limits_and_the_content_of_the_suites_of_the_kind(own: Path) -> None:
    package, config = ValidationConfig(), ValidationConfig(suites=str(own))
    before = identity(package, "raw", read_suites(package))
    assert set(before["suites"]) == {"raw-documents", "raw-languages", "raw-drift"}  # type: ignore[arg-type]
    assert identity(config, "raw", read_suites(config)) == before, (
        "where the files lie decides nothing"
    )
    assert identity(package.replace(max_document_bytes=1), "raw", read_suites(package)) != before
    (own / "raw-drift.json").write_bytes((own / "raw-drift.json").read_bytes() + b"\n")
    assert identity(config, "raw", read_suites(config)) != before
    prepared = identity(config, "prepared", read_suites(config))
    assert prepared == identity(package, "prepared", read_suites(package)), (
        "an edit reruns what it is about"
    )


# -- held against data -------------------------------------------------------------------------------------------------


def judge_everything(folder: Path, config: ValidationConfig) -> None:
    """A raw corpus and a prepared one, each twice, so that drift is judged too."""
    corpus = write_raw(folder / "data", records())
    prepared = Prepared("nl", ("English",)).write(folder / "nl")
    for name in ("first", "second"):
        raw, packed = folder / name / "raw", folder / name / "prepared"
        before = folder / "first"
        validate_raw(
            raw,
            corpora={"nl": corpus},
            config=config,
            docs=folder / "docs",
            previous=read_profiles(before / "raw"),
        )
        validate_prepared(
            packed,
            prepared={"nl": prepared},
            config=config,
            docs=folder / "docs",
            previous=read_figures(before / "prepared"),
        )


def test_the_tables_have_the_columns_and_parameters_that_are_stated(
    own: Path, tmp_path: Path
) -> None:
    for name, table in SUITE_TABLES.items():
        exactly = {"column_set": list(table.columns), "exact_match": True}
        named = " ".join(f"{{{parameter}}}" for parameter in (*SMALL.limits, *table.parameters))
        written(
            own,
            {"description": named, "type": "expect_table_columns_to_match_set", "kwargs": exactly},
            name=name,
        )
    judge_everything(tmp_path, SMALL.replace(suites=str(own), drift="fail"))
    results = json.loads((tmp_path / "second" / "raw" / "results.json").read_text())
    results += json.loads((tmp_path / "second" / "prepared" / "results.json").read_text())
    assert {one["suite"]: one["success"] for one in results} == dict.fromkeys(SUITE_TABLES, True)


def test_a_suite_without_rules_judges_nothing(own: Path, tmp_path: Path) -> None:
    for name in SUITE_TABLES:
        written(own, name=name)
    judge_everything(tmp_path, SMALL.replace(suites=str(own)))
    assert json.loads((tmp_path / "second" / "raw" / "results.json").read_text()) == []


def test_a_rule_that_cannot_be_judged_is_a_mistake_in_the_suite_and_not_in_the_data(
    own: Path, tmp_path: Path
) -> None:
    rule = {
        "description": "English has documents",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "language", "min_value": 1},
    }
    file = written(own, rule, name="raw-languages")
    with pytest.raises(
        ConfigError, match=r"raw-languages\.json has a rule \(English has documents\) that cannot"
    ) as error:
        judge_everything(tmp_path, SMALL.replace(suites=str(own)))
    assert not isinstance(error.value, ValidationFailedError)
    assert "of the same type" in error.value.got
    assert "language, num_documents, size_bytes" in error.value.expected
    assert error.value.fix == f"mend {file.path}"
