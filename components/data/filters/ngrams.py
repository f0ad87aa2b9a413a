"""The words of a column of texts, and hashes of n consecutive words: what decontamination and near-duplicates look at.

A word is a maximal run of ASCII letters, ASCII digits and bytes of 0x80 and above; ASCII letters are lower-cased, everything
else separates words. So white space, case and punctuation make no difference, and no character of UTF-8 is ever cut.

One decision: everything is computed for all texts at once, in a few passes of numpy, and a hash looks at no more than the
first and the last 8 bytes of a word and its length. Equal words have equal hashes; unequal ones that share those collide.
So a hash may propose, and `Words.ngram` has the last word. Hashes are the same in every process and on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.data.filters.arrow_text import Counts, bytes_and_offsets

Hashes = npt.NDArray[np.uint64]

_LOWERED = bytes(
    byte if byte >= 0x80 else ord(chr(byte).lower()) if chr(byte).isalnum() else ord(" ")
    for byte in range(256)
)
"""What each byte becomes: a space unless it belongs to a word."""
_GATHERED = 8
"""Bytes at either end of a word that its hash looks at: what one 64-bit load takes."""
_PADDING = b" " * _GATHERED
_KEEP_FIRST = np.array([(1 << 8 * length) - 1 for length in range(_GATHERED + 1)], dtype=np.uint64)
"""Which bits of eight loaded bytes belong to a word of that length; the first byte is the lowest (little-endian)."""

# Odd 64-bit multipliers with well-spread bits: the finalisers of SplitMix64 (Steele, Lea and Flood, 2014) and their gamma.
_MIX_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_MIX_LAST = np.uint64(0x94D049BB133111EB)
_BASE = 0x9E3779B97F4A7C15
_HALF = np.uint64(32)


class Words(NamedTuple):
    """The words of a column of texts. Places count bytes from the beginning of the column's first text."""

    lowered: bytes
    """All bytes, lower-cased, separators as spaces, with 8 more spaces at either end."""
    starts: Counts
    """[number of words]"""
    ends: Counts
    """[number of words]"""
    first_word: Counts
    """[number of texts + 1]: text i has the words `first_word[i]` to `first_word[i + 1]`."""
    offsets: Counts
    """[number of texts + 1]: text i is the bytes `offsets[i]` to `offsets[i + 1]`."""

    def ngram(self, word: int, length: int) -> bytes:
        """The words `word` to `word + length`, exactly, with single spaces between them."""
        return self._words(int(self.starts[word]), int(self.ends[word + length - 1]))

    def text(self, index: int) -> bytes:
        """All words of a text, exactly, with single spaces between them."""
        return self._words(int(self.offsets[index]), int(self.offsets[index + 1]))

    def _words(self, start: int, end: int) -> bytes:
        return b" ".join(self.lowered[start + len(_PADDING) : end + len(_PADDING)].split())


def find_words(texts: pa.LargeStringArray) -> Words:
    """Where the words of each text begin and end. No word runs on into the next text."""
    data, offsets = bytes_and_offsets(texts)
    lowered = b"".join((_PADDING, data.data, _PADDING)).translate(_LOWERED)
    in_word = np.frombuffer(lowered, dtype=np.uint8)[
        len(_PADDING) - 1 : len(data) + len(_PADDING) + 1
    ] != ord(" ")
    before, here = in_word[:-1], in_word[1:]
    begins, ceases = here > before, before > here
    inner = offsets[1:-1]
    begins[inner], ceases[inner] = (
        here[inner],
        before[inner],
    )  # a text ends there, whatever its neighbour begins with
    starts = np.flatnonzero(begins)
    return Words(lowered, starts, np.flatnonzero(ceases), np.searchsorted(starts, offsets), offsets)


def prefix_hashes(words: Words) -> Hashes:
    """A hash of the first 8 bytes of each word, a third of the work of a whole one."""
    lengths = words.ends - words.starts
    first = (
        _windows(words)[words.starts + len(_PADDING)] & _KEEP_FIRST[np.minimum(lengths, _GATHERED)]
    )
    hashes: Hashes = first * _MIX_FIRST
    return hashes


def word_hashes(words: Words, firsts: Hashes, chosen: Counts) -> Hashes:
    """A hash of each of the chosen words, [number of chosen]; `firsts`: what `first_hashes` gave of all."""
    hashes: Hashes = firsts[chosen]
    ends = words.ends[chosen]
    lengths = ends - words.starts[chosen]
    long = np.flatnonzero(lengths > _GATHERED)
    last = _windows(words)[ends[long] + len(_PADDING) - _GATHERED]
    hashes[long] ^= (last ^ lengths[long].astype(np.uint64)) * _MIX_LAST
    hashes ^= hashes >> _HALF
    hashes *= _MIX_LAST
    return hashes


def _windows(words: Words) -> Hashes:
    """The 8 bytes from each place on, as numbers."""
    return np.ndarray(
        shape=(len(words.lowered) - _GATHERED + 1,), dtype="<u8", buffer=words.lowered, strides=(1,)
    )


def ngram_hashes(hashes: Hashes, length: int) -> Hashes:
    """A hash of every `length` consecutive hashes, [number of hashes - length + 1]; across the borders of texts, too.

    The polynomial of Karp and Rabin (1987) modulo 2**64, whose length is doubled or grown by one, bit by bit of `length`.
    """
    num_ngrams = len(hashes) - length + 1
    if num_ngrams <= 0:
        return hashes[:0]
    combined, size = hashes, 1
    for bit in f"{length:b}"[1:]:
        combined = combined[:-size] * np.uint64(pow(_BASE, size, 1 << 64)) + combined[size:]
        size *= 2
        if bit == "1":
            combined = combined[:-1] * np.uint64(_BASE) + hashes[size:]
            size += 1
    return combined
