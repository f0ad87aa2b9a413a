"""The section model of the report: sections of eight block types, free of any output format.

A page is built once, as plain values, and rendered as HTML, Markdown and terminal text, so the
formats cannot differ in a number. Text is raw: the templates escape it. The remaining two block
types are `Table` (table.py) and the charts (charts.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from components.report.charts import DotChart, LineChart
from components.report.formatting import plural
from components.report.table import Cell, Table, TableSource, Tone

NO_EXCERPT = "No excerpt: this document or a copy of it is in a corpus, or it is empty."


@dataclass(frozen=True)
class Paragraph:
    """Sentences, or a link to another page in the same folder."""

    kind: ClassVar = "paragraph"
    text: str
    file: str = ""
    """Name of the page that the text links to."""


@dataclass(frozen=True)
class Statement:
    """A statement that the numbers confirm (True), refute (False) or leave open (None)."""

    kind: ClassVar = "statement"
    holds: bool | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """Summary of a model."""

    stage: str
    title: str
    state: str
    tone: Tone
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    kind: ClassVar = "cards"
    cards: tuple[Card, ...]


@dataclass(frozen=True, kw_only=True)
class KeyValueList:
    """Names and values, or commands and their purposes."""

    kind: ClassVar = "key_values"
    items: tuple[tuple[str, Cell], ...]
    commands: bool = False


@dataclass(frozen=True, kw_only=True)
class Node:
    """An artifact of the lineage."""

    label: str
    digest: str
    title: str
    subtext: str = ""


@dataclass(frozen=True, kw_only=True)
class LineageRow:
    """The artifacts of a training stage."""

    stage: str
    title: str
    cells: tuple[tuple[Node, ...], ...]
    """The nodes of each column of the lineage."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The root artifacts, then a row per training stage and a column per kind of artifact."""

    kind: ClassVar = "lineage"
    roots: tuple[Node, ...]
    columns: tuple[str, ...]
    rows: tuple[LineageRow, ...]


@dataclass(frozen=True, kw_only=True)
class CodeSample:
    """A generated program with its verdict, or the beginning of a document."""

    stage: str
    heading: str
    turns: tuple[tuple[str, str], ...]
    """Prompt and text of each turn; empty if a document has no excerpt."""
    origin: str = ""
    """Path and source of a document."""
    verdict: str = ""
    tone: Tone = "plain"
    subtext: str = ""
    filter_values: tuple[str, ...] = ()
    """The value of each filter of the listing."""

    def preview(self, num_lines: int) -> str:
        """The first non-empty lines without the prompts, and how many more there are."""
        text = "\n".join(text for _, text in self.turns)
        lines = [line for line in text.splitlines() if line.strip()]
        num_more = len(lines) - num_lines
        if num_more > 0:
            lines[num_lines:] = [f"... {plural(num_more, 'more line')}"]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list of code samples."""

    kind: ClassVar = "listing"
    samples: tuple[CodeSample, ...]
    sources: tuple[TableSource, ...] = ()
    summary: str = ""
    """If set, the listing is closed until a reader opens it."""
    filters: tuple[str, ...] = ()
    """Names of the filters that a reader can set."""

    def options(self, index: int) -> tuple[str, ...]:
        """The values of a filter in order of appearance."""
        return tuple(dict.fromkeys(sample.filter_values[index] for sample in self.samples))


Block = (
    Paragraph | Statement | Cards | KeyValueList | Table | LineChart | DotChart | Lineage | Listing
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


def section(anchor: str, title: str, lead: str, *blocks: Block | None) -> Section:
    """A section of the blocks that are present."""
    present = tuple(block for block in blocks if block)
    return Section(anchor=anchor, title=title, lead=lead, blocks=present)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of the report."""

    title: str
    subtitle: str
    headline: Statement | Paragraph
    sections: tuple[Section, ...]
