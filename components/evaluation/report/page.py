"""What a page of results consists of, free of any format: sections of sentences, tables, charts and samples.

One decision: the page is built once, as plain values, and rendered twice. HTML and terminal cannot disagree on a figure,
and a test can ask the page itself. Text in here is raw: each renderer escapes what it prints. Tables are in `cells.py`,
charts in `plots.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.evaluation.report.cells import Cell, Source, Table, Tone
from components.evaluation.report.plots import CurveChart, DotChart, LineChart


@dataclass(frozen=True)
class Paragraph:
    """A sentence or two."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Link:
    """A way to another page that lies beside this one."""

    text: str
    file: str
    """Its name."""


@dataclass(frozen=True)
class Verdict:
    """A statement that the figures bear out (True), refute (False), or cannot decide (None)."""

    holds: bool | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model at a glance."""

    mark: str
    title: str
    state: str
    tone: Tone
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    items: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One artifact in a lineage."""

    label: str
    digest: str
    title: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where everything came from: a root, then one row per stage, one column per kind of artifact."""

    roots: tuple[Node, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[Node, ...], ...]], ...]
    """Mark, name and the nodes of each column."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A program that a model wrote, and what became of it."""

    mark: str
    heading: str
    verdict: str
    tone: Tone
    turns: tuple[tuple[str, str], ...]
    """What was asked and what the model wrote, turn by turn."""
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """Programs, one after the other."""

    samples: tuple[Sample, ...]
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Many programs, of which a reader chooses some kinds to be shown."""

    filters: tuple[str, ...]
    """By what one chooses."""
    samples: tuple[tuple[Sample, tuple[str, ...]], ...]
    """Each with its value of every filter."""
    sources: tuple[Source, ...] = ()

    def options(self, index: int) -> tuple[str, ...]:
        """The values of a filter, in the order in which they come up."""
        return tuple(dict.fromkeys(values[index] for _, values in self.samples))


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """How a document begins that was left out."""

    mark: str
    heading: str
    origin: str
    text: str | None
    """None where none was kept: the document, or its like, is in the corpus."""


NO_EXCERPT = "No excerpt: this document, or its like, is in a corpus, or it is empty."


@dataclass(frozen=True, kw_only=True)
class Excerpts:
    """Beginnings of documents, folded away until asked for."""

    title: str
    items: tuple[Excerpt, ...]
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Commands:
    """Commands to go on with, and what each is for."""

    items: tuple[tuple[str, str], ...]


Block = (
    Table
    | Paragraph
    | Link
    | Verdict
    | Cards
    | Facts
    | LineChart
    | CurveChart
    | DotChart
    | Lineage
    | Samples
    | Gallery
    | Excerpts
    | Commands
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole."""

    title: str
    subtitle: str
    headline: Verdict | Paragraph
    sections: tuple[Section, ...]
