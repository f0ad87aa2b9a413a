"""Near-duplicates: documents that share most of their n-grams of words, by MinHash and LSH. Off unless a recipe asks for it.

Two steps. `signatures` gives each document a row of fixed length and can be called batch by batch, in any process. `cluster`
sees the rows of all documents: two that share a band, and by their MinHash values are as similar as the threshold says, are
linked, and of each connected component the first document is kept. The MinHash is Daft's; words are those of `words`.

One decision: a corpus is clustered without its texts, from some 500 bytes a document. A similarity is therefore an estimate,
and pairs near the threshold are decided by chance. No pair is compared exactly.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.data.config import NearDuplicateConfig
from components.data.engine import daft
from components.data.filters.arrow_text import Bytes
from components.data.filters.ngrams import Hashes, Words, find_words

_SEED = 1
"""Of the permutations (assumption). Another seed is another sample of the same documents' n-grams."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier that folds a band's values into one key (SplitMix64's gamma: Steele, Lea and Flood, 2014)."""
_RECALL = 0.95
"""Share of the pairs at the threshold that share a band (assumption: the estimate loses more)."""


class Bands(NamedTuple):
    """How a signature is cut: documents of similarity s share a band with probability 1 - (1 - s**num_rows)**num_bands."""

    num_bands: int
    num_rows: int

    def recall(self, similarity: float) -> float:
        """That probability (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2)."""
        return 1 - (1 - similarity**self.num_rows) ** self.num_bands


def bands(config: NearDuplicateConfig) -> Bands:
    """The cut that proposes the fewest pairs and yet most of those at the threshold; bands of one value if none does."""
    cuts = [
        Bands(config.num_perm // num_rows, num_rows) for num_rows in range(1, config.num_perm + 1)
    ]
    return max(
        (cut for cut in cuts if cut.recall(config.threshold) >= _RECALL),
        default=cuts[0],
        key=lambda cut: cut.num_rows,
    )


def signatures(texts: pa.LargeStringArray, config: NearDuplicateConfig) -> Hashes:
    """What `cluster` has to know of each text, [number of texts, number of bands + num_perm / 8].

    First a key for each band, then the low byte of each value. A text of fewer words than an n-gram has no values; its keys
    and bytes are made of its SHA-256, so that only an equal text has the same.
    """
    num_bands, num_rows = bands(config)
    if not len(texts):
        return np.zeros((0, num_bands + config.num_perm // 8), dtype=np.uint64)
    words = find_words(texts)
    values = _minhash(words, config)
    rows = (
        values[:, : num_bands * num_rows].astype(np.uint64).reshape(len(texts), num_bands, num_rows)
    )
    keys = np.zeros((len(texts), num_bands), dtype=np.uint64)
    for row in range(num_rows):
        keys = keys * _BASE + rows[:, :, row]
    low_bytes = (values & 0xFF).astype(np.uint8).view(np.uint64)
    signed = np.hstack([keys, low_bytes])
    for text in np.flatnonzero(np.diff(words.first_word) < config.ngram_words).tolist():
        digest = hashlib.sha256(texts[text].as_buffer()).digest()
        signed[text] = np.resize(np.frombuffer(digest, dtype="<u8"), signed.shape[1])
    return signed


def _minhash(words: Words, config: NearDuplicateConfig) -> npt.NDArray[np.uint32]:
    """[number of texts, num_perm]; Daft takes words apart at single spaces."""
    plain = [words.text(text) for text in range(len(words.offsets) - 1)]
    column = daft.Series.from_arrow(pa.array(plain, type=pa.large_binary()).cast(pa.large_string()))
    hashed = column.minhash(config.num_perm, config.ngram_words, _SEED, "xxhash3_64").to_arrow()
    values: npt.NDArray[np.uint32] = hashed.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(plain), config.num_perm)


def cluster(
    order_keys: npt.ArrayLike, signed: Hashes, config: NearDuplicateConfig
) -> npt.NDArray[np.bool_]:
    """Which documents to drop: all but the first of each connected component, [number of documents].

    Args:
        order_keys: [number of documents], what "first" goes by; between equal ones the earlier place comes first.
        signed: what `signatures` gave with the same configuration, the rows of all batches.
        config: says how similar is a near-duplicate.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num_documents, num_bands = len(signed), bands(config).num_bands
    if not num_documents:
        return np.zeros(0, dtype=np.bool_)
    low_bytes = np.ascontiguousarray(signed[:, num_bands:]).view(np.uint8)
    links = [_linked(keys, low_bytes, config.threshold) for keys in signed[:, :num_bands].T]
    ones, others = (np.concatenate(ends) for ends in zip(*links, strict=True))
    graph = coo_array(
        (np.ones(len(ones), dtype=np.bool_), (ones, others)), shape=(num_documents, num_documents)
    )
    _, components = connected_components(graph, directed=False)
    in_order = np.argsort(np.asarray(order_keys), kind="stable")
    _, firsts = np.unique(components[in_order], return_index=True)
    dropped = np.ones(num_documents, dtype=np.bool_)
    dropped[in_order[firsts]] = False
    return dropped


def _linked(
    keys: Hashes, low_bytes: Bytes, threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of documents that have the same key, each with the next one that has it, and are similar enough."""
    by_key = np.argsort(keys, kind="stable")
    same = keys[by_key[1:]] == keys[by_key[:-1]]
    ones, others = by_key[:-1][same], by_key[1:][same]
    equal = (low_bytes[ones] == low_bytes[others]).mean(axis=1, dtype=np.float64)
    # Bytes of unequal values are equal by chance, one in 256: what b-bit MinHash corrects for (Li and Koenig, 2010).
    similar = (equal - 1 / 256) / (1 - 1 / 256) >= threshold
    return ones[similar], others[similar]
