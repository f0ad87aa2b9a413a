"""Tables of the report: cells, columns, and the artifacts that the numbers were read from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from components.core.artifact import Artifact
from components.report.formatting import short_digest
from components.report.results import stage_title

Tone = Literal["plain", "strong", "best", "good", "bad", "quiet"]


@dataclass(frozen=True)
class TableSource:
    """An artifact that the numbers of a block were read from."""

    label: str
    digest: str


@dataclass(frozen=True)
class Cell:
    """A field of a table."""

    text: str
    title: str = ""
    """The long form, such as a full digest: a tooltip."""
    subtext: str = ""
    """Small print below the text."""
    tone: Tone = "plain"
    stage: str = ""
    """The training stage whose colour is shown before the text."""
    code: bool = False
    share: float | None = None
    """Length of a bar below the text, 0 to 1."""


EMPTY = Cell("\u2013", tone="quiet")
"""A value that was not measured; never a zero."""

Value = Cell | str | int | None
"""A cell, text, a count, or no value."""


@dataclass(frozen=True)
class Column:
    """Head of a column; adjacent columns of the same `group` share a head above their own."""

    title: str
    numeric: bool = True
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns; the first cell of a row is its head."""

    kind: ClassVar = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sources: tuple[TableSource, ...] = ()
    footnote: str = ""
    folded: bool = False
    """Closed until a reader opens it; the terminal version shows the caption only."""

    def groups(self) -> list[tuple[str, int]]:
        """The column groups and how many columns each spans; empty if no column has a group."""
        groups = [
            (name, len(list(columns)))
            for name, columns in itertools.groupby(self.columns, lambda column: column.group)
        ]
        return groups if any(name for name, _ in groups) else []


def table(
    caption: str,
    columns: Iterable[str | Column],
    rows: Iterable[Iterable[Value]],
    sources: Iterable[Artifact] = (),
    *,
    footnote: str = "",
    folded: bool = False,
    num_text_columns: int = 1,
) -> Table:
    """A table of plain values; columns after the first `num_text_columns` are numeric."""
    heads = [
        column if isinstance(column, Column) else Column(column, numeric=index >= num_text_columns)
        for index, column in enumerate(columns)
    ]
    return Table(
        caption=caption,
        columns=tuple(heads),
        rows=tuple(tuple(map(as_cell, row)) for row in rows),
        sources=sources_of(sources),
        footnote=footnote,
        folded=folded,
    )


def group(name: str, *titles: str) -> list[Column]:
    """Numeric columns under a common head."""
    return [Column(title, group=name) for title in titles]


def as_cell(value: Value) -> Cell:
    """A value as a cell: counts with thousands separators, no value as a dash."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return EMPTY
    return Cell(value if isinstance(value, str) else f"{value:,}")


def stage_cell(stage: str, *details: str, subtext: str = "") -> Cell:
    """The name of a stage with its colour, and details after a comma."""
    return Cell(", ".join((stage_title(stage), *details)), stage=stage, subtext=subtext)


def digest_cell(sha256: str) -> Cell:
    """The first characters of a digest, with the full digest as tooltip."""
    return Cell(short_digest(sha256), title=sha256, code=True)


def sources_of(artifacts: Iterable[Artifact]) -> tuple[TableSource, ...]:
    """The artifacts as sources of a block."""
    return tuple(TableSource(artifact.label, artifact.digest) for artifact in artifacts)
