"""What a page of results consists of, free of any format: sections of sentences, tables, charts and samples.

One decision: the page is built once, as plain values, and rendered twice. HTML and terminal cannot disagree on a figure,
and a test can ask the page itself. Text in here is raw: each renderer escapes what it prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.core.artifact import Artifact
from components.evaluation.report.wording import digest

Tone = Literal["plain", "strong", "best", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Source:
    """An artifact that figures were read from."""

    label: str
    digest: str

    @classmethod
    def of(cls, artifact: Artifact) -> Source:
        """The source that an artifact is."""
        return cls(artifact.label, artifact.digest)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a table."""

    text: str
    title: str = ""
    """The long form, e.g. a whole digest: shown when pointed at."""
    note: str = ""
    """Small print below."""
    tone: Tone = "plain"
    mark: str = ""
    """Stage whose colour stands before the text."""
    code: bool = False
    share: float | None = None
    """Length of a bar behind the text, 0 to 1."""

    @classmethod
    def digest(cls, sha256: str) -> Cell:
        """A digest: its first characters, whole when pointed at."""
        return cls(text=digest(sha256), title=sha256, code=True)


NOTHING = Cell(text="\u2013", tone="quiet")
"""Where there is no figure. Never a zero."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Head of a column; neighbours of one `group` share a head above their own."""

    title: str
    numeric: bool = True
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns. The first cell of a row names it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sources: tuple[Source, ...] = ()
    footnote: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A sentence or two."""

    text: str
    tone: Tone = "plain"


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
class Point:
    """One point of a line, and what is said of it."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    mark: str
    name: str
    points: tuple[Point, ...]
    """The line, smoothed."""
    raw: tuple[tuple[float, float], ...]
    """What it was smoothed from, drawn faintly."""


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over one axis."""

    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DotChart:
    """One row per thing, one dot per stage, over a common axis that starts at zero."""

    title: str
    description: str
    x_label: str
    rows: tuple[tuple[str, dict[str, float]], ...]
    names: dict[str, str]
    """What each mark is called."""


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
    prompt: str
    completion: str


@dataclass(frozen=True)
class Samples:
    """Programs, one after the other."""

    samples: tuple[Sample, ...]
    sources: tuple[Source, ...] = ()


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


Block = Table | Paragraph | Verdict | Cards | Facts | LineChart | DotChart | Lineage | Samples | Excerpts | Commands


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
    headline: Verdict
    sections: tuple[Section, ...]
