"""The charts of a page as values: which lines and dots there are, and how they are called. Drawn in `charts.py`."""

from __future__ import annotations

from dataclasses import dataclass

from components.evaluation.report.cells import Source


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
class Curve:
    """One line over counts."""

    mark: str
    name: str
    points: tuple[tuple[int, float], ...]
    faint: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Lines of which this one is the upper bound, drawn faintly."""


@dataclass(frozen=True, kw_only=True)
class CurveChart:
    """Lines over one logarithmic axis of counts from 1, and an axis that starts at zero."""

    title: str
    description: str
    x_name: str
    """Of one count, e.g. `k`."""
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    caption: str
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DotChart:
    """One row per thing, one dot per stage, or per way of asking, over a common axis that starts at zero."""

    title: str
    description: str
    x_label: str
    rows: tuple[tuple[str, dict[str, float]], ...]
    names: dict[str, str]
    """What each mark is called."""
