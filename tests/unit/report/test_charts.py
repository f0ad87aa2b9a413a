"""Charts: positions of ticks, lines, dots and hover strips."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.report.charts import (
    NARROW,
    WIDE,
    DotChart,
    LineChart,
    Point,
    Scale,
    Series,
    draw,
    log_ticks,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0.0, 10.0, 5, [0, 2, 4, 6, 8, 10]),
        (2.5, 8.2, 6, [2, 3, 4, 5, 6, 7, 8, 9]),
        (0.0, 3.9, 4, [0, 1, 2, 3, 4]),
        (0.0, 1_230_000.0, 6, [0, 500_000, 1_000_000, 1_500_000]),
        (5.0, 5.0, 4, [4, 6]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert ticks(low, high, count) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_cover_the_range(low: float, span: float, count: int) -> None:
    assume(low + span > low)
    result = ticks(low, low + span, count)
    tolerance = 1e-6 * max(span, abs(low))
    assert result[0] <= low + tolerance
    assert result[-1] >= low + span - tolerance
    assert 2 <= len(result) <= count + 3


def series(
    stage: str, *raw: tuple[float, float], faint: tuple[tuple[float, float], ...] | None = None
) -> Series:
    points = tuple(Point(x=x, y=y, label=f"{stage.upper()} {y:.2f}") for x, y in raw)
    return Series(
        stage=stage, name=stage.upper(), points=points, faint=(raw if faint is None else faint,)
    )


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
def test_logarithmic_ticks_end_with_the_last_count_if_it_fits(
    last: int, expected: list[int]
) -> None:
    assert log_ticks(last) == expected


def svg_of(chart: LineChart | DotChart, width: int) -> ElementTree.Element:
    return ElementTree.fromstring(draw(chart, width))  # noqa: S314 - our own


LINES = LineChart(
    title="Loss",
    description="It falls.",
    x_label="tokens",
    y_label="nats",
    series=(series("nl", (0.0, 8.0), (50.0, 4.0)), series("mono", (50.0, 4.0), (100.0, 2.0))),
    caption="",
)
CURVES = LineChart(
    title="pass@k",
    description="It rises.",
    x_name="k",
    x_label="k",
    y_label="percent",
    series=(
        series("nl", (1, 0.0), (10, 4.0), faint=((1, 0.0), (10, 2.0))),
        series("mono", (1, 4.0), (10, 6.0), (100, 8.0)),
    ),
    caption="",
    log_x=True,
)
DOTS = DotChart(
    title="Bits",
    description="Less is better.",
    x_label="bits",
    rows=(("English", {"nl": 2.0, "mono": 4.0}), ("Python", {"nl": 4.0, "mono": 1.0})),
    names={"nl": "NL", "mono": "Mono"},
)


def test_a_line_goes_through_its_points() -> None:
    svg = svg_of(LINES, WIDE)
    x, y = Scale(0, 100, 44, WIDE - 14), Scale(2, 8, 340 - 42, 46)
    paths = {path.get("class"): path.get("d") for path in svg.iter("path")}
    assert paths["line nl"] == f"M{x(0)} {y(8)}L{x(50)} {y(4)}"
    assert paths["line mono"] == f"M{x(50)} {y(4)}L{x(100)} {y(2)}"


def test_a_curve_goes_through_its_points_on_a_logarithmic_axis() -> None:
    svg = svg_of(CURVES, WIDE)
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
        "k = 1: NL 0.00, MONO 4.00",
        "k = 10: NL 4.00, MONO 6.00",
        "k = 100: MONO 8.00",
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


def test_hover_strips_cover_the_plot_without_gaps() -> None:
    strips = [
        (float(rect.get("x", "nan")), float(rect.get("width", "nan")))
        for rect in svg_of(LINES, WIDE).iter("rect")
    ]
    assert strips[0][0] == 44
    for (start, length), (following, _) in pairwise(strips):
        assert start + length == pytest.approx(following, abs=0.11)
    assert sum(strips[-1]) == pytest.approx(WIDE - 14)


def test_dots_are_placed_at_their_values() -> None:
    svg = svg_of(DOTS, WIDE)
    titled = {
        circle.findtext("title"): float(circle.get("cx", "nan"))
        for circle in svg.iter("circle")
        if len(circle)
    }
    item = titled["English, mono: 4.000"] - titled["English, nl: 2.000"]
    assert titled["Python, nl: 4.000"] - titled["Python, mono: 1.000"] == pytest.approx(
        1.5 * item, abs=0.2
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("chart", [LINES, CURVES, DOTS], ids=["lines", "curves", "dots"])
def test_a_chart_has_a_description_and_stays_inside_its_view(
    chart: LineChart | DotChart, width: int
) -> None:
    svg = svg_of(chart, width)
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
