"""Every rule about raw corpora, seen to hold on good data and to break on data that breaks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpora_on_disk import SMALL, Record, records, write_raw

from components.core.errors import ConfigError, RecordError, ValidationFailed
from components.validation.checks import run_checks
from components.validation.config import ValidationConfig
from components.validation.raw import checks_of, validate_raw

SIX = ("C", "C++", "Go", "Java", "JavaScript", "Python")


def validate(folder: Path, content: list[Record], corpus: str = "nl", config: ValidationConfig = SMALL) -> dict[str, Any]:
    corpora = {corpus: write_raw(folder / "data" / corpus, content)}
    return validate_raw(folder / "artifact", corpora=corpora, config=config, docs=folder / "docs")


def outcomes_in(folder: Path) -> list[dict[str, Any]]:
    outcomes: list[dict[str, Any]] = json.loads((folder / "artifact" / "results.json").read_text())
    return outcomes


def test_good_corpora_pass_and_are_counted(tmp_path: Path) -> None:
    code = [record for language in SIX for record in records(language, num=2)]
    corpora = {"nl": write_raw(tmp_path / "nl", records()), "multi": write_raw(tmp_path / "multi", code)}
    statistics = validate_raw(tmp_path / "artifact", corpora=corpora, config=SMALL, docs=tmp_path / "docs")
    size = len(b"A line of text.\nAnd number 0.\n")
    assert statistics["corpora"] == {
        "nl": {"English": {"documents": 4, "bytes": 4 * size}},
        "multi": {language: {"documents": 2, "bytes": 2 * size} for language in SIX},
    }
    outcomes = outcomes_in(tmp_path)
    assert statistics["num_expectations"] == statistics["num_passed"] == len(outcomes)
    assert {(one["suite"], one["subject"]) for one in outcomes} == {
        (suite, corpus) for suite in ("raw-documents", "raw-languages") for corpus in ("nl", "multi")
    }
    assert all(one["success"] for one in outcomes)


SPOILT = {
    0: {"text": "\x1b" * 2 + "x" * 98},
    1: {"language": "Klingon"},
    2: {"text": ""},
    3: {"text": " \n\t\r\n"},
    4: {"text": "\ufffd" * 3 + "x" * 97},
    5: {"text": "é" * 501},
    6: {"licence": ""},
    7: {"path": ""},
    8: {"source": ""},
    10: {"path": "docs/9.txt"},
}
BROKEN = [
    ("one of English", 1, ["english 1.0/docs/1.txt (language = 'Klingon')"]),
    ("empty or white space", 2, ["english 1.0/docs/2.txt (is_blank = True)", "english 1.0/docs/3.txt (is_blank = True)"]),
    ("larger than 1,000 bytes", 1, ["english 1.0/docs/5.txt (num_bytes = 1,002)"]),
    ("binary content: at most 1.00%", 1, ["english 1.0/docs/0.txt (control_fraction = 0.02)"]),
    ("decoded: at most 1.00%", 1, ["english 1.0/docs/4.txt (replacement_fraction = 0.03)"]),
    ("same source and path", 2, ["english 1.0/docs/9.txt", "english 1.0/docs/9.txt"]),
    ("No licence is empty", 1, ["english 1.0/docs/6.txt (licence = '')"]),
    ("No path is empty", 1, ["english 1.0/"]),
    ("No source is empty", 1, ["/docs/8.txt"]),
]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ValidationFailed]:
    """One corpus that breaks many rules, each by known documents, and the error that came of it."""
    folder = tmp_path_factory.mktemp("spoilt")
    content = records(num=12)
    for number, values in SPOILT.items():
        content[number].update(values)
    with pytest.raises(ValidationFailed) as error:
        validate(folder, content)
    return folder, error.value


@pytest.mark.parametrize(("rule", "num", "examples"), BROKEN, ids=[rule for rule, _, _ in BROKEN])
def test_a_broken_rule_has_its_count_and_examples(
    spoilt: tuple[Path, ValidationFailed], rule: str, num: int, examples: list[str]
) -> None:
    outcome = next(one for one in outcomes_in(spoilt[0]) if rule in one["rule"])
    assert not outcome["success"]
    assert (outcome["num_unexpected"], outcome["num_rows"]) == (num, 12)
    assert outcome["examples"] == examples


def test_only_the_broken_rules_are_broken(spoilt: tuple[Path, ValidationFailed]) -> None:
    assert sum(not one["success"] for one in outcomes_in(spoilt[0])) == len(BROKEN)


def test_the_error_names_rules_counts_examples_and_the_page(spoilt: tuple[Path, ValidationFailed]) -> None:
    error = spoilt[1]
    assert "raw corpora: 9 of 17 rules are broken" in error.got
    assert (
        "nl: The language of every document is one of English: broken by 1 of 12 documents, such as "
        "english 1.0/docs/1.txt (language = 'Klingon')" in error.got
    )
    assert "and 4 more" in error.got
    page = Path(error.do.removeprefix("open ").split(" to see")[0])
    text = page.read_text(encoding="utf-8")
    assert all(rule in text for rule, _, _ in BROKEN)
    assert "docs/5.txt" in text


def test_values_that_are_missing_are_named(tmp_path: Path) -> None:
    # The reader of JSON Lines refuses nulls by itself; the suite holds for whatever hands it a table.
    content = records(num=8)
    for number, name in enumerate(["language", "licence", "path", "source", "text"]):
        content[number][name] = None
    with pytest.raises(ValidationFailed) as error:
        run_checks(
            tmp_path / "artifact", "raw corpora", checks_of("nl", pa.Table.from_pylist(content), SMALL), docs=tmp_path
        )
    assert "5 of 17 rules" in error.value.got
    assert "nl: Every document has a text: broken by 1 of 8 documents, such as english 1.0/docs/4.txt" in error.value.got
    for name in ("language", "licence", "path", "source"):
        assert f"nl: Every document names its {name}: broken by 1 of 8 documents" in error.value.got


def test_other_fields_are_named_and_rules_about_missing_ones_are_broken_not_skipped(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(records()).rename_columns({"licence": "license"})
    with pytest.raises(ValidationFailed) as error:
        run_checks(tmp_path / "artifact", "raw corpora", checks_of("nl", table, SMALL), docs=tmp_path)
    assert "and no other: found missing licence, unexpected license" in error.value.got
    assert 'No licence is empty: found Error: The column "licence" in BatchData does not exist' in error.value.got


def test_too_few_documents_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="nl: The corpus has at least 3 documents: found 2"):
        validate(tmp_path, records(num=2))


def test_languages_with_too_few_documents_or_none_are_named(tmp_path: Path) -> None:
    content = [
        record for language in SIX if language != "C++" for record in records(language, num=1 if language == "Go" else 2)
    ]
    with pytest.raises(ValidationFailed) as error:
        validate(tmp_path, content, "multi")
    assert "multi: Every language has at least 2 documents: broken by 2 of 6 languages" in error.value.got
    assert "such as C++ (num_documents = 0); Go (num_documents = 1)" in error.value.got


def test_counts_are_over_all_documents_and_examples_are_three(tmp_path: Path) -> None:
    content = records(num=2000)
    for record in content[500:]:
        record["language"] = "Klingon"
    with pytest.raises(ValidationFailed) as error:
        validate(tmp_path, content)
    line = next(line for line in error.value.got.splitlines() if "one of English" in line)
    assert "1,500 of 2,000 documents" in line
    assert line.count("Klingon") == 3


def test_the_setting_that_moves_a_limit_is_named_and_moves_it(tmp_path: Path) -> None:
    content = records()
    content[0]["text"] = "x" * 5000
    with pytest.raises(ValidationFailed, match=r"change validation\.max_document_bytes"):
        validate(tmp_path, content)
    validate(tmp_path, content, config=SMALL.replace(max_document_bytes=5000))


def test_binary_content_does_not_get_past_the_reader(tmp_path: Path) -> None:
    content = records()
    content[2]["text"] = "\x7fELF\0\0"
    with pytest.raises(RecordError, match=r"package-1\.0\.jsonl:3"):
        validate(tmp_path, content)


def test_an_unknown_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'poems'"):
        validate(tmp_path, records(), "poems")
