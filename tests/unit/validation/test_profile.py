"""The measures of documents, against plain Python over the same texts."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from components.validation.profile import profile

TEXTS = st.lists(
    st.text(alphabet=st.sampled_from("ab é\u3000\t\n\r\f\v\0\x01\x1b\x7f\ufffd漢😀"), max_size=12), min_size=1, max_size=8
)
CONTROL = {chr(code) for code in (*range(32), 127)} - set("\t\n\f\r")


@given(TEXTS)
def test_measures_are_those_of_plain_python(texts: list[str]) -> None:
    measured = profile(
        pa.table(
            {"path": [""] * len(texts), "text": texts},
            schema=pa.schema([("path", pa.string()), ("text", pa.large_string())]),
        )
    )
    assert list(measured.columns) == [
        "path",
        "num_bytes",
        "num_chars",
        "is_blank",
        "control_fraction",
        "replacement_fraction",
    ]
    assert list(measured["num_bytes"]) == [len(text.encode()) for text in texts]
    assert list(measured["num_chars"]) == [len(text) for text in texts]
    assert list(measured["is_blank"]) == [not text.strip() for text in texts]
    assert list(measured["control_fraction"]) == [
        sum(char in CONTROL for char in text) / max(len(text), 1) for text in texts
    ]
    assert list(measured["replacement_fraction"]) == [text.count("\ufffd") / max(len(text), 1) for text in texts]


def test_no_text_has_no_measures() -> None:
    measured = profile(pa.table({"text": ["a", None]}))
    assert measured.iloc[0].notna().all()
    assert measured.iloc[1].isna().all()
    assert isinstance(measured, pd.DataFrame)
