"""Measure texts without looking at them one by one in Python.

Design decision: the texts stay in the Arrow column they came in, which is worked through in slices of a few megabytes, so
that the work arrays stay small whatever the column holds. Only the measures leave this module, five numbers a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_SLICE_BYTES = 2**21
"""Bytes of text that are looked at together; a longer text is looked at alone. Measured: work arrays of this size stay in
the processor's cache."""
_REPLACEMENT = "\ufffd".encode()
"""What a decoder puts where bytes could not be decoded."""

Counts = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Measures(NamedTuple):
    """What is known of each text, each [number of texts]. A null counts as an empty text."""

    num_bytes: Counts
    """In UTF-8."""
    num_chars: Counts
    """Unicode code points."""
    is_blank: npt.NDArray[np.bool_]
    """Nothing but white space, or nothing at all."""
    control_fraction: npt.NDArray[np.float64]
    """Share of the characters that are ASCII control characters, without those that text uses: tab, line feed, form feed,
    carriage return. 0 for an empty text."""
    replacement_fraction: npt.NDArray[np.float64]
    """Share of the characters that are U+FFFD. 0 for an empty text."""


def measure(texts: pa.LargeStringArray) -> Measures:
    """Measure each text."""
    parts = [_measure(part) for part in _slices(texts.fill_null("") if texts.null_count else texts)]
    return Measures(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _slices(texts: pa.LargeStringArray) -> Iterator[pa.LargeStringArray]:
    """At least one slice, also of no text."""
    offsets = _offsets(texts)
    steps = np.arange(offsets[0] + _SLICE_BYTES, offsets[-1], _SLICE_BYTES)
    cuts = np.unique([0, *np.searchsorted(offsets, steps), len(texts)])
    if len(cuts) < 2:
        yield texts
    for start, end in pairwise(cuts):
        yield texts.slice(start, end - start)


def _measure(texts: pa.LargeStringArray) -> Measures:
    offsets = _offsets(texts)
    data = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    num_chars = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    at_least_one = np.maximum(num_chars, 1)
    return Measures(
        num_bytes=np.diff(offsets),
        num_chars=num_chars,
        is_blank=(num_chars == 0) | pc.utf8_is_space(texts).to_numpy(zero_copy_only=False),
        control_fraction=_counts(np.flatnonzero(_is_control(data)), offsets) / at_least_one,
        replacement_fraction=_counts(_replacements(data), offsets) / at_least_one,
    )


def _offsets(texts: pa.LargeStringArray) -> Counts:
    """Where each text begins in the column's bytes: text i is bytes `offsets[i]` to `offsets[i + 1]`."""
    if not len(texts):
        return np.zeros(1, dtype=np.int64)
    return np.frombuffer(texts.buffers()[1], dtype=np.int64)[
        texts.offset : texts.offset + len(texts) + 1
    ]


def _counts(positions: Counts, offsets: Counts) -> Counts:
    """How many of the positions, which ascend, lie in each text."""
    return np.diff(np.searchsorted(positions, offsets))


def _is_control(data: Bytes) -> npt.NDArray[np.bool_]:
    below_space = (data < 0x20) & (data != 0x09) & (data != 0x0A) & (data != 0x0C) & (data != 0x0D)
    control: npt.NDArray[np.bool_] = below_space | (data == 0x7F)
    return control


def _replacements(data: Bytes) -> Counts:
    """Where U+FFFD begins. In valid UTF-8 two more bytes follow this first one."""
    first, second, third = _REPLACEMENT
    starts = np.flatnonzero(data == first)
    whole: Counts = starts[(data[starts + 1] == second) & (data[starts + 2] == third)]
    return whole
