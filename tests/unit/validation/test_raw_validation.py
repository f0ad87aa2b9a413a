"""Every rule for raw corpora holds for valid data and is broken by invalid data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpus_files_on_disk import SMALL, Record, records, write_raw

from components.core.errors import ConfigError, RecordError, ValidationFailedError
from components.data.config import DataConfig
from components.data.sources.records import SCHEMA
from components.validation.config import ValidationConfig
from components.validation.profile import Profile, ProfileLimits, profile_corpus
from components.validation.raw import read_profiles, validate_raw
from components.validation.suite_files import copy_suites

SIX = ("C", "C++", "Go", "Java", "JavaScript", "Python")


def validate(
    folder: Path, content: list[Record], corpus: str = "nl", config: ValidationConfig = SMALL
) -> dict[str, Any]:
    corpora = {corpus: write_raw(folder / "data" / corpus, content)}
    return validate_raw(
        folder / "artifact",
        corpora=corpora,
        config=config,
        data=DataConfig(),
        gx_root=folder / "gx",
    )


def read_results(folder: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((folder / "artifact" / "results.json").read_text())
    return results


def test_valid_corpora_pass_and_are_counted(tmp_path: Path) -> None:
    code = [record for language in SIX for record in records(language, num=2)]
    corpora = {
        "nl": write_raw(tmp_path / "nl", records()),
        "multi": write_raw(tmp_path / "multi", code),
    }
    statistics = validate_raw(
        tmp_path / "artifact",
        corpora=corpora,
        config=SMALL,
        data=DataConfig(),
        gx_root=tmp_path / "gx",
    )
    size = len(b"A line of text.\nAnd number 0.\n")
    assert statistics["corpora"] == {
        "nl": {"English": {"documents": 4, "bytes": 4 * size}},
        "multi": {language: {"documents": 2, "bytes": 2 * size} for language in SIX},
    }
    results = [result for result in read_results(tmp_path) if result["suite"] != "raw-drift"]
    assert statistics["num_expectations"] == statistics["num_passed"] == len(results)
    assert {(result["suite"], result["subject"]) for result in results} == {
        (suite, corpus)
        for suite in ("raw-documents", "raw-languages")
        for corpus in ("nl", "multi")
    }
    assert all(result["success"] for result in results)


INVALID_VALUES = {
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
        "blank documents",
        2,
        ["english 1.0/docs/2.txt (num_chars = 0)", "english 1.0/docs/3.txt (num_chars = 5)"],
    ),
    ("larger than 1,000 bytes", 1, ["english 1.0/docs/5.txt (num_bytes = 1,002)"]),
    ("binary documents (more than 1.00%", 1, ["english 1.0/docs/0.txt (control_fraction = 0.02)"]),
    (
        "incorrectly decoded documents (more than 1.00%",
        1,
        ["english 1.0/docs/4.txt (replacement_fraction = 0.03)"],
    ),
    ("documents with an empty license", 1, ["english 1.0/docs/6.txt (license = '')"]),
    ("documents with an empty path", 1, ["english 1.0/"]),
    ("documents with an empty source", 1, ["/docs/8.txt"]),
]


@pytest.fixture(scope="module")
def invalid_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ValidationFailedError]:
    """A corpus that breaks many rules, each by known documents, and its error."""
    folder = tmp_path_factory.mktemp("invalid")
    content = records(num=12)
    for number, values in INVALID_VALUES.items():
        content[number].update(values)
    with pytest.raises(ValidationFailedError) as error:
        validate(folder, content, config=SMALL.replace(max_blank_fraction=0.1))
    return folder, error.value


@pytest.mark.parametrize(("rule", "num", "examples"), BROKEN, ids=[rule for rule, _, _ in BROKEN])
def test_a_broken_rule_has_its_count_and_examples(
    invalid_corpus: tuple[Path, ValidationFailedError], rule: str, num: int, examples: list[str]
) -> None:
    result = next(item for item in read_results(invalid_corpus[0]) if rule in item["rule"])
    assert not result["success"]
    assert (result["num_unexpected"], result["num_rows"]) == (num, 12)
    assert result["examples"] == examples


def test_no_other_rules_are_broken(invalid_corpus: tuple[Path, ValidationFailedError]) -> None:
    assert sum(result["success"] is False for result in read_results(invalid_corpus[0])) == len(
        BROKEN
    )


def test_the_error_names_rules_counts_examples_and_the_page(
    invalid_corpus: tuple[Path, ValidationFailedError],
) -> None:
    error = invalid_corpus[1]
    assert "raw corpora: 8 of 15 rules are broken" in error.got
    assert (
        "nl: The language of every document is one of English: broken by 1 of 12 documents, "
        "such as english 1.0/docs/1.txt (language = 'Klingon')" in error.got
    )
    assert "and 3 more" in error.got
    page = Path(error.fix.removeprefix("open ").split(" for more")[0])
    text = page.read_text(encoding="utf-8")
    assert all(rule in text for rule, _, _ in BROKEN)
    assert "docs/5.txt" in text


def test_missing_values_are_reported(tmp_path: Path) -> None:
    # The reader of JSON Lines rejects nulls; the suite also applies to profiles of other readers.
    content = records(num=8)
    for number, name in enumerate(["language", "license", "path", "source", "text"]):
        content[number][name] = None
    with pytest.raises(ValidationFailedError) as error:
        validate_raw(
            tmp_path / "artifact",
            profiles={"nl": profile_of(content)},
            config=SMALL,
            data=DataConfig(),
            gx_root=tmp_path,
        )
    assert "5 of 15 rules" in error.value.got
    assert (
        "Every document has a text: broken by 1 of 8 documents, such as english 1.0/docs/4.txt\n"
        in error.value.got
    )
    for name in ("language", "license", "path", "source"):
        assert f"nl: Every document has a {name}: broken by 1 of 8 documents" in error.value.got


def profile_of(content: list[Record], config: ValidationConfig = SMALL) -> Profile:
    return profile_corpus(
        pa.Table.from_pylist(content, schema=SCHEMA).to_batches(),
        ProfileLimits.for_corpus(("English",), config),
    )


def test_a_profile_has_the_same_results_as_its_corpus(tmp_path: Path) -> None:
    content = records(num=9)
    content[3]["text"], content[5]["path"] = " ", ""
    for name in ("corpora", "profiles"):
        corpus: Any = write_raw(tmp_path / "data", content)
        if name == "profiles":
            corpus = profile_of(content)
        with pytest.raises(ValidationFailedError):
            validate_raw(
                tmp_path / name,
                **{name: {"nl": corpus}},
                config=SMALL,
                data=DataConfig(),
                gx_root=tmp_path / "gx",
            )
    for file in ("results.json", "profile.json"):
        assert (tmp_path / "corpora" / file).read_bytes() == (
            tmp_path / "profiles" / file
        ).read_bytes()
    assert read_profiles(tmp_path / "profiles") == {"nl": profile_of(content)}


def test_a_profile_with_other_limits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the profile of nl has the limits"):
        validate_raw(
            tmp_path,
            profiles={"nl": profile_of(records(), SMALL.replace(max_document_bytes=7))},
            config=SMALL,
            data=DataConfig(),
            gx_root=tmp_path,
        )


def test_an_edited_suite_is_applied(tmp_path: Path) -> None:
    copy_suites(tmp_path / "suites")
    config = SMALL.replace(suites=str(tmp_path / "suites"))
    path = tmp_path / "suites" / "raw-languages.json"
    suite = json.loads(path.read_text())
    rule = {
        "description": "Half of the documents are below 32 bytes",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "p50_bytes_bound", "max_value": 32},
    }
    blank_rule = {
        "description": "At most 1 blank document, of {max_document_bytes:,} bytes",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "num_blank_text", "max_value": 1},
        "severity": "warning",
    }
    path.write_text(json.dumps({**suite, "expectations": [*suite["expectations"], rule]}))
    documents = json.loads((tmp_path / "suites" / "raw-documents.json").read_text())
    other_rules = [
        item for item in documents["expectations"] if "blank" not in item["kwargs"]["column"]
    ]
    (tmp_path / "suites" / "raw-documents.json").write_text(
        json.dumps({**documents, "expectations": [*other_rules, blank_rule]})
    )
    content = records(num=9)  # of 30 bytes each
    content[3]["text"] = " "
    assert validate(tmp_path / "first", content, config=config)["warnings"] == []
    content[4]["text"] = "\t"
    warnings = validate(tmp_path / "second", content, config=config)["warnings"]
    assert [warning.partition("of 1,000 bytes: ")[2] for warning in warnings] == [
        "broken by 2 of 9 documents, such as english 1.0/docs/3.txt (num_chars = 1); "
        "english 1.0/docs/4.txt (num_chars = 1)"
    ]
    for record in content[:6]:
        record["text"] = "x" * 40
    with pytest.raises(
        ValidationFailedError,
        match=r"32 bytes: broken by 1 of 1 languages, such as English \(p50_bytes_bound = 64\)",
    ):
        validate(tmp_path / "third", content, config=config)


def test_too_few_documents_are_counted(tmp_path: Path) -> None:
    with pytest.raises(
        ValidationFailedError, match="nl: The corpus has at least 3 documents: observed 2"
    ):
        validate(tmp_path, records(num=2))


def test_languages_with_too_few_documents_are_reported(tmp_path: Path) -> None:
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


def test_all_documents_are_counted_and_three_are_examples(tmp_path: Path) -> None:
    content = records(num=2000)
    for record in content[500:]:
        record["language"] = "Klingon"
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, content)
    line = next(line for line in error.value.got.splitlines() if "one of English" in line)
    assert "1,500 of 2,000 documents" in line
    assert line.count("Klingon") == 3


def test_the_error_names_the_setting_of_the_limit(tmp_path: Path) -> None:
    content = records()
    content[0]["text"] = "x" * 5000
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, content)
    assert "validation.corpora.nl.max_document_bytes" in error.value.fix
    validate(tmp_path, content, config=SMALL.replace(max_document_bytes=5000))


INVALID_TEXTS = {
    "blank": " \n",
    "large": "x" * 1001,
    "binary": "\x1b" * 2 + "x" * 98,
    "undecoded": "\ufffd" * 3 + "x" * 97,
}


@pytest.mark.parametrize("name", INVALID_TEXTS)
def test_a_fraction_of_invalid_texts_can_be_tolerated(tmp_path: Path, name: str) -> None:
    content = records(num=8)
    content[0]["text"] = content[5]["text"] = INVALID_TEXTS[name]
    field = f"max_{name}_fraction"
    assert (
        validate(tmp_path / "some", content, config=SMALL.replace(**{field: 0.25}))["warnings"]
        == []
    )
    with pytest.raises(
        ValidationFailedError, match=r"1 of 15 rules .* broken\n.* broken by 2 of 8 documents"
    ) as error:
        validate(tmp_path / "too-many", content, config=SMALL.replace(**{field: 0.24}))
    assert f"validation.corpora.nl.{field}" in error.value.fix


def test_empty_init_files_of_a_checkout_are_tolerated(tmp_path: Path) -> None:
    content = records(num=20)
    content[7].update(path="package/__init__.py", text="")
    content[8].update(path="package/tests/__init__.py", text="")
    assert validate(tmp_path, content)["warnings"] == []


def test_binary_content_is_an_error_of_the_reader(tmp_path: Path) -> None:
    content = records()
    content[2]["text"] = "\x7fELF\0\0"
    with pytest.raises(RecordError, match=r"package-1\.0\.jsonl:3"):
        validate(tmp_path, content)


def test_a_corpus_can_have_limits_of_its_own(tmp_path: Path) -> None:
    corpora = {name: write_raw(tmp_path / name, records()) for name in ("nl", "other")}
    english = DataConfig().corpora["nl"]
    data = DataConfig(
        corpora={"nl": english, "other": english.replace(sources=[{"uri": "/other"}])}
    )
    config = SMALL.replace(corpora={"other": {"max_document_bytes": 20, "max_large_fraction": 0.5}})
    with pytest.raises(ValidationFailedError) as error:
        validate_raw(
            tmp_path / "artifact", corpora=corpora, config=config, data=data, gx_root=tmp_path
        )
    assert "1 of 30 rules are broken" in error.value.got
    assert "other: The fraction of documents larger than 20 bytes is at most 0.5" in error.value.got
    assert "change validation.corpora.other.max_document_bytes, " in error.value.fix
