"""Quality filters: thresholds by hand, statistics compared with plain Python."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.config import FilterConfig
from components.data.filters.quality import reject_reasons, text_stats

TEXTS = st.lists(
    st.text(
        alphabet=st.one_of(
            st.sampled_from("\n\n\r aAfFgG019\u00e9\u4e16\U0001f600"), st.characters(codec="utf-8")
        ),
        max_size=30,
    )
)


def column(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def reasons(*texts: str, config: FilterConfig | None = None) -> list[str | None]:
    return reject_reasons(column(list(texts)), config or FilterConfig()).to_pylist()


def lines_of(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


@settings(deadline=None)
@given(texts=TEXTS, skipped=st.integers(0, 3))
def test_text_stats_equal_plain_python(texts: list[str], skipped: int) -> None:
    # The buffers of a slice start before its first text.
    stats = text_stats(column(texts)[skipped:])
    texts = texts[skipped:]
    assert stats.num_characters.tolist() == [len(text) for text in texts]
    assert stats.num_digits.tolist() == [
        sum(c in "0123456789abcdefABCDEF" for c in text) for text in texts
    ]
    assert stats.num_lines.tolist() == [len(lines_of(text)) for text in texts]
    assert stats.line_characters.tolist() == [sum(map(len, lines_of(text))) for text in texts]
    assert stats.longest_line.tolist() == [
        max(map(len, lines_of(text)), default=0) for text in texts
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print(1)\n", None),
        ("\n", None),
        ("", "empty"),
        (f"{'z' * 99}\n" * 3, None),
        (f"{'z' * 100}\n" * 3, "mean line length"),
        (f"{'z' * 100}\n" * 3 + "\n", None),  # with the empty fourth line, the mean is 75
        (f"{'z' * 1000}\n" + "z\n" * 20, None),
        (f"{'z' * 1001}\n" + "z\n" * 20, "line length"),
        ("\u00e9" * 1000 + "\nz\n" + "z\n" * 20, None),  # 2,000 bytes, 1,000 characters
        ("\u00e9" * 1001 + "\nz\n" + "z\n" * 20, "line length"),
        ("0123456789" * 9 + "z" * 9 + "\n", None),  # 90 of 100 characters, the newline counts
        ("0123456789" * 9 + "a" + "z" * 8 + "\n", "digits"),
        ("deadBEEF\n" * 9 + "z", None),  # 72 of 82 characters
        ("deadBEEFdeadBEEF\n" * 9, "digits"),  # 144 of 153 characters
    ],
)
def test_thresholds_of_the_paper(text: str, reason: str | None) -> None:
    assert reasons(text) == [reason]


def test_first_reason_in_the_order_of_the_paper_counts() -> None:
    assert reasons("1" * 1001, "1" * 1001 + "\n" * 50, "1" * 50) == [
        "mean line length",
        "line length",
        "digits",
    ]


def test_texts_are_filtered_independently() -> None:
    """A last line without newline ends with its text, and empty texts have no effect."""
    assert reasons("z" * 60, "", "z" * 60, "", "y\n", "1" * 20) == [
        None,
        "empty",
        None,
        "empty",
        None,
        "digits",
    ]
    assert reasons() == []
    assert reasons("", "") == ["empty", "empty"]


def test_thresholds_come_from_the_configuration() -> None:
    strict = FilterConfig(max_mean_line_length=10, max_line_length=12, max_digit_fraction=0.5)
    texts = ["z" * 10, "z\n" + "z" * 13, "1z", "11z"]
    assert reasons(*texts, config=strict) == ["mean line length", "line length", None, "digits"]
    assert reasons(*texts) == [None, None, None, None]
