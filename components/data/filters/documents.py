"""Identity, training order, held-out split and exact duplicates of documents.

All are computed from a document's content, the seed and the settings, so they do not depend on
files, partitions or processes. The training order is a keyed SHA-256 of the content: it shuffles,
and equal documents are adjacent. So a duplicate equals its predecessor, and the first copy by
(source, path, language) is kept. The held-out split is keyed by content too, so a document that is
held out of one corpus is not trained on in another.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.data.config import FilterConfig
from components.data.filters.quality import DUPLICATE, reject_reasons
from components.data.sources.config import MAX_EPOCHS

DIGEST = pa.binary(32)
"""A SHA-256 as bytes."""

DOCUMENT_SCHEMA = pa.schema(
    [("order", DIGEST), ("sha256", DIGEST), ("held_out", pa.bool_()), ("reason", pa.large_string())]
)
"""`order`: key of the training order. `sha256`: of the text in UTF-8. `reason`: why the document is
rejected, or null."""

DEDUP_SORT_KEYS = (
    ("order", "ascending"),
    ("occurrence", "ascending"),
    ("source", "ascending"),
    ("path", "ascending"),
    ("language", "ascending"),
)
"""Sort keys of documents. They are complete, so the order of files has no effect. `occurrence`
counts the occurrences of a document from 0, or is one of the numbers below."""

OTHER_CORPUS_OCCURRENCE = -1
"""Of a document of another corpus: it precedes its copies, which become duplicates."""
NOT_SAMPLED_OCCURRENCE = MAX_EPOCHS
"""Of a document that is not sampled: it follows copies from sources with more epochs."""


FIRST_OCCURRENCES = (0, NOT_SAMPLED_OCCURRENCE)
"""Rows that stand for a document as it was read; others are further occurrences of it."""


def annotate_documents(
    texts: pa.LargeStringArray, filters: FilterConfig | None, held_out_fraction: float, seed: int
) -> pa.RecordBatch:
    """Compute a row of `DOCUMENT_SCHEMA` for each text; for `filters` see `reject_reasons`."""
    digests = [hashlib.sha256(text.as_buffer()).digest() for text in texts]
    order = [order_key(digest, 0, seed) for digest in digests]
    held_out = [is_held_out(digest, held_out_fraction, seed) for digest in digests]
    columns = {
        "order": pa.array(order, type=DIGEST),
        "sha256": pa.array(digests, type=DIGEST),
        "held_out": pa.array(held_out, type=pa.bool_()),
        "reason": reject_reasons(texts, filters).cast(pa.large_string()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT_SCHEMA)


def is_held_out(content_sha256: bytes, fraction: float, seed: int) -> bool:
    """Whether a document is not trained on: true for `fraction` of all contents, in every
    corpus."""
    return in_hash_sample("held-out", content_sha256, fraction, seed)


def in_hash_sample(purpose: str, content_sha256: bytes, fraction: float, seed: int) -> bool:
    """Whether a document is in a sample of all contents, which differs by purpose and seed."""
    return int.from_bytes(keyed_hash(purpose, seed, content_sha256)[:8], "big") < fraction * 2**64


def num_occurrences(content_sha256: bytes, epochs: float, seed: int) -> int:
    """How often a document occurs in the training split: `epochs`, rounded up for a share of all
    contents that is its fraction, else down. Grows with `epochs` for every content."""
    whole, fraction = divmod(epochs, 1)
    return int(whole) + in_hash_sample("epochs", content_sha256, fraction, seed)


def order_key(content_sha256: bytes, occurrence: int, seed: int) -> bytes:
    """The key of the training order of an occurrence of a document, counted from 0. Occurrences are
    spread over the corpus."""
    return keyed_hash(f"order {occurrence}" if occurrence else "order", seed, content_sha256)


def keyed_hash(purpose: str, seed: int, content_sha256: bytes) -> bytes:
    """A pseudo-random number of 32 bytes for a document and a purpose."""
    return hashlib.sha256(f"{purpose}:{seed}:".encode() + content_sha256).digest()


def mark_duplicates(documents: pa.Table) -> pa.Table:
    """Set the reason `duplicate` for each sorted document that equals its predecessor.

    A copy of a rejected document keeps the reason of the filter.
    """
    if documents.num_rows < 2:
        return documents
    order = documents["order"].combine_chunks()
    is_copy = pa.concat_arrays([pa.array([False]), pc.equal(order[1:], order[:-1])])
    is_duplicate = pc.and_(is_copy, pc.is_null(documents["reason"]))
    duplicate = pa.scalar(DUPLICATE, type=pa.large_string())
    reason = pc.if_else(is_duplicate, duplicate, documents["reason"])
    index = documents.schema.get_field_index("reason")
    return documents.set_column(index, documents.schema.field("reason"), reason)


def hash_prefix_u64(order: pa.Array) -> npt.NDArray[np.uint64]:
    """The first 64 bits of each key of the training order, as numbers that sort like the keys."""
    start = order.offset * 32
    end = (order.offset + len(order)) * 32
    keys = np.frombuffer(order.buffers()[1], dtype=np.uint8)[start:end].reshape(-1, 32)
    return np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)
