"""The paper's filters: the bounds by hand, and every count against plain Python."""

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
def test_counts_are_those_of_plain_python(texts: list[str], skipped: int) -> None:
    found = text_stats(column(texts)[skipped:])  # a slice: its buffers begin before its first text
    texts = texts[skipped:]
    assert found.num_characters.tolist() == [len(text) for text in texts]
    assert found.num_digits.tolist() == [
        sum(c in "0123456789abcdefABCDEF" for c in text) for text in texts
    ]
    assert found.num_lines.tolist() == [len(lines_of(text)) for text in texts]
    assert found.line_characters.tolist() == [sum(map(len, lines_of(text))) for text in texts]
    assert found.longest_line.tolist() == [
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
        (f"{'z' * 100}\n" * 3 + "\n", None),  # the fourth line, an empty one, brings the mean to 75
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
def test_the_bounds_of_the_paper(text: str, reason: str | None) -> None:
    assert reasons(text) == [reason]


def test_the_first_reason_in_the_papers_order_is_given() -> None:
    assert reasons("1" * 1001, "1" * 1001 + "\n" * 50, "1" * 50) == [
        "mean line length",
        "line length",
        "digits",
    ]


def test_each_text_is_judged_by_itself() -> None:
    """An unfinished last line does not run on into the next text, and empty texts shift nothing."""
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


def test_bounds_come_from_the_configuration() -> None:
    strict = FilterConfig(max_mean_line_length=10, max_line_length=12, max_digit_fraction=0.5)
    texts = ["z" * 10, "z\n" + "z" * 13, "1z", "11z"]
    assert reasons(*texts, config=strict) == ["mean line length", "line length", None, "digits"]
    assert reasons(*texts) == [None, None, None, None]
