"""Charts as inline SVG: lines over one axis, curves over a logarithmic one, and rows of dots.

One decision: drawn by hand in a few shapes, without a plotting library. Colours are classes that the page's style sheet
fills, so a chart follows light and dark; a chart is drawn once per width, so its letters keep their size on a phone. Each
point of a line shows its figures when pointed at, by style alone. Not covered: more axes or kinds than this page has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from components.evaluation.report.markup import Element, node
from components.evaluation.report.plots import CurveChart, DotChart, LineChart, Point, Series

WIDE, NARROW = 880, 360
"""Widths in CSS pixels: the page's column, and a phone's."""

_LETTER = 6.6
"""Width of a letter at the charts' 12 pixels, measured for the system's sans serif; for placing, not for cutting."""


class Scale(NamedTuple):
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(
            self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1
        )


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round values (1, 2 or 5 times a power of ten apart) that cover `low` to `high`, ends included."""
    span = high - low or abs(high) or 1.0
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def line_chart(chart: LineChart, width: int) -> Element:
    """A line per series, one after the other along x, each under its own name."""
    height = 340 if width >= WIDE else 260
    left, right, top, bottom = 44, 14, 46, 42
    every_y = [
        y
        for series in chart.series
        for y in (*(y for _, y in series.raw), *(point.y for point in series.points))
    ]
    last_x = max(point[0] for series in chart.series for point in series.raw)
    y_ticks = ticks(min(every_y), max(every_y), 6)
    x_ticks = [tick for tick in ticks(0.0, last_x, 6 if width >= WIDE else 4) if tick <= last_x]
    x, y = (
        Scale(0.0, last_x, left, width - right),
        Scale(y_ticks[0], y_ticks[-1], height - bottom, top),
    )
    return _svg(
        chart.title,
        chart.description,
        width,
        height,
        *(_grid_line(left, width - right, y(tick), f"{tick:g}") for tick in y_ticks),
        *(
            _text(x(tick), height - bottom + 18, _trimmed(tick), anchor="middle")
            for tick in x_ticks
        ),
        _text(left, 14, chart.y_label, cls="axis"),
        _text(width - right, height - 6, chart.x_label, anchor="end", cls="axis"),
        *_all_series(chart.series, x, y, width),
    )


def _trimmed(value: float) -> str:
    """A round count without idle zeros: `2M`, `500k`."""
    limit, unit = next(
        ((one, unit) for one, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= one), (1, "")
    )
    return f"{value / limit:g}{unit}"


def _all_series(
    all_series: tuple[Series, ...], x: Scale, y: Scale, width: int
) -> Iterable[Element]:
    start = 0.0
    for index, series in enumerate(all_series):
        end = series.raw[-1][0]
        middle, border = (x(start) + x(end)) / 2, x(start)
        if index:
            yield node("line", x1=border, x2=border, y1=y.end, y2=y.start, class_="border")
        yield _text(middle, y.end - 8, series.name, anchor="middle", cls=f"name {series.mark}")
        yield node(
            "path", d=_path((x(a), y(b)) for a, b in series.raw), class_=f"raw {series.mark}"
        )
        yield node(
            "path",
            d=_path((x(one.x), y(one.y)) for one in series.points),
            class_=f"line {series.mark}",
        )
        if width >= WIDE:
            yield from _probes(series, x, y)
        start = end


def _probes(series: Series, x: Scale, y: Scale) -> Iterable[Element]:
    """A strip around each point that, pointed at, shows a rule, a dot and the point's label."""
    points = series.points
    edges = [x((one.x + other.x) / 2) for one, other in itertools.pairwise(points)]
    starts = [x(series.raw[0][0]), *edges]
    ends = [*edges, x(series.raw[-1][0])]
    for point, start, end in zip(points, starts, ends, strict=True):
        yield _probe(point, series.mark, start, max(end - start, 0.1), x, y)


def _probe(point: Point, mark: str, start: float, length: float, x: Scale, y: Scale) -> Element:
    across, down = x(point.x), y(point.y)
    return node(
        "g",
        node("rect", x=start, y=y.end, width=round(length, 1), height=y.start - y.end),
        node("line", x1=across, x2=across, y1=y.end, y2=y.start),
        node("circle", cx=across, cy=down, r=4, class_=mark),
        _text(x.end, 14, point.label, anchor="end"),
        class_="probe",
    )


def curve_chart(chart: CurveChart, width: int) -> Element:
    """Lines over a logarithmic axis, those that they bound faintly behind; each count shows its figures when pointed at."""
    height = 340 if width >= WIDE else 260
    left, right, top, bottom = 44, 14, 62, 42
    counts = sorted({count for curve in chart.curves for count, _ in curve.points})
    y_ticks = ticks(0.0, max(value for curve in chart.curves for _, value in curve.points), 6)
    to_log = Scale(0.0, math.log(counts[-1]), left, width - right)
    y = Scale(0.0, y_ticks[-1], height - bottom, top)

    def x(count: float) -> float:
        return to_log(math.log(count))

    return _svg(
        chart.title,
        chart.description,
        width,
        height,
        *(_grid_line(left, width - right, y(tick), f"{tick:g}") for tick in y_ticks),
        *(
            _text(x(tick), height - bottom + 18, f"{tick:g}", anchor="middle")
            for tick in log_ticks(counts[-1])
        ),
        _text(left, 42, chart.y_label, cls="axis"),
        _text(width - right, height - 6, chart.x_label, anchor="end", cls="axis"),
        *_legend({curve.mark: curve.name for curve in chart.curves}, left),
        *(
            node("path", d=_path((x(a), y(b)) for a, b in line), class_=f"raw {curve.mark}")
            for curve in chart.curves
            for line in curve.faint
        ),
        *(
            node(
                "path", d=_path((x(a), y(b)) for a, b in curve.points), class_=f"line {curve.mark}"
            )
            for curve in chart.curves
        ),
        *(_counts(chart, counts, x, y, width - right) if width >= WIDE else ()),
    )


def log_ticks(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to `last`, and `last` itself where none of them is near."""
    found = [
        factor * 10**power
        for power in range(len(str(last)))
        for factor in (1, 2, 5)
        if factor * 10**power <= last
    ]
    return found if last < 1.25 * found[-1] else [*found, last]


def _counts(
    chart: CurveChart, counts: list[int], x: Callable[[float], float], y: Scale, end: float
) -> Iterable[Element]:
    """A strip around each count that, pointed at, shows a rule, the dots and their figures."""
    middles = [round((x(one) + x(other)) / 2, 1) for one, other in itertools.pairwise(counts)]
    for count, start, stop in zip(
        counts, [x(counts[0]), *middles], [*middles, x(counts[-1])], strict=True
    ):
        here = {curve: value for curve in chart.curves for at, value in curve.points if at == count}
        said = ", ".join(f"{curve.name} {value:.2f}" for curve, value in here.items())
        yield node(
            "g",
            node(
                "rect",
                x=start,
                y=y.end,
                width=round(max(stop - start, 0.1), 1),
                height=y.start - y.end,
            ),
            node("line", x1=x(count), x2=x(count), y1=y.end, y2=y.start),
            *(
                node("circle", cx=x(count), cy=y(value), r=4, class_=curve.mark)
                for curve, value in here.items()
            ),
            _text(end, 42, f"{chart.x_name} = {count:,}: {said}", anchor="end"),
            class_="probe",
        )


def dot_chart(chart: DotChart, width: int) -> Element:
    """A row per thing: a dot for each stage that was measured, joined by a line from the least to the greatest."""
    row_height, top, bottom = 30, 34, 42
    left = min(8 + _LETTER * max(len(label) for label, _ in chart.rows), width / 2.6)
    right, height = 20, top + row_height * len(chart.rows) + bottom
    marks = ticks(
        0.0,
        max(value for _, row in chart.rows for value in row.values()),
        6 if width >= WIDE else 4,
    )
    x = Scale(marks[0], marks[-1], left + 12, width - right)
    return _svg(
        chart.title,
        chart.description,
        width,
        height,
        *(
            node("line", x1=x(tick), x2=x(tick), y1=top, y2=height - bottom, class_="grid")
            for tick in marks
        ),
        *(_text(x(tick), height - bottom + 18, f"{tick:g}", anchor="middle") for tick in marks),
        _text(width - right, height - 6, chart.x_label, anchor="end", cls="axis"),
        *_legend(chart.names, left + 12),
        *(
            _row(label, row, x, left, top + row_height * (i + 0.5))
            for i, (label, row) in enumerate(chart.rows)
        ),
    )


def _legend(names: dict[str, str], start: float) -> Iterable[Element]:
    across = start
    for mark, name in names.items():
        yield node("circle", cx=across + 5, cy=14, r=5, class_=mark)
        yield _text(across + 16, 18, name, cls="legend")
        across += 16 + _LETTER * len(name) + 22


def _row(label: str, row: dict[str, float], x: Scale, left: float, down: float) -> Element:
    """The dots; the least is drawn last, so that it lies on top where dots coincide."""
    by_value = sorted(row.items(), key=lambda one: -one[1])
    return node(
        "g",
        _text(left, down + 4, label, anchor="end", cls="label"),
        node(
            "line",
            x1=x(min(row.values())),
            x2=x(max(row.values())),
            y1=down,
            y2=down,
            class_="span",
        ),
        *(
            node(
                "circle",
                node("title", f"{label}, {mark}: {value:.3f}"),
                cx=x(value),
                cy=down,
                r=6,
                class_=mark,
            )
            for mark, value in by_value
        ),
    )


def _svg(title: str, description: str, width: int, height: int, *shapes: Element) -> Element:
    return node(
        "svg",
        node("title", title),
        node("desc", description),
        *shapes,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="wide" if width >= WIDE else "narrow",
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", cls: str = "tick") -> Element:
    return node("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=cls)


def _grid_line(start: float, end: float, down: float, label: str) -> Element:
    return node(
        "g",
        node("line", x1=start, x2=end, y1=down, y2=down, class_="grid"),
        _text(start - 8, down + 4, label, anchor="end"),
    )


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{across} {down}" for across, down in points)
