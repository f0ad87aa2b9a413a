"""The smallest values of a page: fields, columns and tables, and the artifacts that their figures were read from."""

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
    folded: bool = False
    """Too long to be read as a whole: folded away until asked for, and on a terminal only named."""
