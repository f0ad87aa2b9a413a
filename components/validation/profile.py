"""Measure documents without looking at them one by one in Python.

Design decision: the texts stay in Arrow, whose kernels run over the whole column; only their measures, one short row a
document, reach pandas and Great Expectations. Peak memory is that of one corpus in Arrow.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_CONTROL = r"[\x00-\x08\x0b\x0e-\x1f\x7f]"
"""ASCII control characters, without those that text uses: tab, line feed, form feed, carriage return."""
_REPLACEMENT = "\ufffd"
"""What a decoder puts where bytes could not be decoded."""


def profile(documents: pa.Table) -> pd.DataFrame:
    """One row a document: all columns but `text`, and in its place the measures of the text, null where it is null.

    Measures: num_bytes (UTF-8), num_chars (code points), is_blank (nothing but white space), and control_fraction and
    replacement_fraction (shares of num_chars; 0 for an empty text).
    """
    if "text" not in documents.column_names:
        return documents.to_pandas()
    text = documents["text"]
    num_chars = pc.utf8_length(text)
    measures = {
        "num_bytes": pc.binary_length(text),
        "num_chars": num_chars,
        "is_blank": pc.or_(pc.equal(num_chars, 0), pc.utf8_is_space(text)),
        "control_fraction": _share(pc.count_substring_regex(text, _CONTROL), num_chars),
        "replacement_fraction": _share(pc.count_substring(text, _REPLACEMENT), num_chars),
    }
    table = documents.drop_columns(["text"])
    for name, column in measures.items():
        table = table.append_column(name, column)
    return table.to_pandas()


def _share(part: pa.ChunkedArray, whole: pa.ChunkedArray) -> pa.ChunkedArray:
    # An empty text has a share of 0, and no text has no share.
    at_least_one = pc.max_element_wise(whole, 1, skip_nulls=False)
    return pc.divide(part.cast(pa.float64()), at_least_one.cast(pa.float64()))
