"""Sections of the page as Markdown, for pages that are not ours: Prefect shows it beside the run that made the figures.

One decision: the same values as the other two renderers, so that no figure can differ. A chart is an image within the text
(a data URI), drawn as on the page. What is too long to be read in passing (programs, excerpts, folded tables) is named and
left to the page of results.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from functools import singledispatch
from importlib import resources
from xml.etree import ElementTree

from components.core.markdown import table
from components.evaluation.report.cells import Cell, Table
from components.evaluation.report.charts import WIDE, curve_chart, dot_chart, line_chart
from components.evaluation.report.markup import Element, append, node
from components.evaluation.report.page import (
    Block,
    Cards,
    Commands,
    Excerpts,
    Facts,
    Gallery,
    Lineage,
    Link,
    Node,
    Paragraph,
    Samples,
    Section,
    Verdict,
)
from components.evaluation.report.plots import CurveChart, DotChart, LineChart
from components.evaluation.report.wording import digest, printable

_SIGNS = {True: "✓", False: "✗", None: "?"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")
_LEFT_OUT = "on the page of results"


def markdown_of(sections: Iterable[Section]) -> str:
    """Sections as Markdown, the same text for the same artifacts."""
    parts: list[str] = []
    for section in sections:
        parts += [
            f"## {_escaped(section.title)}",
            _escaped(section.lead),
            *(_block(block) for block in section.blocks),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _escaped(text: str) -> str:
    """Text that means itself: what a model wrote, or a path, is never markup."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain).replace("\n", " ")


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"no Markdown is written for {type(block).__name__}")


@_block.register
def _(block: Paragraph) -> str:
    return _escaped(block.text)


@_block.register
def _(block: Link) -> str:
    return f"{_escaped(block.text)}: {_LEFT_OUT}"


@_block.register
def _(block: Verdict) -> str:
    return f"{_SIGNS[block.holds]} {_escaped(block.text)}"


@_block.register
def _(block: Cards) -> str:
    lines = (f"{one.state}. {'. '.join(one.lines)}" for one in block.cards)
    return "\n".join(
        f"- **{_escaped(one.title)}**: {_escaped(line)}"
        for one, line in zip(block.cards, lines, strict=True)
    )


@_block.register
def _(block: Facts) -> str:
    return table(("", ""), ((_escaped(name), _cell(cell)) for name, cell in block.items))


@_block.register
def _(block: Table) -> str:
    if block.folded:
        return f"*{_escaped(block.caption)}*: {len(block.rows)} rows, {_LEFT_OUT}"
    head = [f"{one.group}: {one.title}" if one.group else one.title for one in block.columns]
    made_from = ", ".join(f"{one.label} {digest(one.digest)}" for one in block.sources)
    parts = [
        f"*{_escaped(block.caption)}*",
        table([_escaped(one) for one in head], (map(_cell, row) for row in block.rows)),
        _escaped(block.footnote),
        f"From {_escaped(made_from)}." if made_from else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _cell(cell: Cell) -> str:
    text = _escaped(cell.text) + (f" ({_escaped(cell.note)})" if cell.note else "")
    return f"**{text}**" if cell.tone in ("best", "strong") else text


@_block.register
def _(block: LineChart) -> str:
    return _image(block.title, line_chart(block, WIDE))


@_block.register
def _(block: CurveChart) -> str:
    return _image(block.title, curve_chart(block, WIDE))


@_block.register
def _(block: DotChart) -> str:
    return _image(block.title, dot_chart(block, WIDE))


def _image(title: str, svg: Element) -> str:
    """A chart on a ground of its own, since whose page it will stand on is not known."""
    _, _, width, height = svg.get("viewBox", f"0 0 {WIDE} 340").split()
    style = (resources.files("components.evaluation.report") / "style.css").read_text(
        encoding="utf-8"
    )
    alone = node(
        "svg", node("style", style), xmlns="http://www.w3.org/2000/svg", width=width, height=height
    )
    alone.set("viewBox", svg.get("viewBox", ""))
    alone.set("class", "wide")
    append(alone, node("rect", width=width, height=height, style="fill: var(--card)"))
    for child in svg:
        append(alone, child)
    encoded = base64.b64encode(ElementTree.tostring(alone)).decode()
    return f"![{_escaped(title)}](data:image/svg+xml;base64,{encoded})"


@_block.register
def _(block: Lineage) -> str:
    def said(nodes: Iterable[Node]) -> str:
        return ", ".join(_escaped(f"{one.label} {one.digest}") for one in nodes)

    rows = ([f"**{_escaped(name)}**", *map(said, columns)] for _, name, columns in block.rows)
    return "\n\n".join([said(block.roots), table(["", *map(_escaped, block.columns)], rows)])


@_block.register
def _(block: Samples | Gallery) -> str:
    return f"{len(block.samples)} programs {_LEFT_OUT}"


@_block.register
def _(block: Excerpts) -> str:
    return f"{_escaped(block.title)}: {_LEFT_OUT}"


@_block.register
def _(block: Commands) -> str:
    return "\n".join(f"- `{command}`: {_escaped(purpose)}" for command, purpose in block.items)
