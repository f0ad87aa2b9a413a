"""Charts as inline SVG: lines over tokens or over a logarithmic axis of counts, and rows of dots.

This module computes positions; `chart.svg.j2` holds the markup. Colours are classes of the style
sheet, so a chart follows the light or dark setting. A chart is drawn once per width, so its text
keeps its size on a phone. Values of a point appear on hover, without a script.
"""

from __future__ import annotations

import base64
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from markupsafe import Markup

from components.core.templates import html_environment
from components.report.table import TableSource

WIDE = 880
"""Width of the page's column in CSS pixels."""
NARROW = 360
"""Width of a phone in CSS pixels."""

_LETTER_WIDTH = 6.6
"""Width of a letter of 12 pixels, measured for the system's sans serif; for placing labels."""
_MAX_Y_TICKS = 6


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a line and the text that is shown on hover."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart."""

    stage: str
    name: str
    points: tuple[Point, ...]
    faint: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Lines drawn faintly behind: unsmoothed values, or lines whose upper bound this is."""


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over a common axis.

    Without `log_x` the lines are consecutive along x and each has its name above. With `log_x`
    they overlap over counts from 1, y starts at zero, and a legend names them.
    """

    kind: ClassVar = "chart"
    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str
    sources: tuple[TableSource, ...] = ()
    log_x: bool = False
    x_name: str = ""
    """Name of a count in hover texts, e.g. `k`."""


@dataclass(frozen=True, kw_only=True)
class DotChart:
    """A row per label and a dot per name, over an axis that starts at zero."""

    kind: ClassVar = "chart"
    title: str
    description: str
    x_label: str
    rows: tuple[tuple[str, dict[str, float]], ...]
    names: dict[str, str]
    """Legend: the name of each style class."""
    caption: str = ""
    sources: tuple[TableSource, ...] = ()


class Scale(NamedTuple):
    """A linear or logarithmic map from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten apart) that cover `low` to
    `high`."""
    span = high - low or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def log_ticks(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to `last`, and `last` itself unless a tick is close to it."""
    candidates = [factor * 10**power for power in range(len(str(last))) for factor in (1, 2, 5)]
    values = [value for value in candidates if value <= last]
    return values if last < 1.25 * values[-1] else [*values, last]


def draw(chart: LineChart | DotChart, width: int, *, standalone: bool = False) -> Markup:
    """The chart as an SVG element; `standalone` adds the style sheet and a background."""
    if isinstance(chart, LineChart):
        layout = _line_layout(chart, width)
    else:
        layout = _dot_layout(chart, width)
    template = html_environment("components.report").get_template("chart.svg.j2")
    svg = template.render(
        chart=chart, width=width, is_wide=width >= WIDE, standalone=standalone, **layout
    )
    return Markup(svg)  # noqa: S704 - escaped by the template


def data_uri(chart: LineChart | DotChart) -> str:
    """The chart as an image that can be shown inside any page."""
    svg = draw(chart, WIDE, standalone=True).encode()
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _paths(chart: LineChart, x: Scale, y: Scale) -> list[tuple[str, str]]:
    """Style classes and `d` attribute of each SVG path, the faint lines first."""
    lines = [
        (f"raw {series.stage}", list(line)) for series in chart.series for line in series.faint
    ]
    lines += [
        (f"line {series.stage}", [(point.x, point.y) for point in series.points])
        for series in chart.series
    ]
    return [
        (style, "M" + "L".join(f"{x(value)} {y(height)}" for value, height in line))
        for style, line in lines
    ]


def _line_layout(chart: LineChart, width: int) -> dict[str, Any]:
    height = 340 if width >= WIDE else 260
    left, right = 44, width - 14
    top, bottom = 62 if chart.log_x else 46, height - 42
    lines = [[(point.x, point.y) for point in series.points] for series in chart.series]
    lines += [list(line) for series in chart.series for line in series.faint]
    xs = [x_value for line in lines for x_value, _ in line]
    ys = [y_value for line in lines for _, y_value in line]
    y_ticks = ticks(0.0 if chart.log_x else min(ys), max(ys), _MAX_Y_TICKS)
    if chart.log_x:
        x = Scale(1.0, max(xs), left, right, is_log=True)
        x_ticks = [(x(tick), f"{tick:g}") for tick in log_ticks(round(max(xs)))]
    else:
        x = Scale(0.0, max(xs), left, right)
        values = ticks(0.0, max(xs), 6 if width >= WIDE else 4)
        x_ticks = [(x(tick), _round_count(tick)) for tick in values if tick <= max(xs)]
    y = Scale(y_ticks[0], y_ticks[-1], bottom, top)
    names = {series.stage: series.name for series in chart.series}
    return {
        "height": height,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "y": y,
        "paths": _paths(chart, x, y),
        "x_ticks": x_ticks,
        "y_ticks": [(y(tick), f"{tick:g}") for tick in y_ticks],
        "segments": [] if chart.log_x else _segments(chart, x),
        "legend": _legend(names, left) if chart.log_x else [],
        "probes": _probes(chart, x, x(min(xs)), x(max(xs))),
    }


def _round_count(value: float) -> str:
    """A round count without trailing zeros: `2M`, `500k`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def _segments(chart: LineChart, x: Scale) -> list[tuple[Series, float, float]]:
    """Where each line begins and ends along x."""
    ends = [max(value for line in series.faint for value, _ in line) for series in chart.series]
    return [
        (series, x(start), x(end))
        for series, start, end in zip(chart.series, [0.0, *ends[:-1]], ends, strict=True)
    ]


class _Probe(NamedTuple):
    """A strip around an x that shows the values there on hover."""

    x: float
    start: float
    length: float
    label: str
    points: list[tuple[str, Point]]
    """Style class and point."""


def _probes(chart: LineChart, x: Scale, start: float, end: float) -> list[_Probe]:
    by_x: dict[float, list[tuple[str, Point]]] = {}
    for series in chart.series:
        for point in series.points:
            by_x.setdefault(point.x, []).append((series.stage, point))
    values = sorted(by_x)
    middles = [
        round((x(value) + x(following)) / 2, 1) for value, following in itertools.pairwise(values)
    ]
    probes = []
    for value, (low, high) in zip(values, itertools.pairwise([start, *middles, end]), strict=True):
        label = ", ".join(point.label for _, point in by_x[value])
        label = f"{chart.x_name} = {value:,.0f}: {label}" if chart.x_name else label
        probes.append(_Probe(x(value), low, round(max(high - low, 0.1), 1), label, by_x[value]))
    return probes


def _dot_layout(chart: DotChart, width: int) -> dict[str, Any]:
    row_height, top = 30, 34
    left = min(8 + _LETTER_WIDTH * max(len(label) for label, _ in chart.rows), width / 2.6)
    right, bottom = width - 20, top + row_height * len(chart.rows)
    largest = max(value for _, row in chart.rows for value in row.values())
    values = ticks(0.0, largest, 6 if width >= WIDE else 4)
    x = Scale(values[0], values[-1], left + 12, right)
    rows = []
    for index, (label, row) in enumerate(chart.rows):
        # The smallest value is drawn last, on top of dots at the same position.
        by_value = sorted(row.items(), key=lambda item: -item[1])
        dots = [(x(value), name, value) for name, value in by_value]
        rows.append((label, round(top + row_height * (index + 0.5), 1), dots))
    return {
        "height": bottom + 42,
        "left": round(left, 1),
        "right": right,
        "top": top,
        "bottom": bottom,
        "x_ticks": [(x(tick), f"{tick:g}") for tick in values],
        "rows": rows,
        "legend": _legend(chart.names, left + 12),
    }


def _legend(names: dict[str, str], start: float) -> list[tuple[float, str, str]]:
    """Position, style class and name of each entry."""
    entries = []
    for style, name in names.items():
        entries.append((round(start, 1), style, name))
        start += 16 + _LETTER_WIDTH * len(name) + 22
    return entries
