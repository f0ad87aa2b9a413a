"""Charts: where things are drawn."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.evaluation.report.charts import (
    NARROW,
    WIDE,
    Scale,
    curve_chart,
    dot_chart,
    line_chart,
    log_ticks,
    ticks,
)
from components.evaluation.report.markup import Element
from components.evaluation.report.plots import Curve, CurveChart, DotChart, LineChart, Point, Series


@pytest.mark.parametrize(
    ("low", "high", "wanted", "expected"),
    [
        (0.0, 10.0, 5, [0, 2, 4, 6, 8, 10]),
        (2.5, 8.2, 6, [2, 3, 4, 5, 6, 7, 8, 9]),
        (0.0, 3.9, 4, [0, 1, 2, 3, 4]),
        (0.0, 1_230_000.0, 6, [0, 500_000, 1_000_000, 1_500_000]),
        (5.0, 5.0, 4, [4, 6]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: int, expected: list[float]) -> None:
    assert ticks(low, high, wanted) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_cover_what_is_drawn(low: float, span: float, wanted: int) -> None:
    assume(low + span > low)
    found = ticks(low, low + span, wanted)
    tolerance = 1e-6 * max(span, abs(low))
    assert found[0] <= low + tolerance
    assert found[-1] >= low + span - tolerance
    assert 2 <= len(found) <= wanted + 3


def series(mark: str, *raw: tuple[float, float]) -> Series:
    points = tuple(Point(x=x, y=y, label=f"{mark} {x:g}") for x, y in raw)
    return Series(mark=mark, name=mark.upper(), points=points, raw=raw)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (5, [1, 2, 5]),
        (11, [1, 2, 5, 10]),
        (40, [1, 2, 5, 10, 20, 40]),
        (200, [1, 2, 5, 10, 20, 50, 100, 200]),
    ],
)
def test_ticks_of_counts_end_with_the_last_where_there_is_room(
    last: int, expected: list[int]
) -> None:
    assert log_ticks(last) == expected


def drawn(chart: LineChart | CurveChart | DotChart, width: int) -> Element:
    if isinstance(chart, CurveChart):
        return curve_chart(chart, width)
    return line_chart(chart, width) if isinstance(chart, LineChart) else dot_chart(chart, width)


LINES = LineChart(
    title="Loss",
    description="It falls.",
    x_label="tokens",
    y_label="nats",
    series=(series("nl", (0.0, 8.0), (50.0, 4.0)), series("mono", (50.0, 4.0), (100.0, 2.0))),
    caption="",
)
CURVES = CurveChart(
    title="pass@k",
    description="It rises.",
    x_name="k",
    x_label="k",
    y_label="percent",
    curves=(
        Curve(mark="nl", name="NL", points=((1, 0.0), (10, 4.0)), faint=(((1, 0.0), (10, 2.0)),)),
        Curve(mark="mono", name="Mono", points=((1, 4.0), (10, 6.0), (100, 8.0))),
    ),
    caption="",
)
DOTS = DotChart(
    title="Bits",
    description="Less is better.",
    x_label="bits",
    rows=(("English", {"nl": 2.0, "mono": 4.0}), ("Python", {"nl": 4.0, "mono": 1.0})),
    names={"nl": "NL", "mono": "Mono"},
)


def test_a_line_goes_through_its_points() -> None:
    svg = line_chart(LINES, WIDE)
    x, y = Scale(0, 100, 44, WIDE - 14), Scale(2, 8, 340 - 42, 46)
    paths = {path.get("class"): path.get("d") for path in svg.iter("path")}
    assert paths["line nl"] == f"M{x(0)} {y(8)}L{x(50)} {y(4)}"
    assert paths["line mono"] == f"M{x(50)} {y(4)}L{x(100)} {y(2)}"


def test_a_curve_goes_through_its_points_on_a_logarithmic_axis() -> None:
    svg = curve_chart(CURVES, WIDE)
    y = Scale(0, 8, 340 - 42, 62)
    left, middle, right = (
        44.0,
        (44 + WIDE - 14) / 2,
        WIDE - 14.0,
    )  # 1, 10 and 100 are equally far apart.
    paths = {path.get("class"): path.get("d") for path in svg.iter("path")}
    assert paths["line mono"] == f"M{left} {y(4)}L{middle} {y(6)}L{right} {y(8)}"
    assert paths["raw nl"] == f"M{left} {y(0)}L{middle} {y(2)}"
    probes = [text.text for text in svg.iter("text") if text.text and text.text.startswith("k = ")]
    assert probes == [
        "k = 1: NL 0.00, Mono 4.00",
        "k = 10: NL 4.00, Mono 6.00",
        "k = 100: Mono 8.00",
    ]
    strips = [
        (float(rect.get("x", "nan")), float(rect.get("width", "nan"))) for rect in svg.iter("rect")
    ]
    assert strips[0][0] == left
    assert all(
        start + width == pytest.approx(after, abs=0.11)
        for (start, width), (after, _) in pairwise(strips)
    )
    assert sum(strips[-1]) == pytest.approx(right, abs=0.11)


def test_what_is_pointed_at_covers_the_plot_without_gaps() -> None:
    strips = [
        (float(rect.get("x", "nan")), float(rect.get("width", "nan")))
        for rect in line_chart(LINES, WIDE).iter("rect")
    ]
    assert strips[0][0] == 44
    for (start, length), (following, _) in pairwise(strips):
        assert start + length == pytest.approx(following, abs=0.11)
    assert sum(strips[-1]) == pytest.approx(WIDE - 14)


def test_dots_stand_at_their_values() -> None:
    svg = dot_chart(DOTS, WIDE)
    titled = {
        circle.findtext("title"): float(circle.get("cx", "nan"))
        for circle in svg.iter("circle")
        if len(circle)
    }
    one = titled["English, mono: 4.000"] - titled["English, nl: 2.000"]
    assert titled["Python, nl: 4.000"] - titled["Python, mono: 1.000"] == pytest.approx(
        1.5 * one, abs=0.2
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("chart", [LINES, CURVES, DOTS], ids=["lines", "curves", "dots"])
def test_a_chart_says_what_it_shows_and_stays_inside(
    chart: LineChart | CurveChart | DotChart, width: int
) -> None:
    svg = drawn(chart, width)
    assert svg.get("role") == "img"
    assert svg.findtext("title") == chart.title
    assert svg.findtext("desc") == chart.description
    _, _, right, bottom = map(float, svg.get("viewBox", "").split())
    assert right == width
    for name, limit in [
        ("x", right),
        ("x1", right),
        ("x2", right),
        ("cx", right),
        ("y", bottom),
        ("cy", bottom),
    ]:
        for element in svg.iter():
            assert 0 <= float(element.get(name, 0)) <= limit, (element.tag, name)
