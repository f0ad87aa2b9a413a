"""The paper's filters, over whole columns of texts at once.

A filter returns a reason, not a verdict, so that every rejected document can be counted and looked at. Everything is
computed in a few numpy passes over the bytes of an Arrow column. Lengths count characters, as the paper does, not bytes.
The filter by file extension is done where archives are read (`corpus.json`), not here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.data.config import FilterConfig
from components.data.filters.arrow_text import Bytes, Counts, bytes_and_offsets

EMPTY = "empty"
MEAN_LINE_LENGTH = "mean line length"
LINE_LENGTH = "line length"
DIGITS = "digits"
CONTAMINATED = "contaminated"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
IN_OTHER_CORPUS = "in another corpus"
"""Reasons that are no filter's: given by `decontamination`, `documents` and `near_duplicates`. The last one marks a document
of another corpus itself, where copies of such are dropped."""

_NEWLINE = ord("\n")


class TextStats(NamedTuple):
    """What the filters look at, each [number of texts]."""

    num_characters: Counts
    """Unicode code points, newlines included."""
    num_digits: Counts
    """Decimal and hexadecimal digits: 0-9, a-f, A-F."""
    num_lines: Counts
    """Lines end with "\\n" or with the text; a final newline begins no further line."""
    line_characters: Counts
    """Code points in lines, without the newlines between them."""
    longest_line: Counts
    """Code points in the longest line."""


FILTERS: dict[str, Callable[[TextStats, FilterConfig], npt.NDArray[np.bool_]]] = {
    EMPTY: lambda found, _: found.num_characters == 0,
    MEAN_LINE_LENGTH: lambda found, config: (
        found.line_characters >= config.max_mean_line_length * found.num_lines
    ),
    LINE_LENGTH: lambda found, config: found.longest_line > config.max_line_length,
    DIGITS: lambda found, config: (
        found.num_digits > config.max_digit_fraction * found.num_characters
    ),
}
"""Every filter: the reason it gives, and which texts it rejects, [number of texts]. Source of the rules: docs/paper.md,
section 1, in its order. A text without any character is rejected as well: it is no document."""

REASONS = tuple(FILTERS)
"""Why a filter rejects a document: the first that applies."""


def reject_reasons(texts: pa.LargeStringArray, config: FilterConfig) -> pa.StringArray:
    """Why each text is rejected, the first reason of `FILTERS` that applies; null where it is kept."""
    found = measure(texts)
    reasons = np.full(len(texts), None, dtype=object)
    for reason in reversed(REASONS):
        reasons[FILTERS[reason](found, config)] = reason
    return pa.array(reasons, type=pa.string())


def measure(texts: pa.LargeStringArray) -> TextStats:
    """Count characters, digits and lines of each text."""
    data, offsets = bytes_and_offsets(texts)
    starts, ends, has_newline = _lines(data, offsets)
    # In UTF-8 every byte 0b10xxxxxx continues a character. They are rare, so each is sought instead of counting along.
    continuations = np.searchsorted(ends, np.flatnonzero((data & 0xC0) == 0x80), side="right")
    lengths = ends - starts - has_newline - np.bincount(continuations, minlength=len(ends))
    owner = np.searchsorted(offsets, starts, side="right") - 1
    num_lines = np.bincount(owner, minlength=len(texts))
    line_characters = _for_each_text(np.add, lengths, num_lines)
    is_digit = ((data - ord("0")) < 10) | (
        ((data | 0x20) - ord("a")) < 6
    )  # both wrap around below zero
    return TextStats(
        num_characters=line_characters + np.bincount(owner[has_newline], minlength=len(texts)),
        num_digits=np.array(
            [np.count_nonzero(is_digit[a:b]) for a, b in pairwise(offsets)], dtype=np.int64
        ),
        num_lines=num_lines,
        line_characters=line_characters,
        longest_line=_for_each_text(np.maximum, lengths, num_lines),
    )


def _lines(data: Bytes, offsets: Counts) -> tuple[Counts, Counts, npt.NDArray[np.bool_]]:
    """The byte ranges of all lines, which tile the data, and whether each ends with a newline (which it then includes)."""
    after_newlines = np.flatnonzero(data == _NEWLINE) + 1
    text_ends = offsets[1:][np.diff(offsets) > 0]
    unfinished = text_ends[data[text_ends - 1] != _NEWLINE]
    ends = np.insert(after_newlines, np.searchsorted(after_newlines, unfinished), unfinished)
    starts = np.concatenate([offsets[:1], ends])[: len(ends)]
    return starts, ends, data[ends - 1] == _NEWLINE


def _for_each_text(reduce: np.ufunc, values: Counts, num_lines: Counts) -> Counts:
    """Reduce the values of each text's lines to one; 0 for a text without lines."""
    reduced = np.zeros(len(num_lines), dtype=np.int64)
    filled = num_lines > 0
    if filled.any():
        first_line = np.cumsum(num_lines) - num_lines
        reduced[filled] = reduce.reduceat(values, first_line[filled])
    return reduced
