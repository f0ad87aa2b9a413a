"""Text statistics agree with plain Python on the same texts."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validation.text_stats import measure_texts

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
def test_statistics_are_those_of_plain_python(texts: list[str | None], skipped: int) -> None:
    column = pa.array(texts, type=pa.large_string()).slice(skipped)
    expected = [text or "" for text in texts[skipped:]]
    measures = measure_texts(column)
    assert list(measures.num_bytes) == [len(text.encode()) for text in expected]
    assert list(measures.num_chars) == [len(text) for text in expected]
    assert list(measures.is_blank) == [not text.strip() for text in expected]
    assert list(measures.control_fraction) == [
        sum(char in CONTROL for char in text) / max(len(text), 1) for text in expected
    ]
    assert list(measures.replacement_fraction) == [
        text.count("\ufffd") / max(len(text), 1) for text in expected
    ]


def test_columns_larger_than_a_slice_are_measured_completely() -> None:
    # 5 MB in three slices; the second text is larger than a slice, the third is empty.
    texts = ["a" * 1_000_000, "\ufffd" * 1_000_000, "", "\x01" * 999_999 + "b"]
    measures = measure_texts(pa.array(texts, type=pa.large_string()))
    assert measures.num_bytes.tolist() == [1_000_000, 3_000_000, 0, 1_000_000]
    assert measures.control_fraction.tolist() == [0, 0, 0, 0.999999]
    assert measures.replacement_fraction.tolist() == [0, 1, 0, 0]


def test_exactly_the_control_characters_of_ascii_count_as_control() -> None:
    measures = measure_texts(pa.array([chr(code) for code in range(128)], type=pa.large_string()))
    assert {code for code in range(128) if measures.control_fraction[code]} == {
        ord(char) for char in CONTROL
    }
