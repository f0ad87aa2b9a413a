"""Decontamination: documents that contain a benchmark's problem, found by their common n-grams of words.

An n-gram is n consecutive words of one text (`words` says what a word is). A document is contaminated by a problem when at
least `threshold` of the problem's distinct n-grams, and at least one, occur in it. A problem of fewer than n words is looked
for as a whole; one that is too short even for that is named, not looked for. Whatever matches is returned with its place.

One decision: hashes propose, bytes decide. A match lies in a stretch of words that all occur in some problem: tables of bits
say which words may, and which n-grams of such stretches may be a problem's, and those few are compared exactly. A collision
costs time and never a verdict; no match is ever missed.
Not covered: what was rewritten. A problem with other names, or in another language, has other words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.core.config import Config
from components.core.errors import ConfigError
from components.data.config import DecontaminationConfig
from components.data.filters.ngrams import (
    Hashes,
    Words,
    find_words,
    ngram_hashes,
    prefix_hashes,
    word_hashes,
)

EXCERPT_CHARACTERS = 300
"""Longest excerpt of a match (assumption: a line or three; a span may hold any amount of white space)."""
_CELLS_PER_HASH = 64
"""Size of a table of bits: so 1 in 64 of what is not looked for passes it (assumption)."""


class BenchmarkText(Config):
    """What must not be learnt from: the text of one problem."""

    benchmark: str
    """Such as `humaneval`."""
    problem: str
    """Its name within the benchmark."""
    text: str
    """All that counts as the problem, e.g. prompt and solution."""


class Match(NamedTuple):
    """A document that contains a problem."""

    document: int
    """Its place in the column that was looked through."""
    benchmark: str
    problem: str
    num_ngrams: int
    """How many of the problem's distinct n-grams it contains."""
    share: float
    """Those among all distinct n-grams of the problem."""
    start: int
    """Where the first of them begins in the document, in characters."""
    end: int
    """Where that one ends, in characters."""
    excerpt: str
    """The document from `start` to `end`, at most `EXCERPT_CHARACTERS` of it."""


class _BitSet:
    """A table of bits: which hashes may be among those that it was made of."""

    def __init__(self, hashes: Hashes) -> None:
        bits = (len(hashes) * _CELLS_PER_HASH).bit_length()
        self._shift = np.uint64(64 - bits)
        self._may_be = np.zeros(1 << bits, dtype=np.bool_)
        self._may_be[self._cells(hashes)] = True

    def may_hold(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        return self._may_be[self._cells(hashes)]

    def _cells(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        return (hashes >> self._shift).view(np.int64)


class _NgramIndex:
    """All n-grams of one length that are looked for."""

    def __init__(self, owners: dict[bytes, list[int]], hashes: Hashes) -> None:
        """`owners`: which problems each n-gram belongs to; `hashes`: of the same n-grams, in any order."""
        self.owners = owners
        self._hashes = np.unique(hashes)
        self._table = _BitSet(self._hashes)

    def places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Which of the hashes, in their order, are those of needles."""
        likely = np.flatnonzero(self._table.may_hold(hashes))
        nearest = np.searchsorted(self._hashes, hashes[likely])
        nearest[nearest == len(self._hashes)] = 0
        is_needle: npt.NDArray[np.bool_] = self._hashes[nearest] == hashes[likely]
        return np.compress(is_needle, likely)


class _Found(NamedTuple):
    """What a document contains of a problem, as it is gathered."""

    ngrams: set[bytes]
    start: int
    end: int


class Decontaminator:
    """Looks for the problems of benchmarks in documents.

    Attributes:
        too_short: the texts that are not looked for, since they have too few words.
    """

    def __init__(self, texts: Iterable[BenchmarkText], config: DecontaminationConfig) -> None:
        """With a configuration that is not enabled, nothing is looked for.

        Raises:
            ConfigError: two texts belong to the same problem of the same benchmark.
        """
        self._texts, self._config = tuple(texts), config
        _check_unique(self._texts)
        wanted = self._texts if config.enabled else ()
        words = find_words(pa.array([each.text for each in wanted], type=pa.large_string()))
        lengths = [self._needle_words(int(num_words)) for num_words in np.diff(words.first_word)]
        self.too_short = tuple(
            each for each, length in zip(wanted, lengths, strict=True) if length == 0
        )
        self._needles = _needles(words, lengths)
        self._vocabulary = _BitSet(np.unique(prefix_hashes(words)))
        self._num_ngrams = Counter(
            problem
            for needles in self._needles.values()
            for owners in needles.owners.values()
            for problem in owners
        )

    def __reduce__(self) -> tuple[object, ...]:
        # What it is built from is a tenth of what it builds, and a process needs one.
        return (Decontaminator, (self._texts, self._config))

    def _needle_words(self, num_words: int) -> int:
        """How many words the n-grams of a problem of that many words have; 0 if it is not looked for."""
        length = min(num_words, self._config.ngram_words)
        return (
            length if length >= min(self._config.min_problem_words, self._config.ngram_words) else 0
        )

    def find(self, texts: pa.LargeStringArray) -> list[Match]:
        """The contaminated documents of a column without nulls, in its order, and the problems that each contains."""
        words = find_words(texts)
        matches = []
        for (document, problem), found in sorted(self._scan(words).items()):
            share = len(found.ngrams) / self._num_ngrams[problem]
            if share >= self._config.threshold:
                where = self._texts[problem]
                place = _place(texts[document].as_buffer(), found, int(words.offsets[document]))
                matches.append(
                    Match(
                        document, where.benchmark, where.problem, len(found.ngrams), share, *place
                    )
                )
        return matches

    def _scan(self, words: Words) -> dict[tuple[int, int], _Found]:
        """What each document contains of each problem, where it contains any of it."""
        found: dict[tuple[int, int], _Found] = {}
        if not self._needles:
            return found
        firsts = prefix_hashes(words)
        chosen = _in_stretches(self._vocabulary.may_hold(firsts), min(self._needles))
        hashes = word_hashes(words, firsts, chosen)
        for length, needles in self._needles.items():
            places = needles.places(ngram_hashes(hashes, length))
            ngrams = chosen[places[chosen[places + length - 1] - chosen[places] == length - 1]]
            for document, word in _within_one_text(ngrams, length, words):
                ngram = words.ngram(word, length)
                for problem in needles.owners.get(ngram, ()):
                    span = int(words.starts[word]), int(words.ends[word + length - 1])
                    found.setdefault((document, problem), _Found(set(), *span)).ngrams.add(ngram)
        return found


def _check_unique(texts: Sequence[BenchmarkText]) -> None:
    counts = Counter((each.benchmark, each.problem) for each in texts)
    if doubles := [name for name, count in counts.items() if count > 1]:
        benchmark, problem = doubles[0]
        raise ConfigError(
            f"{benchmark} has {counts[doubles[0]]} texts for the problem {problem!r}",
            expected="one text for each problem, or a match could not say what it matches",
            fix="join them, or give each a name of its own",
        )


def _needles(words: Words, lengths: Sequence[int]) -> dict[int, _NgramIndex]:
    """What is looked for, by its number of words: all n-grams of each text that have the text's length of n-gram."""
    hashes = word_hashes(words, prefix_hashes(words), np.arange(len(words.starts)))
    needles = {}
    for length in sorted(set(lengths) - {0}):
        owners: defaultdict[bytes, list[int]] = defaultdict(list)
        every = ngram_hashes(hashes, length)
        places = []
        for problem, place in _within_one_text(np.arange(len(every)), length, words):
            ngram = words.ngram(place, length)
            if lengths[problem] == length and problem not in owners[ngram]:
                owners[ngram].append(problem)
                places.append(place)
        needles[length] = _NgramIndex(owners, every[places])
    return needles


def _in_stretches(known: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.int64]:
    """The places of at least `length` known words in a row."""
    unknown = np.concatenate([[-1], np.flatnonzero(~known), [len(known)]])
    distances = np.diff(unknown)
    # Each word from behind an unknown one up to the next, which it includes: that one is taken out again.
    is_long = np.repeat(distances > length, distances)[: len(known)]
    return np.flatnonzero(is_long & known)


def _within_one_text(
    ngrams: npt.NDArray[np.int64], length: int, words: Words
) -> Iterator[tuple[int, int]]:
    """Text and first word of those n-grams that do not cross into the next text."""
    owner = np.searchsorted(words.first_word, ngrams, side="right") - 1
    inside = ngrams + length <= words.first_word[owner + 1]
    return zip(owner[inside].tolist(), ngrams[inside].tolist(), strict=True)


def _place(text: pa.Buffer, found: _Found, offset: int) -> tuple[int, int, str]:
    """Start and end in characters, and the excerpt; `offset` is where the text begins in the column's bytes."""
    content = text.to_pybytes()
    span = content[found.start - offset : found.end - offset].decode()
    start = len(content[: found.start - offset].decode())
    return start, start + len(span), span[:EXCERPT_CHARACTERS]
