"""The two tables beside the shards: every document that was kept, every document that was not, and what they add up to.

Both are in training order and hold no text, only what is needed to find a document again. All statistics of a prepared
corpus are counted from these tables, so no figure can disagree with what can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.data.filters import DUPLICATE
from components.tokenizer.shards import TRAIN

DOCUMENTS_PARQUET = "documents.parquet"
REJECTS_PARQUET = "rejects.parquet"

KEPT = pa.schema(
    [
        ("sha256", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_tokens", pa.int64()),
    ]
)
"""`documents.parquet`. Digest and bytes are of the raw text; tokens count the language prefix and the separator as well."""

REJECTED = pa.schema(
    [
        ("sha256", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("num_bytes", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""`rejects.parquet`. A reason is one of `components.data.filters.REASONS`, or `duplicate`."""


def rows_of_kept(batch: pa.RecordBatch, splits: Sequence[str], num_tokens: Any) -> pa.Table:
    """Rows of `documents.parquet` for documents as `ordered_documents` yields them."""
    return _rows(batch, KEPT, split=pa.array(splits, type=pa.string()), num_tokens=pa.array(num_tokens, type=pa.int64()))


def rows_of_rejects(batch: pa.RecordBatch) -> pa.Table:
    """Rows of `rejects.parquet` for documents as `ordered_documents` yields them."""
    return _rows(batch, REJECTED)


def document_names(batch: pa.RecordBatch) -> list[str]:
    """What to call each document in a message."""
    pairs = zip(batch["path"].to_pylist(), batch["source"].to_pylist(), strict=True)
    return [f"{path} of {source}" for path, source in pairs]


def _rows(batch: pa.RecordBatch, schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    columns["num_bytes"] = pc.binary_length(batch["text"])
    values = [columns[name] if name in columns else batch[name] for name in schema.names]
    return pa.table([value.cast(field.type) for value, field in zip(values, schema, strict=True)], schema=schema)


def language_statistics(languages: Iterable[str], documents: pa.Table, rejects: pa.Table) -> dict[str, JsonValue]:
    """Counts of each language: what came in, what was dropped for which reason, and what was kept for which use."""
    return {
        language: _one_language(
            documents.filter(pc.equal(documents["language"], language)),
            rejects.filter(pc.equal(rejects["language"], language)),
        )
        for language in languages
    }


def _one_language(documents: pa.Table, rejects: pa.Table) -> dict[str, JsonValue]:
    reasons = {str(count["values"]): int(count["counts"].as_py()) for count in rejects["reason"].value_counts()}
    in_training = pc.equal(documents["split"], TRAIN)
    copies = rejects.filter(pc.equal(rejects["reason"], DUPLICATE))
    train, held_out = documents.filter(in_training), documents.filter(pc.invert(in_training))
    return {
        "raw_documents": documents.num_rows + rejects.num_rows,
        "raw_bytes": _sum(documents["num_bytes"]) + _sum(rejects["num_bytes"]),
        "rejected": {reason: number for reason, number in sorted(reasons.items()) if reason != DUPLICATE},
        "duplicates": reasons.get(DUPLICATE, 0),
        "duplicate_bytes": _sum(copies["num_bytes"]),
        "documents": documents.num_rows,
        "bytes": _sum(documents["num_bytes"]),
        "train_tokens": _sum(train["num_tokens"]),
        "held_out_documents": held_out.num_rows,
        "held_out_tokens": _sum(held_out["num_tokens"]),
    }


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
