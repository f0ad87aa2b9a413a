"""The paper's quality filters, over columns of texts.

A filter returns a reason, so that each rejected document can be counted and inspected. Lengths are
characters, as in the paper. The filter by file extension is applied when archives are read
(`corpus.json`). A new or changed rule needs a raised `CODE_VERSION` in
`components.preparation.corpus_pipeline`, because a rule with a default changes no recipe hash.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.data.config import FilterConfig
from components.data.filters.ngrams import Bytes, Counts, bytes_and_offsets

EMPTY = "empty"
MEAN_LINE_LENGTH = "mean line length"
LINE_LENGTH = "line length"
DIGITS = "digits"
CONTAMINATED = "contaminated"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
IN_OTHER_CORPUS = "in another corpus"
NOT_SAMPLED = "not sampled"
"""Reasons of `decontamination`, `documents` and `minhash`. `IN_OTHER_CORPUS` marks documents of
earlier corpora, whose copies are rejected. `NOT_SAMPLED` marks documents of a source with less than
one epoch that do not occur in it."""

_NEWLINE = ord("\n")


class TextStats(NamedTuple):
    """Statistics of texts, each [number of texts]."""

    num_characters: Counts
    """Unicode code points, with newlines."""
    num_digits: Counts
    """Decimal and hexadecimal digits: 0-9, a-f, A-F."""
    num_lines: Counts
    """A line ends with "\\n" or with the text; no line follows a final newline."""
    line_characters: Counts
    """Code points in lines, without newlines."""
    longest_line: Counts
    """Code points in the longest line."""


FILTERS: dict[str, Callable[[TextStats, FilterConfig], npt.NDArray[np.bool_]]] = {
    EMPTY: lambda stats, _: stats.num_characters == 0,
    MEAN_LINE_LENGTH: lambda stats, config: (
        stats.line_characters >= config.max_mean_line_length * stats.num_lines
    ),
    LINE_LENGTH: lambda stats, config: stats.longest_line > config.max_line_length,
    DIGITS: lambda stats, config: (
        stats.num_digits > config.max_digit_fraction * stats.num_characters
    ),
}
"""Reason of each filter, and which texts it rejects, [number of texts] (docs/paper.md, section 1,
in its order). Texts without characters are rejected too."""

REASONS = tuple(FILTERS)
"""Reasons of the filters; the first that applies counts."""


class Step(NamedTuple):
    """A step of a preparation."""

    name: str
    """The documents after the step, as in "filtered documents"."""
    setting: str
    """The field of a corpus, or of a source, that configures the step."""
    reasons: tuple[str, ...]
    """Why the step rejects documents."""


STEPS = (
    Step("filtered", "filters", REASONS),
    Step("decontaminated", "decontamination", (CONTAMINATED,)),
    Step("sampled", "epochs", (NOT_SAMPLED,)),
    Step("deduplicated", "exact_dedup", (DUPLICATE,)),
    Step("near-deduplicated", "near_duplicates", (NEAR_DUPLICATE,)),
)
"""In their order: a step sees the documents that earlier steps accept."""


def reject_reasons(texts: pa.LargeStringArray, config: FilterConfig | None) -> pa.StringArray:
    """The first reason of `FILTERS` that rejects each text, or null. None: only `EMPTY` applies."""
    if config is None:
        is_empty = pc.equal(pc.binary_length(texts), 0)
        return pc.if_else(is_empty, pa.scalar(EMPTY), pa.scalar(None, type=pa.string()))
    stats = text_stats(texts)
    reasons = np.full(len(texts), None, dtype=object)
    for reason in reversed(REASONS):
        reasons[FILTERS[reason](stats, config)] = reason
    return pa.array(reasons, type=pa.string())


def text_stats(texts: pa.LargeStringArray) -> TextStats:
    """Count characters, digits and lines of each text."""
    data, offsets = bytes_and_offsets(texts)
    starts, ends, has_newline = _lines(data, offsets)
    # In UTF-8, each byte 0b10xxxxxx, which is below -64 as a signed number, continues a character.
    # Such bytes are rare, so searching each is faster than a running count.
    continuations = np.searchsorted(ends, np.flatnonzero(data.view(np.int8) < -64), side="right")
    lengths = ends - starts - has_newline - np.bincount(continuations, minlength=len(ends))
    num_lines = np.diff(np.searchsorted(ends, offsets, side="right"))
    num_newlines = _reduce_lines(np.add, has_newline, num_lines)
    line_characters = _reduce_lines(np.add, lengths, num_lines)
    # Bytes below "0" or "a" wrap around to large numbers.
    is_digit = ((data - ord("0")) < 10) | (((data | 0x20) - ord("a")) < 6)
    num_digits = [np.count_nonzero(is_digit[start:end]) for start, end in pairwise(offsets)]
    return TextStats(
        num_characters=line_characters + num_newlines,
        num_digits=np.array(num_digits, dtype=np.int64),
        num_lines=num_lines,
        line_characters=line_characters,
        longest_line=_reduce_lines(np.maximum, lengths, num_lines),
    )


def _lines(data: Bytes, offsets: Counts) -> tuple[Counts, Counts, npt.NDArray[np.bool_]]:
    """Byte ranges of all lines, and whether each ends with a newline, which is part of the
    range."""
    line_ends = np.flatnonzero(data == _NEWLINE) + 1
    text_ends = offsets[1:][np.diff(offsets) > 0]
    unfinished = text_ends[data[text_ends - 1] != _NEWLINE]
    ends = np.insert(line_ends, np.searchsorted(line_ends, unfinished), unfinished)
    starts = np.concatenate([offsets[:1], ends])[: len(ends)]
    return starts, ends, data[ends - 1] == _NEWLINE


def _reduce_lines(
    reduce: np.ufunc, values: Counts | npt.NDArray[np.bool_], num_lines: Counts
) -> Counts:
    """Reduce the values of each text's lines; 0 for a text without lines."""
    reduced = np.zeros(len(num_lines), dtype=np.int64)
    has_lines = num_lines > 0
    if has_lines.any():
        first_line = np.cumsum(num_lines) - num_lines
        reduced[has_lines] = reduce.reduceat(values, first_line[has_lines], dtype=np.int64)
    return reduced
