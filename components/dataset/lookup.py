"""The documents that lie in given sequences of a packed corpus: what a person looks at when a batch is bad.

`documents.parquet` beside the shards has every document in training order with its length, so where a document lies follows
by adding up, a part of the table at a time. Not covered: held-out splits, a corpus that is not on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.dataset.manifests import DOCUMENTS_PARQUET
from components.dataset.shards import TRAIN


def documents_in_sequences(
    corpus: Path, sequences: Iterable[int], context_length: int
) -> list[str]:
    """`source:path` of every document with a token in one of these sequences of the train split, in training order.

    Empty where the corpus has no table of documents on this machine.
    """
    table_path, first_tokens = (
        corpus / DOCUMENTS_PARQUET,
        np.array(sorted(set(sequences))) * context_length,
    )
    if not table_path.is_file():
        return []
    found: list[str] = []
    start = 0
    for batch in pq.ParquetFile(table_path).iter_batches(
        columns=["split", "source", "path", "num_tokens"]
    ):
        rows = pa.table(batch).filter(pc.field("split") == TRAIN)
        ends = start + np.cumsum(rows["num_tokens"].to_numpy())
        starts = np.concatenate([[start], ends])[:-1]
        # A document lies in a sequence where the first one that ends after its start begins before its end.
        candidates = np.searchsorted(first_tokens + context_length, starts, side="right")
        begins = np.append(first_tokens, np.iinfo(np.int64).max)[candidates]
        touched = rows.filter(pa.array((begins < ends) & (starts < ends)))
        found += [
            f"{row['source']}:{row['path']}"
            for row in touched.select(["source", "path"]).to_pylist()
        ]
        start = int(ends[-1]) if len(ends) else start
    return found
