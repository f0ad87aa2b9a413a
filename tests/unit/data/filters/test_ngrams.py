"""Words, compared with a regular expression, and n-gram hashes."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.filters.ngrams import (
    Hashes,
    Words,
    find_words,
    ngram_hashes,
    prefix_hashes,
    word_hashes,
)

TEXTS = st.lists(
    st.text(
        alphabet=st.one_of(
            st.sampled_from("aAzZ09  \n_\0\u00e9\u4e16\U0001f600"), st.characters(codec="utf-8")
        ),
        max_size=30,
    )
)


def column(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def hashes_of(words: Words) -> Hashes:
    return word_hashes(words, prefix_hashes(words), np.arange(len(words.starts)))


def words_by_regex(text: str) -> list[bytes]:
    return re.findall(rb"[a-z0-9\x80-\xff]+", text.encode().lower())


@settings(deadline=None)
@given(texts=TEXTS, skipped=st.integers(0, 3))
def test_words_equal_those_of_a_regular_expression(texts: list[str], skipped: int) -> None:
    # The buffers of a slice start before its first text.
    words = find_words(column(texts)[skipped:])
    texts = texts[skipped:]
    all_words = [words.ngram(word, 1) for word in range(len(words.starts))]
    bounds = words.first_word.tolist()
    assert [all_words[a:b] for a, b in pairwise(bounds)] == [words_by_regex(text) for text in texts]


WORD = st.one_of(
    st.sampled_from(["a", "b", "aaaaaaaa", "aaaaaaaab", "baaaaaaaa"]),
    st.text(alphabet="ab", min_size=1, max_size=20),
)


@settings(deadline=None)
@given(texts=st.lists(st.lists(WORD, max_size=8), max_size=4), length=st.integers(1, 9))
def test_ngram_hashes_are_equal_only_for_ngrams_with_equal_hashed_parts(
    texts: list[list[str]], length: int
) -> None:
    words = find_words(column([" ".join(text) for text in texts]))
    hashes = ngram_hashes(hashes_of(words), length).tolist()
    flat = [word for text in texts for word in text]
    ngrams = [tuple(flat[i : i + length]) for i in range(len(flat) - length + 1)]
    assert len(hashes) == len(ngrams)
    by_hash: dict[int, set[tuple[str, ...]]] = {}
    for ngram, hashed in zip(ngrams, hashes, strict=True):
        by_hash.setdefault(hashed, set()).add(
            tuple(word[:8] + word[-8:] + str(len(word)) for word in ngram)
        )
    assert all(len(seen) == 1 for seen in by_hash.values())
    assert len(by_hash) == len(
        {tuple(word[:8] + word[-8:] + str(len(word)) for word in ngram) for ngram in ngrams}
    )


@pytest.mark.parametrize("length", range(1, 20))
def test_ngram_hash_depends_on_order_and_not_on_following_words(length: int) -> None:
    numbers = [f"w{i}" for i in range(length)]
    texts = [" ".join([*numbers, "x"]), " ".join([*numbers, "y"]), " ".join(numbers[::-1])]
    first, second, in_reverse = (
        int(ngram_hashes(hashes_of(find_words(column([text]))), length)[0]) for text in texts
    )
    assert first == second
    assert (first == in_reverse) == (length == 1)


def test_word_hash_ignores_only_the_middle_of_a_long_word() -> None:
    texts = [
        "abcdefghXijklmnop abcdefghYijklmnop",
        "abcdefghXXijklmnop abcdefghXijklmnoq bbcdefghXijklmnop",
    ]
    words = find_words(column(texts))
    first, same, *others = hashes_of(words).tolist()
    assert first == same
    assert len({first, *others}) == 4
