"""The two tables beside the shards: every document that was kept, every document that was not, and what they add up to.

Both are in training order and hold no text, only what is needed to find a document again. All statistics of a prepared
corpus are counted from these tables, so no figure can disagree with what can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from components.data.filters.quality import DUPLICATE
from components.dataset.shards import TRAIN

DOCUMENTS_PARQUET = "documents.parquet"
REJECTS_PARQUET = "rejects.parquet"
QUARANTINE_JSONL = "quarantine.jsonl"
"""Beside the tables: records that could not be read, which never were documents."""

_ROWS_AT_ONCE = 2**16
"""Rows in a row group of a table: fixed, so that the bytes of the file do not depend on how the work was cut."""

DOCUMENTS_SCHEMA = pa.schema(
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

REJECTS_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("num_bytes", pa.int64()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
    ]
)
"""`rejects.parquet`. A reason is one of `components.data.filters.quality`; the excerpt is how the text begins, null for a duplicate,
whose text is that of a document that was kept."""


def rows_of_kept(documents: pa.Table, splits: pa.ChunkedArray) -> pa.Table:
    """Rows of `documents.parquet` from rows of a run, with `num_tokens` in the place of tokens, and the split of each."""
    return _rows(documents, DOCUMENTS_SCHEMA, split=splits)


def rows_of_rejects(documents: pa.Table) -> pa.Table:
    """Rows of `rejects.parquet` from rows of a run."""
    return _rows(documents, REJECTS_SCHEMA)


def _rows(documents: pa.Table, schema: pa.Schema, **columns: pa.ChunkedArray) -> pa.Table:
    columns["sha256"] = pa.chunked_array(
        [[digest.hex() for digest in documents["sha256"].to_pylist()]], type=pa.string()
    )
    values = [columns[name] if name in columns else documents[name] for name in schema.names]
    return pa.table(
        [value.cast(field.type) for value, field in zip(values, schema, strict=True)], schema=schema
    )


def language_statistics(
    languages: Iterable[str], documents: pa.Table, rejects: pa.Table
) -> dict[str, JsonValue]:
    """Counts of each language: what came in, what was dropped for which reason, and what was kept for which use."""
    return {
        language: _one_language(
            documents.filter(pc.equal(documents["language"], language)),
            rejects.filter(pc.equal(rejects["language"], language)),
        )
        for language in languages
    }


def _one_language(documents: pa.Table, rejects: pa.Table) -> dict[str, JsonValue]:
    reasons = {
        str(count["values"]): int(count["counts"].as_py())
        for count in rejects["reason"].value_counts()
    }
    in_training = pc.equal(documents["split"], TRAIN)
    copies = rejects.filter(pc.equal(rejects["reason"], DUPLICATE))
    train, held_out = documents.filter(in_training), documents.filter(pc.invert(in_training))
    return {
        "raw_documents": documents.num_rows + rejects.num_rows,
        "raw_bytes": _sum(documents["num_bytes"]) + _sum(rejects["num_bytes"]),
        "rejected": {
            reason: number for reason, number in sorted(reasons.items()) if reason != DUPLICATE
        },
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


def sum_nested_counts(counts: Iterable[dict[str, Any]]) -> dict[str, JsonValue]:
    """Counts of several parts, added up: nested mappings of numbers, in which a key may be missing."""
    total: dict[str, Any] = {}
    for one in counts:
        for name, value in one.items():
            if isinstance(value, dict):
                total[name] = sum_nested_counts([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total


def write_table(path: Path, parts: Iterable[Path], schema: pa.Schema) -> None:
    """Write one table from its parts, Arrow files, in row groups whose size does not depend on how it was cut."""
    with pq.ParquetWriter(path, schema) as writer:
        held = schema.empty_table()
        for part in parts:
            held = pa.concat_tables([held, pa.ipc.open_file(pa.memory_map(str(part))).read_all()])
            whole = held.num_rows // _ROWS_AT_ONCE * _ROWS_AT_ONCE
            for start in range(0, whole, _ROWS_AT_ONCE):
                writer.write_table(held.slice(start, _ROWS_AT_ONCE).combine_chunks(), _ROWS_AT_ONCE)
            held = held.slice(whole)
        if held.num_rows:
            writer.write_table(held.combine_chunks(), _ROWS_AT_ONCE)
