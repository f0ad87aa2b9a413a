"""Decontamination: finds documents that contain a benchmark problem, by common word n-grams.

A document is contaminated by a problem if it contains at least `threshold` of the distinct n-grams
of the problem, and at least one. A problem with fewer words than an n-gram is searched for as a
whole, unless it is too short; then it is listed in `too_short`.

Hashes find candidates, an exact comparison confirms them. Bit sets select words that occur in
problems, then n-grams of consecutive such words. So a collision costs time, and no match is missed.
Limit: paraphrased or translated problems have other words and are not found.
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
"""Longest excerpt of a match (assumption: three lines; a span may have any amount of white
space)."""
_BITS_PER_HASH = 64
"""Size of a bit set: 1 in 64 hashes that are not in the set passes (assumption)."""


class BenchmarkText(Config):
    """The text of a benchmark problem, which must not be trained on."""

    benchmark: str
    """For example `humaneval`."""
    problem: str
    """Name of the problem in the benchmark."""
    text: str
    """All of the problem, for example prompt and solution."""


class Match(NamedTuple):
    """A document that contains a problem."""

    document: int
    """Index in the column."""
    benchmark: str
    problem: str
    num_ngrams: int
    """Distinct n-grams of the problem in the document."""
    share: float
    """`num_ngrams` as a share of the problem's distinct n-grams."""
    start: int
    """Start of the first n-gram in the document, in characters."""
    end: int
    """End of that n-gram, in characters."""
    excerpt: str
    """The document from `start` to `end`, at most `EXCERPT_CHARACTERS` characters."""


class _BitSet:
    """A set of hashes with false positives."""

    def __init__(self, hashes: Hashes) -> None:
        num_bits = (len(hashes) * _BITS_PER_HASH).bit_length()
        self._shift = np.uint64(64 - num_bits)
        self._bits = np.zeros(1 << num_bits, dtype=np.bool_)
        self._bits[self._cells(hashes)] = True

    def may_contain(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        return self._bits[self._cells(hashes)]

    def _cells(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        return (hashes >> self._shift).view(np.int64)


class _NgramIndex:
    """All n-grams of a length that are searched for."""

    def __init__(self, problems: dict[bytes, list[int]], hashes: Hashes) -> None:
        """`problems`: problems of each n-gram. `hashes`: of the same n-grams, in any order."""
        self.problems = problems
        self._hashes = np.unique(hashes)
        self._bits = _BitSet(self._hashes)

    def find(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Sorted positions of the hashes that are in the index."""
        candidates = np.flatnonzero(self._bits.may_contain(hashes))
        nearest = np.searchsorted(self._hashes, hashes[candidates])
        nearest[nearest == len(self._hashes)] = 0
        is_equal: npt.NDArray[np.bool_] = self._hashes[nearest] == hashes[candidates]
        return np.compress(is_equal, candidates)


class _NgramMatches(NamedTuple):
    """N-grams of a problem in a document."""

    ngrams: set[bytes]
    start: int
    end: int


class Decontaminator:
    """Finds benchmark problems in documents.

    Attributes:
        too_short: texts that are not searched for, because they have too few words.
    """

    def __init__(self, texts: Iterable[BenchmarkText], config: DecontaminationConfig) -> None:
        """If the configuration is not enabled, nothing is searched for.

        Raises:
            ConfigError: a problem of a benchmark has two texts.
        """
        self._texts = tuple(texts)
        self._config = config
        _require_unique(self._texts)
        enabled_texts = self._texts if config.enabled else ()
        column = pa.array([text.text for text in enabled_texts], type=pa.large_string())
        words = find_words(column)
        lengths = [self._ngram_length(int(num_words)) for num_words in np.diff(words.first_word)]
        self.too_short = tuple(
            text for text, length in zip(enabled_texts, lengths, strict=True) if length == 0
        )
        self._indexes = _build_indexes(words, lengths)
        self._vocabulary = _BitSet(np.unique(prefix_hashes(words)))
        self._num_ngrams: Counter[int] = Counter()
        for index in self._indexes.values():
            for problems in index.problems.values():
                self._num_ngrams.update(problems)

    def __reduce__(self) -> tuple[object, ...]:
        # The arguments have a tenth of the size of the built indexes.
        return (Decontaminator, (self._texts, self._config))

    def _ngram_length(self, num_words: int) -> int:
        """Words of an n-gram of a problem with `num_words` words; 0 if it is not searched for."""
        length = min(num_words, self._config.ngram_words)
        minimum = min(self._config.min_problem_words, self._config.ngram_words)
        return length if length >= minimum else 0

    def find(self, texts: pa.LargeStringArray) -> list[Match]:
        """Contaminated documents of a column without nulls, in order, and their problems."""
        words = find_words(texts)
        matches = []
        for (document, problem), overlap in sorted(self._scan(words).items()):
            share = len(overlap.ngrams) / self._num_ngrams[problem]
            if share >= self._config.threshold:
                text = self._texts[problem]
                content = texts[document].as_buffer()
                span = _character_span(content, overlap, int(words.offsets[document]))
                num_ngrams = len(overlap.ngrams)
                matches.append(
                    Match(document, text.benchmark, text.problem, num_ngrams, share, *span)
                )
        return matches

    def _scan(self, words: Words) -> dict[tuple[int, int], _NgramMatches]:
        """N-gram matches by document and problem."""
        matches: dict[tuple[int, int], _NgramMatches] = {}
        if not self._indexes:
            return matches
        prefixes = prefix_hashes(words)
        candidates = _long_runs(self._vocabulary.may_contain(prefixes), min(self._indexes))
        hashes = word_hashes(words, prefixes, candidates)
        for length, index in self._indexes.items():
            positions = index.find(ngram_hashes(hashes, length))
            first_words = candidates[positions]
            is_consecutive = candidates[positions + length - 1] - first_words == length - 1
            for document, word in _within_a_text(first_words[is_consecutive], length, words):
                ngram = words.ngram(word, length)
                for problem in index.problems.get(ngram, ()):
                    span = int(words.starts[word]), int(words.ends[word + length - 1])
                    match = matches.setdefault((document, problem), _NgramMatches(set(), *span))
                    match.ngrams.add(ngram)
        return matches


def _require_unique(texts: Sequence[BenchmarkText]) -> None:
    counts = Counter((text.benchmark, text.problem) for text in texts)
    for (benchmark, problem), count in counts.items():
        if count > 1:
            raise ConfigError(
                f"{benchmark} has {count} texts for the problem {problem!r}",
                expected="a single text for each problem",
                fix="join the texts, or rename the problems",
            )


def _build_indexes(words: Words, lengths: Sequence[int]) -> dict[int, _NgramIndex]:
    """An index for each n-gram length. `lengths`: the n-gram length of each text, or 0."""
    hashes = word_hashes(words, prefix_hashes(words), np.arange(len(words.starts)))
    indexes = {}
    for length in sorted(set(lengths) - {0}):
        problems: defaultdict[bytes, list[int]] = defaultdict(list)
        all_ngrams = ngram_hashes(hashes, length)
        positions = []
        for problem, position in _within_a_text(np.arange(len(all_ngrams)), length, words):
            ngram = words.ngram(position, length)
            if lengths[problem] == length and problem not in problems[ngram]:
                problems[ngram].append(problem)
                positions.append(position)
        indexes[length] = _NgramIndex(problems, all_ngrams[positions])
    return indexes


def _long_runs(is_in_problem: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.int64]:
    """Indices of words in runs of at least `length` words that occur in problems."""
    others = np.flatnonzero(~is_in_problem)
    borders = np.concatenate([[-1], others, [len(is_in_problem)]])
    distances = np.diff(borders)
    # Each run with the word after it, which is in no problem and is removed again.
    is_long = np.repeat(distances > length, distances)[: len(is_in_problem)]
    return np.flatnonzero(is_long & is_in_problem)


def _within_a_text(
    first_words: npt.NDArray[np.int64], length: int, words: Words
) -> Iterator[tuple[int, int]]:
    """Text and first word of the n-grams that do not cross into the next text."""
    text = np.searchsorted(words.first_word, first_words, side="right") - 1
    is_inside = first_words + length <= words.first_word[text + 1]
    return zip(text[is_inside].tolist(), first_words[is_inside].tolist(), strict=True)


def _character_span(
    text: pa.Buffer, match: _NgramMatches, text_offset: int
) -> tuple[int, int, str]:
    """Start and end in characters, and the excerpt. `text_offset`: of the text in the column."""
    content = text.to_pybytes()
    start_byte = match.start - text_offset
    excerpt = content[start_byte : match.end - text_offset].decode()
    start = len(content[:start_byte].decode())
    return start, start + len(excerpt), excerpt[:EXCERPT_CHARACTERS]
