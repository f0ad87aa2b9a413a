"""Tables beside the shards of a packed corpus, and samples of its rejects.

    documents.parquet    accepted documents, in training order
    rejects.parquet      rejected documents, each with its reason, in training order
    quarantine.jsonl     quarantined records, which could not be read

The tables hold no text but excerpts. Training order is a keyed hash of the content, so the first
rows of a reason and language are a random sample that depends on contents and seed only, not on
files, partitions or workers.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.dataset.shards import TRAIN

DOCUMENTS_PARQUET = "documents.parquet"
REJECTS_PARQUET = "rejects.parquet"
QUARANTINE_JSONL = "quarantine.jsonl"
"""Records that could not be read."""

DOCUMENTS_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("license", pa.string()),
        ("occurrence", pa.int16()),
        ("num_bytes", pa.int64()),
        ("num_tokens", pa.int64()),
    ]
)
"""`documents.parquet`. `sha256` and `num_bytes` are of the raw text; `num_tokens` includes the
language prefix and the separator. `occurrence` is above 0 for further occurrences of a document
whose source has more than one epoch. `license` is as the record states it, or empty."""

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
"""`rejects.parquet`. `reason` is a string chosen by preparation. `excerpt` is the beginning of the
text, null for a duplicate, whose text is that of an accepted document."""

SAMPLE_COLUMNS = ("reason", "language", "source", "path", "num_bytes", "sha256", "excerpt")
"""Columns of a sample of rejected documents or quarantined records."""
SAMPLES_PER_REASON = 3
"""Documents per reason and language (assumption: enough to understand a reason)."""
_BATCH_ROWS = 8192
"""Rows in memory at a time (assumption: some MB, as an excerpt has 200 characters)."""

Row = dict[str, Any]


def documents_in_sequences(
    corpus: Path, sequences: Iterable[int], context_length: int
) -> list[str]:
    """List `source:path` of every document with a token in the given sequences of the train split.

    In training order; reads the table in batches. Empty if the corpus has no table of documents on
    this machine.
    """
    table_path = corpus / DOCUMENTS_PARQUET
    if not table_path.is_file():
        return []
    sequence_starts = np.array(sorted(set(sequences))) * context_length
    documents: list[str] = []
    offset = 0
    columns = ["split", "source", "path", "num_tokens"]
    for batch in pq.ParquetFile(table_path).iter_batches(columns=columns):
        rows = pa.table(batch).filter(pc.field("split") == TRAIN)
        ends = offset + np.cumsum(rows["num_tokens"].to_numpy())
        starts = np.concatenate([[offset], ends])[:-1]
        # Overlap: the first sequence that ends after the document starts begins before its end.
        candidates = np.searchsorted(sequence_starts + context_length, starts, side="right")
        begins = np.append(sequence_starts, np.iinfo(np.int64).max)[candidates]
        overlaps = rows.filter(pa.array((begins < ends) & (starts < ends)))
        documents += [f"{row['source']}:{row['path']}" for row in overlaps.to_pylist()]
        offset = int(ends[-1]) if len(ends) else offset
    return documents


def sample_rejected_documents(
    table: Path | IO[bytes], num_each: int = SAMPLES_PER_REASON
) -> list[Row]:
    """The first `num_each` distinct contents of each reason and language, in training order.

    Args:
        table: `rejects.parquet` of a packed corpus; read in batches.
        num_each: contents per reason and language.

    Returns:
        Rows of `SAMPLE_COLUMNS`.
    """
    sample: list[Row] = []
    contents: dict[str, list[str]] = defaultdict(list)
    for batch in pq.ParquetFile(table).iter_batches(_BATCH_ROWS, columns=list(SAMPLE_COLUMNS)):
        group = pc.binary_join_element_wise(batch["reason"], batch["language"], "\0")
        content = pc.binary_join_element_wise(group, batch["sha256"], "\0")
        full_groups = [name for name, sampled in contents.items() if len(sampled) == num_each]
        all_contents = [name for sampled in contents.values() for name in sampled]
        is_skipped = pc.or_(_is_in(group, full_groups), _is_in(content, all_contents))
        rows = pa.Table.from_batches([batch])
        rows = rows.append_column("group", group).append_column("content", content)
        for row in rows.filter(pc.invert(is_skipped)).to_pylist():
            sampled = contents[row["group"]]
            if len(sampled) < num_each and row["content"] not in sampled:
                sampled.append(row["content"])
                sample.append({name: row[name] for name in SAMPLE_COLUMNS})
    return sample


def _is_in(values: pa.Array, members: list[str]) -> pa.Array:
    return pc.is_in(values, value_set=pa.array(members, type=values.type))


def sample_quarantined_records(
    lines: Iterable[bytes | str], num_each: int = SAMPLES_PER_REASON
) -> list[Row]:
    """Up to `num_each` quarantined records of each kind of reason, chosen by a hash of their
    descriptions.

    Args:
        lines: `quarantine.jsonl` of a packed corpus.
        num_each: records per kind of reason.

    Returns:
        Rows of `SAMPLE_COLUMNS`: `source` is the file, `path` the offset; other columns of
        documents are null.
    """
    samples: dict[str, list[tuple[bytes, Row]]] = defaultdict(list)
    for line in lines:
        record = orjson.loads(line)
        digest = hashlib.sha256(orjson.dumps(record, option=orjson.OPT_SORT_KEYS)).digest()
        row: Row = dict.fromkeys(SAMPLE_COLUMNS)
        row |= {
            "reason": record["reason"],
            "source": record["file"],
            "path": f"offset {record['offset']}",
            "excerpt": record["excerpt"],
        }
        sample = samples[record["reason"].partition(":")[0]]
        sample.append((digest, row))
        sample.sort(key=lambda entry: entry[0])
        del sample[num_each:]
    return [row for _, sample in sorted(samples.items()) for _, row in sample]
