"""Names that are not UTF-8, and JSON documents of any depth."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from components.core.errors import DataError
from components.core.text import parse_json, printable_name


def test_bytes_that_are_not_utf8_are_escaped():
    assert printable_name(os.fsdecode(b"donn\xe9es/\xc3\xa4.py")) == "donn\\xe9es/ä.py"
    assert printable_name("half \ud83d") == "half \\ud83d"


def test_every_part_of_an_error_is_valid_utf8():
    name = os.fsdecode(b"\xff")
    error = DataError(f"{name} is bad", expected=name, fix=f"rename {name}")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (copy.got, copy.expected, copy.fix) == ("\\xff is bad", "\\xff", "rename \\xff")


@pytest.mark.parametrize("document", ['{"a": [1, null]}', b'\xef\xbb\xbf{"a": [1, null]}'])
def test_json_document_is_parsed(document):
    assert parse_json(document) == {"a": [1, None]}


@pytest.mark.parametrize(
    "document",
    [
        "{",
        b"\xff",
        b"\xff\xfe[\0]\0",
        "[" * 101 + "]" * 101,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
    ids=["cut", "not UTF-8", "UTF-16", "101 levels", "lists", "objects"],
)
def test_invalid_or_deep_json_is_a_value_error(document):
    with pytest.raises(ValueError, match=r"."):
        parse_json(document)


def test_nesting_up_to_the_limit_is_accepted():
    value = parse_json("[" * 100 + "]" * 100)
    assert json.dumps(value).count("[") == 100
