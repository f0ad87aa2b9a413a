"""Near-duplicates: documents that share most of their word n-grams, by MinHash and LSH. Off by
default.

`compute_signatures` gives each document a row of fixed length, by batch, in any process. `cluster`
links two documents that share a band and whose MinHash values reach the similarity threshold, and
keeps the first document of each connected component. A MinHash value is the minimum of a * x + b
modulo 2**32 over the hashes x of all n-grams, and each permutation has its own a and b.

Only signatures (500 bytes a document) are compared, not texts. So similarities are estimates, and
chance decides pairs near the threshold.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.data.config import NearDuplicateConfig
from components.data.filters.ngrams import (
    Bytes,
    Hashes,
    Words,
    find_words,
    ngram_hashes,
    prefix_hashes,
    word_hashes,
)

_SEED = 1
"""Seed of the permutations (assumption)."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier that combines the values of a band to a key (SplitMix64's gamma: Steele, Lea and
Flood, 2014)."""
_MIX = np.uint64(0x94D049BB133111EB)
"""Odd multiplier of SplitMix64."""
_HALF = np.uint64(32)
_RECALL = 0.95
"""Share of pairs at the threshold that share a band (assumption: the estimate loses more pairs)."""


class Bands(NamedTuple):
    """Bands of a signature. Documents of similarity s share a band with probability
    1 - (1 - s**num_rows)**num_bands.
    """

    num_bands: int
    num_rows: int

    def recall(self, similarity: float) -> float:
        """Probability that documents of this similarity share a band (Leskovec, Rajaraman and
        Ullman, Mining of Massive Datasets, section 3.4.2).
        """
        return 1 - (1 - similarity**self.num_rows) ** self.num_bands


def choose_bands(config: NearDuplicateConfig) -> Bands:
    """The bands that propose the fewest pairs and still `_RECALL` of the pairs at the threshold;
    bands of a single value if no choice does.
    """
    best = Bands(config.num_perm, 1)
    for num_rows in range(2, config.num_perm + 1):
        candidate = Bands(config.num_perm // num_rows, num_rows)
        if candidate.recall(config.threshold) >= _RECALL:
            best = candidate
    return best


def compute_signatures(texts: pa.LargeStringArray, config: NearDuplicateConfig) -> Hashes:
    """The signature of each text, [number of texts, number of bands + num_perm / 8].

    A signature has a key for each band, then the low byte of each MinHash value. If a text has
    fewer words than an n-gram, keys and bytes come from its SHA-256, so it only equals an equal
    text.
    """
    num_bands, num_rows = choose_bands(config)
    if not len(texts):
        return np.zeros((0, num_bands + config.num_perm // 8), dtype=np.uint64)
    words = find_words(texts)
    values = _minhash(words, config)
    rows = values[:, : num_bands * num_rows].astype(np.uint64)
    rows = rows.reshape(len(texts), num_bands, num_rows)
    keys = np.zeros((len(texts), num_bands), dtype=np.uint64)
    for row in range(num_rows):
        keys = keys * _BASE + rows[:, :, row]
    low_bytes = (values & 0xFF).astype(np.uint8).view(np.uint64)
    signatures = np.hstack([keys, low_bytes])
    for index in np.flatnonzero(np.diff(words.first_word) < config.ngram_words).tolist():
        digest = hashlib.sha256(texts[index].as_buffer()).digest()
        signatures[index] = np.resize(np.frombuffer(digest, dtype="<u8"), signatures.shape[1])
    return signatures


def _minhash(words: Words, config: NearDuplicateConfig) -> npt.NDArray[np.uint32]:
    """MinHash values, [number of texts, num_perm]; 0 for a text without n-grams."""
    hashes, num_ngrams = _ngrams_by_text(words, config.ngram_words)
    values = np.zeros((config.num_perm, len(num_ngrams)), dtype=np.uint32)
    has_ngrams = np.flatnonzero(num_ngrams)
    if len(has_ngrams):
        first_ngram = (np.cumsum(num_ngrams) - num_ngrams)[has_ngrams]
        permuted = np.empty_like(hashes)
        random = (np.random.PCG64(_SEED).random_raw(2 * config.num_perm) >> _HALF).astype(np.uint32)
        for row, (factor, summand) in enumerate(random.reshape(-1, 2)):
            np.multiply(hashes, factor | 1, out=permuted)
            np.add(permuted, summand, out=permuted)
            values[row, has_ngrams] = np.minimum.reduceat(permuted, first_ngram)
    return np.ascontiguousarray(values.T)


def _ngrams_by_text(
    words: Words, ngram_words: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Hashes of all n-grams, text after text, and the number of n-grams of each text."""
    every_word = np.arange(len(words.starts))
    hashes = ngram_hashes(word_hashes(words, prefix_hashes(words), every_word), ngram_words)
    hashes = (hashes ^ (hashes >> _HALF)) * _MIX >> _HALF
    is_inside = np.ones(len(hashes), dtype=np.bool_)
    for distance in range(1, ngram_words):  # N-grams that continue in the next text.
        starts = words.first_word[1:] - distance
        is_inside[starts[(starts >= 0) & (starts < len(hashes))]] = False
    num_ngrams = np.maximum(np.diff(words.first_word) - ngram_words + 1, 0)
    return hashes[is_inside].astype(np.uint32), num_ngrams


def cluster(
    order_keys: npt.ArrayLike, signatures: Hashes, config: NearDuplicateConfig
) -> npt.NDArray[np.bool_]:
    """Whether each document is dropped, because it is not the first of its connected component,
    [number of documents].

    Args:
        order_keys: [number of documents], the order of documents; ties are broken by index.
        signatures: rows of `compute_signatures` of all batches, with the same configuration.
        config: the similarity threshold.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num_documents = len(signatures)
    if not num_documents:
        return np.zeros(0, dtype=np.bool_)
    num_bands = choose_bands(config).num_bands
    low_bytes = np.ascontiguousarray(signatures[:, num_bands:]).view(np.uint8)
    links = [_similar_pairs(keys, low_bytes, config.threshold) for keys in signatures.T[:num_bands]]
    left, right = np.concatenate(links, axis=1)
    shape = (num_documents, num_documents)
    graph = coo_array((np.ones(len(left), dtype=np.bool_), (left, right)), shape=shape)
    _, components = connected_components(graph, directed=False)
    order = np.argsort(np.asarray(order_keys), kind="stable")
    _, first_in_order = np.unique(components[order], return_index=True)
    is_dropped = np.ones(num_documents, dtype=np.bool_)
    is_dropped[order[first_in_order]] = False
    return is_dropped


def _similar_pairs(keys: Hashes, low_bytes: Bytes, threshold: float) -> npt.NDArray[np.int64]:
    """Pairs of similar documents with the same key, each with the next such document, [2,
    pairs]."""
    by_key = np.argsort(keys, kind="stable")
    has_same_key = keys[by_key[1:]] == keys[by_key[:-1]]
    pairs = np.stack([by_key[:-1][has_same_key], by_key[1:][has_same_key]])
    equal = (low_bytes[pairs[0]] == low_bytes[pairs[1]]).mean(axis=1, dtype=np.float64)
    # Bytes of unequal values are equal with probability 1/256 (b-bit MinHash: Li and Koenig, 2010).
    is_similar = (equal - 1 / 256) / (1 - 1 / 256) >= threshold
    return np.compress(is_similar, pairs, axis=1)
