"""Columns of texts as bytes, words, and hashes of word n-grams.

A word is a maximal run of ASCII letters, ASCII digits and bytes from 0x80; ASCII letters are
lower-cased, other bytes separate words. So white space, case and punctuation have no effect, and no
UTF-8 character is split.

All texts of a column are processed at once by numpy. A hash covers the first and last 8 bytes of a
word and its length: equal words have equal hashes, and some unequal words collide, so compare
`Words.ngram` after a hash matches. Hashes are equal in every process and on every machine. Limit: a
column must have no nulls, because the bytes under a null would count as text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_SPACE = ord(" ")
_LOWERED = bytes(
    byte if byte >= 0x80 else ord(chr(byte).lower()) if chr(byte).isalnum() else _SPACE
    for byte in range(256)
)
"""Translation of each byte: lower case, or a space if the byte separates words."""
_HASHED_BYTES = 8
"""Hashed bytes at each end of a word: a 64-bit load."""
_PADDING = b" " * _HASHED_BYTES
_PREFIX_MASKS = np.array(
    [(1 << 8 * length) - 1 for length in range(_HASHED_BYTES + 1)], dtype=np.uint64
)
"""Bits of a 64-bit load that belong to a word of each length; the first byte is the lowest."""

# Odd multipliers with well-spread bits: SplitMix64's (Steele, Lea and Flood, 2014).
_MIX_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_MIX_LAST = np.uint64(0x94D049BB133111EB)
_BASE = 0x9E3779B97F4A7C15
_HALF = np.uint64(32)


def bytes_and_offsets(texts: pa.LargeStringArray) -> tuple[Bytes, Counts]:
    """The UTF-8 bytes of all texts; text i is bytes `offsets[i]` to `offsets[i + 1]`."""
    _, offset_buffer, data_buffer = texts.buffers()
    if not len(texts) or data_buffer is None:
        return np.zeros(0, dtype=np.uint8), np.zeros(len(texts) + 1, dtype=np.int64)
    end = texts.offset + len(texts) + 1
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[texts.offset : end]
    data = np.frombuffer(data_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]


class Words(NamedTuple):
    """The words of a column of texts. Positions are bytes from the start of the first text."""

    lowered: bytes
    """Lower-cased bytes with spaces as separators, and 8 spaces at both ends."""
    starts: Counts
    """[number of words]"""
    ends: Counts
    """[number of words]"""
    first_word: Counts
    """[number of texts + 1]: text i has the words `first_word[i]` to `first_word[i + 1]`."""
    offsets: Counts
    """[number of texts + 1]: text i is the bytes `offsets[i]` to `offsets[i + 1]`."""

    def ngram(self, word: int, length: int) -> bytes:
        """The words `word` to `word + length`, joined by single spaces."""
        start = int(self.starts[word]) + len(_PADDING)
        end = int(self.ends[word + length - 1]) + len(_PADDING)
        return b" ".join(self.lowered[start:end].split())


def find_words(texts: pa.LargeStringArray) -> Words:
    """Find the words of each text. A word ends with its text."""
    data, offsets = bytes_and_offsets(texts)
    lowered = b"".join((_PADDING, data.data, _PADDING)).translate(_LOWERED)
    padded = np.frombuffer(lowered, dtype=np.uint8)
    in_word = padded[len(_PADDING) - 1 : len(data) + len(_PADDING) + 1] != _SPACE
    previous = in_word[:-1]
    current = in_word[1:]
    is_start = current > previous
    is_end = previous > current
    # At a border of two texts, a word ends and starts although its neighbour continues.
    borders = offsets[1:-1]
    is_start[borders] = current[borders]
    is_end[borders] = previous[borders]
    starts = np.flatnonzero(is_start)
    return Words(lowered, starts, np.flatnonzero(is_end), np.searchsorted(starts, offsets), offsets)


def prefix_hashes(words: Words) -> Hashes:
    """A hash of the first 8 bytes of each word, for a third of the cost of `word_hashes`."""
    masks = _PREFIX_MASKS[np.minimum(words.ends - words.starts, _HASHED_BYTES)]
    hashes: Hashes = (_loads(words)[words.starts + len(_PADDING)] & masks) * _MIX_FIRST
    return hashes


def word_hashes(words: Words, prefixes: Hashes, selected: Counts) -> Hashes:
    """A hash of each selected word, [number of selected words].

    Args:
        words: all words.
        prefixes: `prefix_hashes` of all words.
        selected: indices of words.
    """
    hashes: Hashes = prefixes[selected]
    ends = words.ends[selected]
    lengths = ends - words.starts[selected]
    is_long = np.flatnonzero(lengths > _HASHED_BYTES)
    last_bytes = _loads(words)[ends[is_long] + len(_PADDING) - _HASHED_BYTES]
    hashes[is_long] ^= (last_bytes ^ lengths[is_long].astype(np.uint64)) * _MIX_LAST
    hashes ^= hashes >> _HALF
    hashes *= _MIX_LAST
    return hashes


def _loads(words: Words) -> Hashes:
    """A view of the 8 bytes from each position, as numbers."""
    shape = (len(words.lowered) - _HASHED_BYTES + 1,)
    return np.ndarray(shape=shape, dtype="<u8", buffer=words.lowered, strides=(1,))


def ngram_hashes(hashes: Hashes, length: int) -> Hashes:
    """A hash of each `length` consecutive hashes, [number of hashes - length + 1], also across
    texts.

    The polynomial of Karp and Rabin (1987) modulo 2**64. Its length is doubled, or increased by
    one, by the bits of `length`.
    """
    num_ngrams = len(hashes) - length + 1
    if num_ngrams <= 0:
        return hashes[:0]
    combined = hashes
    size = 1
    for bit in f"{length:b}"[1:]:
        combined = combined[:-size] * np.uint64(pow(_BASE, size, 1 << 64)) + combined[size:]
        size *= 2
        if bit == "1":
            combined = combined[:-1] * np.uint64(_BASE) + hashes[size:]
            size += 1
    return combined
