"""Statistics of texts that validation limits: sizes, blank texts, control characters, U+FFFD.

The texts stay in their Arrow column, which is processed in slices of a few megabytes, so temporary
arrays are small for any column. `components.data.filters.quality` computes what filters need.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.data.filters.ngrams import Bytes, Counts, bytes_and_offsets

_SLICE_BYTES = 2**21
"""Text bytes processed at a time (more for a longer text). Measured: temporary arrays of this size
stay in the cache of the processor."""
_REPLACEMENT = "\ufffd".encode()
"""Decoders insert this character for bytes that they cannot decode."""


class TextMeasures(NamedTuple):
    """Statistics of each text, [number of texts]. A null counts as an empty text."""

    num_bytes: Counts
    """In UTF-8."""
    num_chars: Counts
    """Unicode code points."""
    is_blank: npt.NDArray[np.bool_]
    """Empty or white space only."""
    control_fraction: npt.NDArray[np.float64]
    """Fraction of ASCII control characters except tab, line feed, form feed and carriage return; 0
    for an empty text."""
    replacement_fraction: npt.NDArray[np.float64]
    """Fraction of U+FFFD; 0 for an empty text."""


def measure_texts(texts: pa.LargeStringArray) -> TextMeasures:
    """Compute the statistics of each text."""
    if texts.null_count:
        texts = texts.fill_null("")
    slices = [_measure_slice(texts_slice) for texts_slice in _slices(texts)]
    return TextMeasures(*(np.concatenate(columns) for columns in zip(*slices, strict=True)))


def _slices(texts: pa.LargeStringArray) -> Iterator[pa.LargeStringArray]:
    """Yield at least one slice, even if there is no text."""
    _, offsets = bytes_and_offsets(texts)
    limits = np.arange(_SLICE_BYTES, offsets[-1], _SLICE_BYTES)
    bounds = np.unique([0, *np.searchsorted(offsets, limits), len(texts)])
    if len(bounds) < 2:
        yield texts
    for start, end in pairwise(bounds):
        yield texts.slice(start, end - start)


def _measure_slice(texts: pa.LargeStringArray) -> TextMeasures:
    data, offsets = bytes_and_offsets(texts)
    num_chars = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    at_least_one = np.maximum(num_chars, 1)
    return TextMeasures(
        num_bytes=np.diff(offsets),
        num_chars=num_chars,
        is_blank=(num_chars == 0) | pc.utf8_is_space(texts).to_numpy(zero_copy_only=False),
        control_fraction=_count_per_text(_find_control(data), offsets) / at_least_one,
        replacement_fraction=_count_per_text(_find_replacements(data), offsets) / at_least_one,
    )


def _count_per_text(positions: Counts, offsets: Counts) -> Counts:
    """Count the positions, in ascending order, that are in each text."""
    return np.diff(np.searchsorted(positions, offsets))


def _find_control(data: Bytes) -> Counts:
    below_space = (data < 0x20) & (data != 0x09) & (data != 0x0A) & (data != 0x0C) & (data != 0x0D)
    return np.flatnonzero(below_space | (data == 0x7F))


def _find_replacements(data: Bytes) -> Counts:
    """Return the positions of U+FFFD, which has three bytes in UTF-8."""
    first, second, third = _REPLACEMENT
    starts = np.flatnonzero(data == first)
    matches: Counts = starts[(data[starts + 1] == second) & (data[starts + 2] == third)]
    return matches
