"""Numbers as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.formatting import count, duration, join_words, percent, size, three_digits


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (812, "812"),
        (999, "999"),
        (1_000, "1.00k"),
        (4_096, "4.10k"),
        (999_600, "1.00M"),
        (354_700_000_000, "355B"),
    ],
)
def test_count(value: int, expected: str) -> None:
    assert count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (6_400_000, "6.40 MB"),
        (140_000_000, "140 MB"),
        (2_500_000_000_000, "2.50 TB"),
    ],
)
def test_size(value: int, expected: str) -> None:
    assert size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.417, "0.42 s"),
        (4.2, "4.2 s"),
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7_620, "2 h 07 min"),
    ],
)
def test_duration(value: float, expected: str) -> None:
    assert duration(value) == expected


def test_percent_and_lists() -> None:
    assert percent(0.1276) == "12.8 %"
    assert [join_words(["a"]), join_words(["a", "b"]), join_words(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_digits_are_near_and_never_scientific(value: float) -> None:
    expected = three_digits(value)
    assert "e" not in expected
    assert float(expected) == pytest.approx(value, rel=0.0051)
