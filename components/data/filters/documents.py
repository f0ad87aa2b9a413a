"""From records to judged documents: who each one is, where it stands in the order, on which side of the split, kept or not.

Everything that is said of a document hangs on its content, the seed and the settings alone, so it does not matter in which
file, partition or process it was read. The order is a keyed SHA-256 of the content: a shuffle that depends neither on file
order nor on partitioning, and one that brings equal documents side by side. So a duplicate is a document that equals its
predecessor; the first copy by (source, path, language) is kept. Whether a document is held out is decided the same way, so
it is never trained on in one corpus and held out of another. What is not covered: reading (`sources`), and near-duplicates,
which take a look at all documents together (`near_duplicates`).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.data.config import DataConfig
from components.data.filters.quality import DUPLICATE, reject_reasons

DIGEST = pa.binary(32)
"""A SHA-256 as bytes."""

DOCUMENT_SCHEMA = pa.schema(
    [("order", DIGEST), ("sha256", DIGEST), ("held_out", pa.bool_()), ("reason", pa.large_string())]
)
"""`order` is the place in training order, `sha256` of the text's UTF-8 bytes, `reason` is null for what is kept."""

DEDUP_SORT_KEYS = (
    ("order", "ascending"),
    ("source", "ascending"),
    ("path", "ascending"),
    ("language", "ascending"),
)
"""What tells two rows apart is all here, so nothing is left for the order in which files are read to decide."""


def annotate_documents(texts: pa.LargeStringArray, config: DataConfig, seed: int) -> pa.RecordBatch:
    """Identity, place in the order, split and reason of each text: one row of `JUDGEMENT` each."""
    digests = [hashlib.sha256(text.as_buffer()).digest() for text in texts]
    columns = {
        "order": pa.array([keyed_hash("order", seed, digest) for digest in digests], type=DIGEST),
        "sha256": pa.array(digests, type=DIGEST),
        "held_out": pa.array(
            [is_held_out(digest, config.held_out_fraction, seed) for digest in digests],
            type=pa.bool_(),
        ),
        "reason": reject_reasons(texts, config.filters).cast(pa.large_string()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT_SCHEMA)


def is_held_out(content_sha256: bytes, fraction: float, seed: int) -> bool:
    """Whether a document is kept out of training: true for `fraction` of all contents, whatever corpus they stand in."""
    return in_hash_sample("held-out", content_sha256, fraction, seed)


def in_hash_sample(purpose: str, content_sha256: bytes, fraction: float, seed: int) -> bool:
    """Whether a document is one of a `fraction` of all contents, chosen anew for every purpose and seed."""
    return int.from_bytes(keyed_hash(purpose, seed, content_sha256)[:8], "big") < fraction * 2**64


def keyed_hash(purpose: str, seed: int, content_sha256: bytes) -> bytes:
    """A number of 32 bytes that looks random, of one document for one purpose."""
    return hashlib.sha256(f"{purpose}:{seed}:".encode() + content_sha256).digest()


def sort_and_mark_duplicates(documents: pa.Table) -> pa.Table:
    """The documents in training order, copies by (source, path, language); duplicates marked. The columns of `FIRST_COPY`
    and `reason` are needed; all copies of a content have to be among the documents, or none.
    """
    return mark_duplicates(documents.take(pc.sort_indices(documents, sort_keys=DEDUP_SORT_KEYS)))


def mark_duplicates(documents: pa.Table) -> pa.Table:
    """Give every document that equals the one before it the reason `duplicate`.

    A copy of a rejected document keeps the reason of the filter.
    """
    if documents.num_rows < 2:
        return documents
    order = documents["order"].combine_chunks()
    is_copy = pa.concat_arrays([pa.array([False]), pc.equal(order[1:], order[:-1])])
    is_duplicate = pc.and_(is_copy, pc.is_null(documents["reason"]))
    reason = pc.if_else(
        is_duplicate, pa.scalar(DUPLICATE, type=pa.large_string()), documents["reason"]
    )
    return documents.set_column(
        documents.schema.get_field_index("reason"), documents.schema.field("reason"), reason
    )


def hash_prefix_u64(order: pa.Array) -> npt.NDArray[np.uint64]:
    """The first 64 bits of each place in the order, as numbers that sort like the places themselves."""
    first, stop = order.offset * 32, (order.offset + len(order)) * 32
    places = np.frombuffer(order.buffers()[1], dtype=np.uint8)[first:stop].reshape(-1, 32)
    return np.ascontiguousarray(places[:, :8]).view(">u8")[:, 0].astype(np.uint64)
