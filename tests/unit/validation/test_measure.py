"""The measures of texts, against plain Python over the same texts."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validation.text_stats import measure

TEXTS = st.lists(
    st.none()
    | st.text(
        alphabet=st.sampled_from("ab é\u3000\t\n\r\f\v\0\x01\x1b\x7f\ufffd\uffee漢😀"), max_size=12
    ),
    max_size=8,
)
CONTROL = {chr(code) for code in (*range(32), 127)} - set("\t\n\f\r")


@settings(deadline=None)
@given(TEXTS, st.integers(0, 3))
def test_measures_are_those_of_plain_python(texts: list[str | None], skipped: int) -> None:
    column = pa.array(texts, type=pa.large_string()).slice(skipped)
    expected = [text or "" for text in texts[skipped:]]
    measured = measure(column)
    assert list(measured.num_bytes) == [len(text.encode()) for text in expected]
    assert list(measured.num_chars) == [len(text) for text in expected]
    assert list(measured.is_blank) == [not text.strip() for text in expected]
    assert list(measured.control_fraction) == [
        sum(char in CONTROL for char in text) / max(len(text), 1) for text in expected
    ]
    assert list(measured.replacement_fraction) == [
        text.count("\ufffd") / max(len(text), 1) for text in expected
    ]


def test_columns_larger_than_a_slice_lose_nothing() -> None:
    # 5 MB: two slices and a rest; the second text alone is larger than a slice, the third is empty.
    texts = ["a" * 1_000_000, "\ufffd" * 1_000_000, "", "\x01" * 999_999 + "b"]
    measured = measure(pa.array(texts, type=pa.large_string()))
    assert measured.num_bytes.tolist() == [1_000_000, 3_000_000, 0, 1_000_000]
    assert measured.control_fraction.tolist() == [0, 0, 0, 0.999999]
    assert measured.replacement_fraction.tolist() == [0, 1, 0, 0]


def test_every_ascii_character_is_on_its_side() -> None:
    measured = measure(pa.array([chr(code) for code in range(128)], type=pa.large_string()))
    assert {code for code in range(128) if measured.control_fraction[code]} == {
        ord(char) for char in CONTROL
    }
