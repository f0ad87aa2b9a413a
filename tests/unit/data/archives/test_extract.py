"""Extraction of documents: each selected member is a record or is skipped with a reason."""

from __future__ import annotations

import json

import pytest
from fixtures.archives import package

from components.data.archives.extract import botocore_docs, extract_records
from components.data.archives.pins import ExtractionRule


def _rule(**fields):
    return ExtractionRule.parse(
        {"corpus": "multi", "language": "C", "include": ["src/*.c"], **fields}
    )


def _extract(tmp_path, members, *rules):
    path = tmp_path / "demo-1.0.tar.gz"
    return extract_records(package(path, members, rules), path)


def test_record_has_the_unchanged_text_of_the_member(tmp_path):
    text = "\ufeff/* Käse\u2028*/\r\nint x;\t\n"
    result = _extract(tmp_path, {"src/a.c": text.encode()}, _rule())
    assert result.records == {
        "multi": [
            {
                "language": "C",
                "license": "MIT",
                "path": "src/a.c",
                "source": "demo 1.0",
                "text": text,
            }
        ]
    }


def test_unusable_members_are_listed_with_a_reason(tmp_path):
    members = {
        "src/big.c": b"x" * 21,
        "src/binary.c": b"ab\0cd",
        "src/empty.c": b"",
        "src/blank.c": b" \n\t",
        "src/fits.c": b"x" * 20,
        "src/latin.c": b"/* K\xe4se */",
        "unselected.c": b"int x;",
    }
    result = _extract(tmp_path, members, _rule(max_bytes=20))
    assert [record["path"] for record in result.records["multi"]] == ["src/fits.c"]
    assert {entry["path"]: entry["reason"] for entry in result.skipped} == {
        "src/big.c": "larger than 20 bytes",
        "src/binary.c": "binary: NUL at byte 2",
        "src/blank.c": "empty",
        "src/empty.c": "empty",
        "src/latin.c": "not UTF-8: invalid continuation byte at byte 4",
        "src/link.c": "a link",
    }
    assert all(
        entry["source"] == "demo 1.0" and entry["corpus"] == "multi" for entry in result.skipped
    )


def test_members_without_required_text_are_skipped(tmp_path):
    rule = _rule(require_text="public domain")
    result = _extract(tmp_path, {"src/a.c": b"in the public domain", "src/b.c": b"(c) me"}, rule)
    assert [record["path"] for record in result.records["multi"]] == ["src/a.c"]
    assert result.skipped[0]["reason"] == "does not contain 'public domain'"


def test_member_can_be_in_two_corpora(tmp_path):
    result = _extract(
        tmp_path, {"src/a.c": b"int x;"}, _rule(), _rule(corpus="mono", language="Python")
    )
    assert {
        corpus: [record["language"] for record in records]
        for corpus, records in result.records.items()
    } == {
        "multi": ["C"],
        "mono": ["Python"],
    }


SERVICE = {
    "documentation": "<p>Keeps   your files.</p>",
    "operations": [
        {"documentation": "<p>Reads a &lt;file&gt;, see <a href='x'>Write</a>.</p>"},
        {"documentation": "<p>Keeps your files.</p>"},  # the same once tags and spaces are gone
        {"documentation": "<br/>"},  # empty without tags
        {"documentation": {"documentation": "word " * 30}},
    ],
}


def test_botocore_docs_are_distinct_wrapped_paragraphs_without_tags():
    line = " ".join(["word"] * 17)  # 17 words are 84 characters, 18 would be 89
    expected = (
        f"Keeps your files.\n\nReads a <file>, see Write.\n\n{line}\n{' '.join(['word'] * 13)}\n"
    )
    assert botocore_docs(json.dumps(SERVICE), 10_000) == expected


@pytest.mark.parametrize(
    ("max_characters", "num_paragraphs"), [(198, 3), (197, 2), (47, 2), (46, 1), (19, 1), (18, 0)]
)
def test_botocore_docs_end_at_the_last_paragraph_within_the_limit(max_characters, num_paragraphs):
    # Paragraphs with their empty line: 17 + 2, then 26 + 2, then 84 + 1 + 64 + 2 characters.
    text = botocore_docs(json.dumps(SERVICE), max_characters)
    assert (
        len([paragraph for paragraph in text.split("\n\n") if paragraph.strip()]) == num_paragraphs
    )


def test_service_description_that_is_not_json_is_skipped(tmp_path):
    result = _extract(tmp_path, {"src/a.c": b"{"}, _rule(transform="botocore_docs"))
    assert result.records == {}
    assert "not JSON" in result.skipped[0]["reason"]
