"""Near-duplicates: bands by hand, copies by exact similarity, clusters by a simple union-find."""

from __future__ import annotations

import argparse
import inspect
import random
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.filters.minhash import (
    Bands,
    NearDuplicateConfig,
    choose_bands,
    cluster,
    compute_signatures,
)
from components.data.filters.ngrams import Hashes, find_words, prefix_hashes, word_hashes

CONFIG = NearDuplicateConfig(enabled=True)
FEW = NearDuplicateConfig(enabled=True, num_perm=8, threshold=0.9)
REAL = inspect.getsource(argparse)


def column(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def ngrams(text: str) -> set[tuple[bytes, ...]]:
    words = re.findall(rb"[a-z0-9\x80-\xff]+", text.encode().lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(left: str, right: str) -> float:
    return len(ngrams(left) & ngrams(right)) / len(ngrams(left) | ngrams(right))


def dropped_documents(*texts: str, config: NearDuplicateConfig = CONFIG) -> list[bool]:
    return cluster(
        np.arange(len(texts)), compute_signatures(column(*texts), config), config
    ).tolist()


def with_words_replaced(text: str, share: float, seed: int = 7) -> str:
    generator = random.Random(seed)  # noqa: S311 - deterministic
    return re.sub(
        r"\w+",
        lambda word: f"zq{generator.randrange(10**6)}" if generator.random() < share else word[0],
        text,
    )


def test_bands_propose_most_pairs_at_the_threshold_and_few_others() -> None:
    """36 bands of 7 find 1 - (1 - 0.7**7)**36 = 95.5 % at 0.7; 32 bands of 8 would find 85 %."""
    assert choose_bands(CONFIG) == Bands(36, 7)
    assert Bands(36, 7).recall(0.7) == pytest.approx(1 - (1 - 0.0823543) ** 36)
    # 1 - 0.19**4 = 99.9 %; 2 of 3 would find 93 %.
    assert choose_bands(NearDuplicateConfig(num_perm=8, threshold=0.9)) == Bands(4, 2)
    # Finds 57 %; no choice finds more.
    assert choose_bands(NearDuplicateConfig(num_perm=8, threshold=0.1)) == Bands(8, 1)


@pytest.mark.parametrize(
    ("share", "low", "high", "dropped"),
    [(0.01, 0.85, 1, True), (0.02, 0.75, 0.9, True), (0.2, 0.1, 0.4, False)],
)
def test_copies_are_dropped_by_similarity(
    share: float, low: float, high: float, dropped: bool
) -> None:
    copy = with_words_replaced(REAL, share)
    assert low < jaccard(REAL, copy) < high
    assert dropped_documents(REAL, copy, "something else entirely, of more than five words") == [
        False,
        dropped,
        False,
    ]


def test_share_of_common_keys_estimates_the_similarity() -> None:
    """With a value in each band; tolerance: four standard errors."""
    config = NearDuplicateConfig(num_perm=1024, threshold=0.001)
    assert choose_bands(config) == Bands(1024, 1)
    copy = with_words_replaced(REAL, 0.05)
    left, right = compute_signatures(column(REAL, copy), config)[:, :1024]
    exact = jaccard(REAL, copy)
    assert abs(np.mean(left == right) - exact) < 4 * np.sqrt(exact * (1 - exact) / 1024)


def test_documents_that_only_share_a_band_are_kept() -> None:
    """At 0.45, 13 % of pairs share one of 36 bands of 7: some of 40 copies do, none is dropped."""
    copies = [with_words_replaced(REAL, 0.1, seed) for seed in range(40)]
    assert all(0.35 < jaccard(REAL, copy) < 0.55 for copy in copies)
    signed = compute_signatures(column(REAL, *copies), CONFIG)
    assert (signed[0, :36] == signed[1:, :36]).any()
    assert not any(dropped_documents(REAL, copy)[1] for copy in copies)


def test_case_white_space_and_punctuation_have_no_effect() -> None:
    assert dropped_documents(
        REAL, re.sub(r"\s+", "  \n", REAL.upper()), REAL.replace(",", ";")
    ) == [
        False,
        True,
        True,
    ]


def test_short_texts_are_only_near_duplicates_of_equal_texts() -> None:
    assert dropped_documents("a b c d", "A b c d", "a b c d", "", "", "?", "!") == [
        False,
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_signatures_do_not_depend_on_batch_or_process() -> None:
    texts = [REAL, "one two three four five six", "short", with_words_replaced(REAL, 0.1)]
    together = compute_signatures(column("before", *texts)[1:], CONFIG)
    assert together.shape == (4, 36 + 32)
    assert all(
        (compute_signatures(column(text), CONFIG)[0] == keys).all()
        for text, keys in zip(texts, together, strict=True)
    )
    program = (
        "import pyarrow as pa; from components.data.filters.minhash import *\n"
        "texts = pa.array(['one two three four five six', 'short'], type=pa.large_string())\n"
        "print(compute_signatures(texts, NearDuplicateConfig()).tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == str(together[1:3].tolist())


def test_low_bytes_are_those_of_the_smallest_permuted_hashes() -> None:
    """Computed with Python's integers; the second text has a single n-gram."""
    texts = column("one two three four five six seven", "a b c d e")
    words = find_words(texts)
    word_numbers = word_hashes(words, prefix_hashes(words), np.arange(12)).tolist()
    ngrams = [word_numbers[start : start + 5] for start in (0, 1, 2, 7)]
    base, mix = 0x9E3779B97F4A7C15, 0x94D049BB133111EB
    hashes = []
    for ngram in ngrams:
        number = sum(value * base ** (4 - index) for index, value in enumerate(ngram)) % 2**64
        hashes.append((number ^ number >> 32) * mix % 2**64 >> 32)
    random = [number >> 32 for number in np.random.PCG64(1).random_raw(16).tolist()]
    permutations = [(random[row] | 1, random[row + 1]) for row in range(0, 16, 2)]
    expected = [
        [
            min((factor * h + summand) % 2**32 for h in of_text) % 256
            for factor, summand in permutations
        ]
        for of_text in (hashes[:3], hashes[3:])
    ]
    low_bytes = np.ascontiguousarray(compute_signatures(texts, FEW)[:, 4:]).view(np.uint8)
    assert low_bytes.tolist() == expected


def test_signatures_do_not_change() -> None:
    """If this fails after an upgrade of NumPy, raise the preparation's CODE_VERSION."""
    keys = compute_signatures(column("one two three four five six"), FEW)
    assert keys.tolist() == [
        [
            18039205338914095038,
            7078231486472227389,
            5922890835955982192,
            6052857732578831091,
            994988104342477265,
        ]
    ]


def simple_union_find(order: list[int], keys: list[list[int]]) -> list[bool]:
    groups = [{place} for place in range(len(keys))]
    for i in range(len(keys)):
        for j in range(i):
            if any(a == b for a, b in zip(keys[i], keys[j], strict=True)):
                union = groups[i] | groups[j]
                for place in union:
                    groups[place] = union
    return [
        min(group, key=lambda place: (order[place], place)) != place
        for place, group in enumerate(groups)
    ]


def all_similar(keys: list[list[int]]) -> Hashes:
    """Signatures with equal low bytes, so that only the keys decide."""
    num_bands = choose_bands(FEW).num_bands
    signed = np.zeros((len(keys), num_bands + 1), dtype=np.uint64)
    signed[:, :num_bands] = np.array(keys, dtype=np.uint64).reshape(len(keys), num_bands)
    return signed


@settings(deadline=None)
@given(
    documents=st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.integers(0, 6), min_size=4, max_size=4)),
        max_size=10,
    )
)
def test_clusters_equal_a_simple_union_find(documents: list[tuple[int, list[int]]]) -> None:
    order, keys = [document[0] for document in documents], [document[1] for document in documents]
    assert cluster(order, all_similar(keys), FEW).tolist() == simple_union_find(order, keys)


def test_first_document_of_a_chain_is_kept() -> None:
    """0 and 1 share a band, 1 and 2 share another: a single component."""
    keys = [[1, 1, 1, 1], [1, 2, 2, 2], [3, 2, 3, 3], [1 << 63, 1 << 63, 4, 4]]
    assert cluster(["b", "c", "a", "d"], all_similar(keys), FEW).tolist() == [
        True,
        True,
        False,
        False,
    ]
