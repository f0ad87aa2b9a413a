"""Every rule about raw corpora, seen to hold on good data and to break on data that breaks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpora_on_disk import SMALL, Record, records, write_raw

from components.core.errors import ConfigError, RecordError, ValidationFailedError
from components.data.sources.corpus_files import SCHEMA
from components.validation.config import ValidationConfig
from components.validation.profile import Limits, Profile, profile_corpus
from components.validation.raw import read_profiles, validate_raw
from components.validation.suite_files import copy_suites

SIX = ("C", "C++", "Go", "Java", "JavaScript", "Python")


def validate(
    folder: Path, content: list[Record], corpus: str = "nl", config: ValidationConfig = SMALL
) -> dict[str, Any]:
    corpora = {corpus: write_raw(folder / "data" / corpus, content)}
    return validate_raw(folder / "artifact", corpora=corpora, config=config, docs=folder / "docs")


def outcomes_in(folder: Path) -> list[dict[str, Any]]:
    outcomes: list[dict[str, Any]] = json.loads((folder / "artifact" / "results.json").read_text())
    return outcomes


def test_good_corpora_pass_and_are_counted(tmp_path: Path) -> None:
    code = [record for language in SIX for record in records(language, num=2)]
    corpora = {
        "nl": write_raw(tmp_path / "nl", records()),
        "multi": write_raw(tmp_path / "multi", code),
    }
    statistics = validate_raw(
        tmp_path / "artifact", corpora=corpora, config=SMALL, docs=tmp_path / "docs"
    )
    size = len(b"A line of text.\nAnd number 0.\n")
    assert statistics["corpora"] == {
        "nl": {"English": {"documents": 4, "bytes": 4 * size}},
        "multi": {language: {"documents": 2, "bytes": 2 * size} for language in SIX},
    }
    outcomes = outcomes_in(tmp_path)
    judged = [one for one in outcomes if one["suite"] != "raw-drift"]
    assert statistics["num_expectations"] == statistics["num_passed"] == len(judged)
    assert {(one["suite"], one["subject"]) for one in judged} == {
        (suite, corpus)
        for suite in ("raw-documents", "raw-languages")
        for corpus in ("nl", "multi")
    }
    assert all(one["success"] for one in judged)


SPOILT = {
    0: {"text": "\x1b" * 2 + "x" * 98},
    1: {"language": "Klingon"},
    2: {"text": ""},
    3: {"text": " \n\t\r\n"},
    4: {"text": "\ufffd" * 3 + "x" * 97},
    5: {"text": "é" * 501},
    6: {"license": ""},
    7: {"path": ""},
    8: {"source": ""},
}
BROKEN = [
    ("one of English", 1, ["english 1.0/docs/1.txt (language = 'Klingon')"]),
    (
        "empty or white space",
        2,
        ["english 1.0/docs/2.txt (num_chars = 0)", "english 1.0/docs/3.txt (num_chars = 5)"],
    ),
    ("larger than 1,000 bytes", 1, ["english 1.0/docs/5.txt (num_bytes = 1,002)"]),
    ("binary content, more than 1.00%", 1, ["english 1.0/docs/0.txt (control_fraction = 0.02)"]),
    ("not decoded, more than 1.00%", 1, ["english 1.0/docs/4.txt (replacement_fraction = 0.03)"]),
    ("No license is empty", 1, ["english 1.0/docs/6.txt (license = '')"]),
    ("No path is empty", 1, ["english 1.0/"]),
    ("No source is empty", 1, ["/docs/8.txt"]),
]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ValidationFailedError]:
    """One corpus that breaks many rules, each by known documents, and the error that came of it."""
    folder = tmp_path_factory.mktemp("spoilt")
    content = records(num=12)
    for number, values in SPOILT.items():
        content[number].update(values)
    with pytest.raises(ValidationFailedError) as error:
        validate(folder, content, config=SMALL.replace(max_blank_documents=0.1))
    return folder, error.value


@pytest.mark.parametrize(("rule", "num", "examples"), BROKEN, ids=[rule for rule, _, _ in BROKEN])
def test_a_broken_rule_has_its_count_and_examples(
    spoilt: tuple[Path, ValidationFailedError], rule: str, num: int, examples: list[str]
) -> None:
    outcome = next(one for one in outcomes_in(spoilt[0]) if rule in one["rule"])
    assert not outcome["success"]
    assert (outcome["num_unexpected"], outcome["num_rows"]) == (num, 12)
    assert outcome["examples"] == examples


def test_only_the_broken_rules_are_broken(spoilt: tuple[Path, ValidationFailedError]) -> None:
    assert sum(one["success"] is False for one in outcomes_in(spoilt[0])) == len(BROKEN)


def test_the_error_names_rules_counts_examples_and_the_page(
    spoilt: tuple[Path, ValidationFailedError],
) -> None:
    error = spoilt[1]
    assert "raw corpora: 8 of 15 rules are broken" in error.got
    assert (
        "nl: The language of every document is one of English: broken by 1 of 12 documents, such as "
        "english 1.0/docs/1.txt (language = 'Klingon')" in error.got
    )
    assert "and 3 more" in error.got
    page = Path(error.fix.removeprefix("open ").split(" to see")[0])
    text = page.read_text(encoding="utf-8")
    assert all(rule in text for rule, _, _ in BROKEN)
    assert "docs/5.txt" in text


def test_values_that_are_missing_are_named(tmp_path: Path) -> None:
    # The reader of JSON Lines refuses nulls by itself; the suite holds for whatever makes a profile.
    content = records(num=8)
    for number, name in enumerate(["language", "license", "path", "source", "text"]):
        content[number][name] = None
    with pytest.raises(ValidationFailedError) as error:
        validate_raw(
            tmp_path / "artifact", profiles={"nl": profile_of(content)}, config=SMALL, docs=tmp_path
        )
    assert "5 of 15 rules" in error.value.got
    assert (
        "nl: Every document has a text: broken by 1 of 8 documents, such as english 1.0/docs/4.txt\n"
        in error.value.got
    )
    for name in ("language", "license", "path", "source"):
        assert f"nl: Every document names its {name}: broken by 1 of 8 documents" in error.value.got


def profile_of(content: list[Record], config: ValidationConfig = SMALL) -> Profile:
    return profile_corpus(
        pa.Table.from_pylist(content, schema=SCHEMA).to_batches(), Limits.of("nl", config)
    )


def test_a_profile_is_judged_like_the_corpus_that_it_was_made_of(tmp_path: Path) -> None:
    content = records(num=9)
    content[3]["text"], content[5]["path"] = " ", ""
    for name in ("corpora", "profiles"):
        given = {
            "nl": write_raw(tmp_path / "data", content)
            if name == "corpora"
            else profile_of(content)
        }
        with pytest.raises(ValidationFailedError):
            validate_raw(tmp_path / name, **{name: given}, config=SMALL, docs=tmp_path / "docs")  # type: ignore[arg-type]
    for file in ("results.json", "profile.json"):
        assert (tmp_path / "corpora" / file).read_bytes() == (
            tmp_path / "profiles" / file
        ).read_bytes()
    assert read_profiles(tmp_path / "profiles") == {"nl": profile_of(content)}


def test_a_profile_under_other_limits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the profile of nl was made under the limits"):
        validate_raw(
            tmp_path,
            profiles={"nl": profile_of(records(), SMALL.replace(max_document_bytes=7))},
            config=SMALL,
            docs=tmp_path,
        )


def test_a_suite_that_a_user_edited_is_what_the_corpus_is_held_against(tmp_path: Path) -> None:
    copy_suites(tmp_path / "suites")
    own = SMALL.replace(suites=str(tmp_path / "suites"))
    path = tmp_path / "suites" / "raw-languages.json"
    suite = json.loads(path.read_text())
    rule = {
        "description": "Half of the documents are below 32 bytes",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "half_are_below_bytes", "max_value": 32},
    }
    several = {
        "description": "One blank document is fine, two are shown, and name {max_document_bytes:,}",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "num_blank_text", "max_value": 1},
        "severity": "warning",
    }
    path.write_text(json.dumps({**suite, "expectations": [*suite["expectations"], rule]}))
    documents = json.loads((tmp_path / "suites" / "raw-documents.json").read_text())
    others = [one for one in documents["expectations"] if "blank" not in one["kwargs"]["column"]]
    (tmp_path / "suites" / "raw-documents.json").write_text(
        json.dumps({**documents, "expectations": [*others, several]})
    )
    content = records(num=9)  # of 30 bytes each
    content[3]["text"] = " "
    assert validate(tmp_path / "one", content, config=own)["warnings"] == []
    content[4]["text"] = "\t"
    warnings = validate(tmp_path / "two", content, config=own)["warnings"]
    assert [one.partition("two are shown, and name 1,000: ")[2] for one in warnings] == [
        "broken by 2 of 9 documents, such as english 1.0/docs/3.txt (num_chars = 1); english 1.0/docs/4.txt (num_chars = 1)"
    ]
    for record in content[:6]:
        record["text"] = "x" * 40
    with pytest.raises(
        ValidationFailedError,
        match=r"below 32 bytes: broken by 1 of 1 languages, such as English \(half_are_below_bytes = 64\)",
    ):
        validate(tmp_path / "three", content, config=own)


def test_too_few_documents_are_counted(tmp_path: Path) -> None:
    with pytest.raises(
        ValidationFailedError, match="nl: The corpus has at least 3 documents: found 2"
    ):
        validate(tmp_path, records(num=2))


def test_languages_with_too_few_documents_or_none_are_named(tmp_path: Path) -> None:
    content = [
        record
        for language in SIX
        if language != "C++"
        for record in records(language, num=1 if language == "Go" else 2)
    ]
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, content, "multi")
    assert (
        "multi: Every language has at least 2 documents: broken by 2 of 6 languages"
        in error.value.got
    )
    assert "such as C++ (num_documents = 0); Go (num_documents = 1)" in error.value.got


def test_counts_are_over_all_documents_and_examples_are_three(tmp_path: Path) -> None:
    content = records(num=2000)
    for record in content[500:]:
        record["language"] = "Klingon"
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, content)
    line = next(line for line in error.value.got.splitlines() if "one of English" in line)
    assert "1,500 of 2,000 documents" in line
    assert line.count("Klingon") == 3


def test_the_setting_that_moves_a_limit_is_named_and_moves_it(tmp_path: Path) -> None:
    content = records()
    content[0]["text"] = "x" * 5000
    with pytest.raises(ValidationFailedError, match=r"change validation\.max_document_bytes"):
        validate(tmp_path, content)
    validate(tmp_path, content, config=SMALL.replace(max_document_bytes=5000))


UNFIT = {
    "blank": " \n",
    "large": "x" * 1001,
    "binary": "\x1b" * 2 + "x" * 98,
    "undecoded": "\ufffd" * 3 + "x" * 97,
}


@pytest.mark.parametrize("name", UNFIT)
def test_some_documents_may_be_unfit_where_the_recipe_says_how_many(
    tmp_path: Path, name: str
) -> None:
    content = records(num=8)
    content[0]["text"] = content[5]["text"] = UNFIT[name]
    field = f"max_{name}_documents"
    assert (
        validate(tmp_path / "some", content, config=SMALL.replace(**{field: 0.25}))["warnings"]
        == []
    )
    with pytest.raises(
        ValidationFailedError, match=r"1 of 15 rules .* broken\n.* broken by 2 of 8 documents"
    ) as error:
        validate(tmp_path / "too-many", content, config=SMALL.replace(**{field: 0.24}))
    assert f"validation.{field}" in error.value.fix


def test_empty_init_files_of_a_checkout_stop_nothing(tmp_path: Path) -> None:
    content = records(num=20)
    content[7].update(path="package/__init__.py", text="")
    content[8].update(path="package/tests/__init__.py", text="")
    assert validate(tmp_path, content)["warnings"] == []


def test_binary_content_does_not_get_past_the_reader(tmp_path: Path) -> None:
    content = records()
    content[2]["text"] = "\x7fELF\0\0"
    with pytest.raises(RecordError, match=r"package-1\.0\.jsonl:3"):
        validate(tmp_path, content)


def test_an_unknown_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'poems'"):
        validate(tmp_path, records(), "poems")
