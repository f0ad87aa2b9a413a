"""Hostile text in every block of a page: inert as HTML, as Markdown and on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from html_reader import Tag, read
from markdown_it import MarkdownIt
from markdown_it.token import Token

from components.report.charts import DotChart, LineChart, Point, Series
from components.report.page import (
    Block,
    Card,
    Cards,
    CodeSample,
    KeyValueList,
    Lineage,
    LineageRow,
    Listing,
    Node,
    Page,
    Paragraph,
    Statement,
    section,
)
from components.report.rendering import page_html, page_text, sections_markdown
from components.report.table import Cell, Table, TableSource, table

UNSAFE_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters, invisible characters and changes of the writing direction."""
HOSTILE = [
    '</code></pre></style></svg><script src="https://example.org/x.js">alert(1)</script><img '
    'src=x onerror="alert(1)">',
    '" onmouseover="alert(1)" style="background:url(https://example.org)',
    "{{ 7 * 7 }}{% raw %}<b>",
    "[x](javascript:alert(1)) ![x](https://example.org/x.png) <https://example.org> "
    "https://example.org",
    "````\n</pre>\n# heading\n\n- item\n\n---\n| a | b |\n",
    "\x1b[2J\x1b]0;title\x07\x1b]8;;https://example.org\x1b\\link\x9b31m",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "[red]x[/red] [link=https://example.org]y[/link] :skull:",
]


def blocks_of(text: str) -> list[Block]:
    """Every block type with the text wherever a page can have foreign text."""
    cell = Cell(text, title=text, subtext=text)
    source = TableSource(text, text)
    node = Node(label=text, digest=text, title=text, subtext=text)
    sample = CodeSample(
        stage="nl",
        heading=text,
        turns=((text, text),),
        origin=text,
        verdict=text,
        subtext=text,
        filter_values=(text,),
    )
    other = CodeSample(stage="nl", heading="x", turns=(("", "y"),), filter_values=("z",))
    columns = [text, *table(text, [text], []).columns]
    points = (Point(x=1, y=1, label=text), Point(x=2, y=2, label=text))
    line = Series(stage="nl", name=text, points=points)
    labels = {
        "title": text,
        "description": text,
        "x_label": text,
        "caption": text,
        "sources": (source,),
    }
    return [
        Paragraph(text),
        Paragraph(text, "samples.html"),
        Statement(None, text),
        Cards((Card(stage="nl", title=text, state=text, tone="good", lines=(text,)),)),
        KeyValueList(items=((text, cell),)),
        KeyValueList(items=((text, cell),), commands=True),
        Table(
            caption=text,
            columns=table("", columns, []).columns,
            rows=((cell, cell),),
            sources=(source,),
            footnote=text,
        ),
        table(text, [text], [[cell]], folded=True),
        LineChart(y_label=text, series=(replace(line, faint=(((1, 1), (2, 2)),)),), **labels),
        LineChart(y_label=text, series=(line,), log_x=True, x_name=text, **labels),
        DotChart(rows=((text, {"nl": 1.0}),), names={"nl": text}, **labels),
        Lineage(
            roots=(node,),
            columns=(text,),
            rows=(LineageRow(stage="nl", title=text, cells=((node,),)),),
        ),
        Listing(samples=(sample, other), sources=(source,), filters=(text,)),
        Listing(samples=(sample,), summary=text),
    ]


def page_of(text: str) -> Page:
    part = section("a", text, text, *blocks_of(text))
    headline = Statement(True, text)
    return Page(title=text, subtitle=text, headline=headline, sections=(part, part))


def tags(page: Tag) -> list[tuple[str, tuple[str, ...]]]:
    """Every element with the names of its attributes."""
    return [(tag.name, tuple(tag.attributes)) for tag in page.all()]


@pytest.mark.parametrize("text", HOSTILE)
def test_html_has_the_same_elements_as_with_harmless_text(text: str) -> None:
    html = page_html(page_of(text))
    assert tags(read(html)) == tags(read(page_html(page_of("harmless"))))
    assert not UNSAFE_CHARACTERS.search(html)
    styles = "".join(style.text for style in read(html).all("style"))
    assert "example.org" not in styles


def tokens_of(markdown: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown):
        yield token
        yield from token.children or []


def structure(markdown: str) -> list[str]:
    return [token.type for token in tokens_of(markdown) if token.type not in ("text", "softbreak")]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_the_same_structure_as_with_harmless_text(text: str) -> None:
    markdown = sections_markdown(page_of(text).sections)
    assert structure(markdown) == structure(sections_markdown(page_of("harmless").sections))
    assert not UNSAFE_CHARACTERS.search(markdown)
    # This parser accepts no SVG as an image; the only images are the charts.
    charts = re.findall(
        r"^!\[.*\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]+\)$", markdown, re.MULTILINE
    )
    assert len(charts) == 6
    assert not [token for token in tokens_of(markdown) if token.type == "image"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_no_control_characters_and_no_markup(text: str) -> None:
    output = page_text(page_of(text), width=100)
    assert not UNSAFE_CHARACTERS.search(output)
    assert all(len(line) <= 100 for line in output.splitlines())
    if "[red]" in text:
        assert "[red]x[/red] [link=https://example.org]y[/link] :skull:" in output
