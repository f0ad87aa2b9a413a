"""Rejected documents in the report: counts per benchmark, benchmarks without a search, and
excerpts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fixtures.report_run import Run
from html_reader import Tag, read, table
from pydantic import JsonValue

from components.report import render_html, render_text

CONTAMINATED = "Documents rejected because they contain a part of a benchmark"
HOSTILE = '\x1b[2J</code></pre></details><img src="x" onerror="alert(1)">\n[red]x[/red] & y'


def page_of(run: Run) -> Tag:
    return read(render_html(run.results(), run.store))


def rejected(reason: str, number: int, excerpt: str | None) -> dict[str, JsonValue]:
    where = {
        "sha256": f"{number:064}",
        "language": "C",
        "source": "<b>demo</b> 1.0",
        "path": f"src/{number}.c",
        "num_bytes": 9,
    }
    return {**where, "reason": reason, "excerpt": excerpt}


def test_contamination_is_counted_per_benchmark(tmp_path: Path) -> None:
    page = page_of(Run(tmp_path, statistics={"contaminated": {"humaneval": 1234, "mtpb": 0}}))
    assert table(page, CONTAMINATED) == [[stage, "1,234", "0"] for stage in ("NL", "Multi", "Mono")]
    expected_text = (
        "Training documents rejected because they contain a part of {}: NL {}, Multi "
        "{} and Mono {}."
    )
    assert (
        expected_text.format("HumanEval", *["1,234"] * 3)
        in page.first("section", id="humaneval").text
    )
    assert expected_text.format("MTPB", 0, 0, 0) in page.first("section", id="mtpb").text


@pytest.mark.parametrize(
    "statistics", [{"contaminated": {"humaneval": 2}}, {"contaminated": {"humaneval": 2, "own": 1}}]
)
def test_a_benchmark_that_was_not_searched_for_is_not_a_zero(
    tmp_path: Path, statistics: dict[str, JsonValue]
) -> None:
    page = page_of(Run(tmp_path, statistics=statistics))
    custom = ["1"] if "own" in str(statistics) else []
    assert table(page, CONTAMINATED)[0] == ["NL", "2", "not searched", *custom]
    assert (
        "The documents of NL, Multi and Mono were not searched for MTPB"
        in page.first("section", id="mtpb").text
    )
    assert "not searched" not in page.first("section", id="humaneval").text


def test_quarantined_records_and_redactions_are_counted(tmp_path: Path) -> None:
    counts: dict[str, JsonValue] = {
        "quarantined": {"not UTF-8": 3},
        "skipped": {},
        "redacted": {"email": 5},
    }
    rows = table(page_of(Run(tmp_path, statistics=counts)), "Quarantined records and redactions")
    assert rows[:2] == [
        ["NL", "quarantined: not UTF-8", "3"],
        ["NL", "redacted in accepted documents: email", "5"],
    ]
    assert len(rows) == 6


def test_the_first_three_rejected_documents_of_each_reason_are_shown(tmp_path: Path) -> None:
    rejects = [rejected("digits", number, f"0{number}") for number in range(5)] + [
        rejected("line length", 9, None)
    ]
    folded = page_of(Run(tmp_path, rejects=rejects)).first("details", class_="excerpts")
    assert "open" not in folded.attributes
    visible = [
        (item.first("h3").text, [pre.text for pre in item.all("pre")])
        for item in folded.all("article")
    ][:4]
    digits = [
        (f"NL, digits src/{number}.c of <b>demo</b> 1.0", [f"0{number}"]) for number in range(3)
    ]
    assert visible == [*digits, ("NL, line length src/9.c of <b>demo</b> 1.0", [])]
    assert "No excerpt" in list(folded.all("article"))[3].text


def test_quarantined_records_are_shown_beside_the_documents(tmp_path: Path) -> None:
    bad = [
        {"file": "a.jsonl", "offset": n, "reason": f"not JSON: at character {n}", "excerpt": "{"}
        for n in range(5)
    ]
    counts: dict[str, JsonValue] = {"quarantined": {"not JSON": 5}}
    run = Run(tmp_path, rejects=[rejected("digits", 0, "00")], statistics=counts, quarantine=bad)
    heads = [
        item.first("h3").text
        for item in page_of(run).first("details", class_="excerpts").all("article")
    ]
    assert len(heads) == 12
    assert heads[0] == "NL, digits src/0.c of <b>demo</b> 1.0"
    assert all(
        re.fullmatch(r"NL, quarantined: not JSON: at character (\d) offset \1 of a\.jsonl", item)
        for item in heads[1:4]
    )


def test_rejected_documents_are_inert(tmp_path: Path) -> None:
    run = Run(tmp_path, rejects=[rejected("digits", 0, HOSTILE)])
    page = page_of(run)
    assert page.first("details", class_="excerpts").first("pre").text == HOSTILE.replace(
        "\x1b", "\u241b"
    )
    assert not list(page.all("img"))
    assert not list(page.all("b"))
    text = render_text(run.results(), run.store)
    assert "\x1b" not in text
    assert "\u241b[2J</code></pre></details><img" in text
