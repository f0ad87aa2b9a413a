"""What is in no shard, on the page: counted per benchmark, told from what nobody looked for, and shown as it began."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from html_reader import Tag, read, table
from pydantic import JsonValue
from report_run import Run

from components.evaluation.report import render_html, render_text

CONTAMINATED = "Documents left out because they hold a part of a benchmark"
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
    said = "Documents left out of training because they hold a part of {}: NL {}, Multi {} and Mono {}."
    assert said.format("HumanEval", *["1,234"] * 3) in page.first("section", id="humaneval").text
    assert said.format("MTPB", 0, 0, 0) in page.first("section", id="mtpb").text


@pytest.mark.parametrize(
    "statistics", [{"contaminated": {"humaneval": 2}}, {"contaminated": {"humaneval": 2, "own": 1}}]
)
def test_what_nobody_looked_for_is_no_zero(
    tmp_path: Path, statistics: dict[str, JsonValue]
) -> None:
    page = page_of(Run(tmp_path, statistics=statistics))
    own = ["1"] if "own" in str(statistics) else []
    assert table(page, CONTAMINATED)[0] == ["NL", "2", "nobody looked", *own]
    assert (
        "Nobody looked for MTPB in the documents of NL, Multi and Mono"
        in page.first("section", id="mtpb").text
    )
    assert "Nobody looked" not in page.first("section", id="humaneval").text


def test_records_that_are_no_documents_are_counted(tmp_path: Path) -> None:
    counts: dict[str, JsonValue] = {
        "bad": {"not UTF-8": 3},
        "skipped": {},
        "redacted": {"email": 5},
    }
    rows = table(
        page_of(Run(tmp_path, statistics=counts)),
        "Records that are no documents, and what was replaced",
    )
    assert rows[:2] == [
        ["NL", "cannot be read: not UTF-8", "3"],
        ["NL", "replaced in kept documents: email", "5"],
    ]
    assert len(rows) == 6


def test_the_first_three_rejected_documents_of_each_reason_are_shown(tmp_path: Path) -> None:
    rejects = [rejected("digits", number, f"0{number}") for number in range(5)] + [
        rejected("line length", 9, None)
    ]
    folded = page_of(Run(tmp_path, rejects=rejects)).first("details", class_="excerpts")
    assert "open" not in folded.attributes
    shown = [
        (one.first("h3").text, [pre.text for pre in one.all("pre")])
        for one in folded.all("article")
    ][:4]
    digits = [
        (f"NL, digits src/{number}.c of <b>demo</b> 1.0", [f"0{number}"]) for number in range(3)
    ]
    assert shown == [*digits, ("NL, line length src/9.c of <b>demo</b> 1.0", [])]
    assert "No excerpt" in list(folded.all("article"))[3].text


def test_records_that_cannot_be_read_are_shown_beside_the_documents(tmp_path: Path) -> None:
    bad = [
        {"file": "a.jsonl", "offset": n, "reason": f"not JSON: at character {n}", "excerpt": "{"}
        for n in range(5)
    ]
    counts: dict[str, JsonValue] = {"bad": {"not JSON": 5}}
    run = Run(tmp_path, rejects=[rejected("digits", 0, "00")], statistics=counts, quarantine=bad)
    heads = [
        one.first("h3").text
        for one in page_of(run).first("details", class_="excerpts").all("article")
    ]
    assert len(heads) == 12
    assert heads[0] == "NL, digits src/0.c of <b>demo</b> 1.0"
    assert all(
        re.fullmatch(r"NL, cannot be read: not JSON: at character (\d) offset \1 of a\.jsonl", one)
        for one in heads[1:4]
    )


def test_rejected_documents_are_only_shown(tmp_path: Path) -> None:
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
