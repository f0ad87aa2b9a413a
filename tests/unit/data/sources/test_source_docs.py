"""The examples and tables of docs/sources.md agree with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from components.data.sources.config import EXTENSIONS, Source
from components.data.sources.layouts import LAYOUTS
from components.data.sources.location import format_endings
from components.data.sources.records import QUARANTINE_REASONS, WELL_KNOWN, Record, RecordParser

PAGE = (Path(__file__).parents[4] / "docs" / "sources.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def rows_of(header):
    """The cells of the table that starts with a header."""
    table = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def source_of(line):
    name, arguments = line.removesuffix(")").split("(", 1)
    assert name == "Source"
    return Source(
        **{key: json.loads(value) for key, value in re.findall(r'(\w+)=("[^"]*")', arguments)}
    )


def test_examples_of_sources_are_valid():
    assert len([source_of(line) for block in blocks("python") for line in block.splitlines()]) == 8


def test_example_rows_are_records_of_their_layouts():
    rows = re.findall(r"```json\n(.*?)\n```", PAGE)
    sources = [layout.sources(name, "a.jsonl", ())[0] for name, layout in LAYOUTS.items()]
    sources.append(Source(uri="data/mono/*.jsonl"))
    records = []
    for row, source in zip(rows, sources, strict=True):
        parser = RecordParser(source, ["English", "C++", "Python"], EXTENSIONS, 10**6)
        fields = json.loads(row)
        parser.require_fields([fields], "a.jsonl")
        records.append(parser.parse(fields))
    assert all(isinstance(record, Record) for record in records)
    assert [(record.language, record.source, record.license) for record in records] == [
        ("English", "Gutenberg (PG-19)", ""),
        ("Python", "octo/a", "mit"),
        ("Python", "octo/a", ""),
        ("Python", "octo/a", "MIT"),
        ("C++", "octo/a", "MIT"),
        ("Python", "black 25.1", "MIT"),
    ]


def test_tables_equal_those_of_the_code():
    extensions = {
        extension: language
        for language, cell in rows_of("| language | ext")
        for extension in re.findall("`(.*?)`", cell)
    }
    assert extensions == EXTENSIONS
    names = {
        column.strip("`"): tuple(re.findall(r"`(\w+)`", cell))
        for _, column, cell in rows_of("| field | column")
    }
    assert names == WELL_KNOWN
    reasons = [
        reason for cell, _ in rows_of("| reason | what") for reason in re.findall("`(.*?)`", cell)
    ]
    assert sorted(reasons) == sorted(QUARANTINE_REASONS)
    assert all(f"`{ending}`" in PAGE for ending in format_endings("archive"))
