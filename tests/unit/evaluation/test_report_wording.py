"""Figures and foreign text as the page writes them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.report.wording import (
    count,
    duration,
    listed,
    percent,
    printable,
    size,
    three_digits,
)


@pytest.mark.parametrize(
    ("value", "said"),
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
def test_count(value: int, said: str) -> None:
    assert count(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (6_400_000, "6.40 MB"),
        (140_000_000, "140 MB"),
        (2_500_000_000_000, "2.50 TB"),
    ],
)
def test_size(value: int, said: str) -> None:
    assert size(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.417, "0.42 s"),
        (4.2, "4.2 s"),
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7_620, "2 h 07 min"),
    ],
)
def test_duration(value: float, said: str) -> None:
    assert duration(value) == said


def test_percent_and_lists() -> None:
    assert percent(0.1276) == "12.8 %"
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_digits_are_near_and_never_scientific(value: float) -> None:
    said = three_digits(value)
    assert "e" not in said
    assert float(said) == pytest.approx(value, rel=0.0051)


@given(st.text(st.characters(codec=None)))
def test_printable_leaves_nothing_that_acts_on_a_terminal_or_hides(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    assert not [
        c
        for c in shown
        if unicodedata.bidirectional(c)
        in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI")
    ]
    assert printable(shown) == shown


def test_printable_shows_what_was_there() -> None:
    assert printable("a\x1b[2Jb\x00\x7f\r") == "a\u241b[2Jb\u2400\u2421\u240d"
    assert (
        printable("tab\tand\nline stay: \u00e9 \u4e2d \U0001f600")
        == "tab\tand\nline stay: \u00e9 \u4e2d \U0001f600"
    )
