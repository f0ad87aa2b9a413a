"""Deduplication beyond a range: near-duplicates, and documents of other corpora.

Both are off by default. Near-duplicate detection holds `order`, the key of the training order, and
the band keys of every document in memory (see `components.data.filters.minhash`); documents of
other corpora are read one run at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.filters.documents import (
    DEDUP_SORT_KEYS,
    DIGEST,
    OTHER_CORPUS_OCCURRENCE,
    mark_duplicates,
    order_key,
)
from components.data.filters.minhash import cluster
from components.data.filters.quality import IN_OTHER_CORPUS, NEAR_DUPLICATE
from components.dataset.manifests import DOCUMENTS_PARQUET
from components.preparation.prepare_job import PrepareJob, run_once
from components.preparation.sorted_runs import (
    ROW_SCHEMA,
    SortedRunWriter,
    order_ranges,
    read_arrow,
    read_range,
    write_arrow,
)

_BATCH_ROWS = 2**16


def find_near_duplicates(job: PrepareJob, runs: Sequence[Path]) -> str | None:
    """Write the `sha256` of each near-duplicate to an Arrow file. Returns its path.

    Returns None if near-duplicate detection is disabled.
    """
    if not job.rules.near_duplicates.enabled:
        return None

    def write(folder: Path) -> dict[str, Any]:
        (full_range,) = order_ranges(1)
        rows = read_range(runs, full_range).select(
            ["order", "sha256", "reason", "occurrence", "bands"]
        )
        is_first = pc.and_(pc.is_null(rows["reason"]), pc.equal(rows["occurrence"], 0))
        rows = rows.filter(is_first).combine_chunks()
        # Copies are exact duplicates, not near-duplicates: keep the first row of each content.
        rows = mark_duplicates(rows.take(pc.sort_indices(rows["order"])))
        rows = rows.filter(rows["reason"].is_null())
        band_keys = rows["bands"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        is_dropped = cluster(np.arange(rows.num_rows), band_keys, job.rules.near_duplicates)
        dropped = pa.table({"sha256": rows["sha256"].filter(pa.array(is_dropped)).cast(DIGEST)})
        write_arrow(folder / "dropped.arrow", dropped)
        return {"num_dropped": dropped.num_rows}

    folder = Path(job.folder) / "near-duplicates"
    run_once(folder, write)
    return str(folder / "dropped.arrow")


def exclusion_runs(job: PrepareJob, other_corpora: Sequence[Path]) -> list[Path]:
    """Write runs with the documents of other packed corpora.

    They sort before their copies, which become duplicates, and are removed by
    `apply_global_rejects`.
    """

    def write(folder: Path) -> dict[str, Any]:
        writer = SortedRunWriter(folder, job.run_bytes)
        for corpus in other_corpora:
            table = pq.ParquetFile(corpus / DOCUMENTS_PARQUET)
            for batch in table.iter_batches(_BATCH_ROWS, columns=["sha256"]):
                for occurrence in range(ceil(job.max_epochs)):
                    writer.add(_exclusion_rows(batch["sha256"], occurrence, job.seed))
        writer.flush()
        return {"num_runs": writer.num_runs}

    folder = Path(job.folder) / "other-corpora"
    run_once(folder, write)
    return sorted(folder.glob("*.arrow"))


def _exclusion_rows(sha256: pa.Array, occurrence: int, seed: int) -> pa.RecordBatch:
    """Rows that precede the given occurrence of documents."""
    digests = [bytes.fromhex(digest) for digest in sha256.to_pylist()]
    text = pa.large_string()
    empty = pa.array([""] * len(digests), type=text)
    columns = {field.name: pa.nulls(len(digests), type=field.type) for field in ROW_SCHEMA} | {
        "order": pa.array([order_key(digest, occurrence, seed) for digest in digests], type=DIGEST),
        "occurrence": pa.array([OTHER_CORPUS_OCCURRENCE] * len(digests), type=pa.int16()),
        "sha256": pa.array(digests, type=DIGEST),
        "reason": pa.array([IN_OTHER_CORPUS] * len(digests), type=text),
        "source": empty,
        "path": empty,
        "language": empty,
    }
    return pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)


def apply_global_rejects(job: PrepareJob, rows: pa.Table, near_duplicates: str | None) -> pa.Table:
    """Sort rows into training order, and reject duplicates and near-duplicates as the rules say.

    Then remove the rows of `exclusion_runs`: their copies are marked as duplicates.

    Args:
        rows: all rows of a range, with the columns of `DEDUP_SORT_KEYS` and `reason`.
        near_duplicates: the file of `find_near_duplicates`, if enabled.
    """
    rows = rows.take(pc.sort_indices(rows, sort_keys=DEDUP_SORT_KEYS))
    if job.rules.exact_dedup:
        rows = mark_duplicates(rows)
    rows = rows.filter(pc.fill_null(pc.not_equal(rows["reason"], IN_OTHER_CORPUS), True))
    if near_duplicates is None:
        return rows
    dropped = read_arrow(Path(near_duplicates))["sha256"].combine_chunks()
    is_near = pc.and_(pc.is_in(rows["sha256"], value_set=dropped), pc.is_null(rows["reason"]))
    reason = pa.scalar(NEAR_DUPLICATE, type=pa.large_string())
    index = rows.schema.get_field_index("reason")
    return rows.set_column(
        index, rows.schema.field(index), pc.if_else(is_near, reason, rows["reason"])
    )
