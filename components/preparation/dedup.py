"""Duplicates that take a look beyond one range: near-duplicates, and copies of documents of other corpora.

Both are options that are off by default, and both say what they need of memory: near-duplicates hold the place and the band
keys of every document (see `near_duplicates` in `components.data`), documents of other corpora one run at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.filters.documents import DIGEST, keyed_hash
from components.data.filters.minhash import cluster
from components.data.filters.quality import IN_OTHER_CORPUS
from components.dataset.manifests import DOCUMENTS_PARQUET
from components.preparation.job import PrepareJob, read_done_marker, staging_dir, write_done_marker
from components.preparation.sorted_runs import (
    ROW_SCHEMA,
    RunWriter,
    ranges,
    read_range,
    write_arrow,
)

_ROWS_AT_ONCE = 2**16


def near_duplicates(job: PrepareJob, runs: Sequence[Path]) -> str:
    """A file that names, by their places in the order, the documents that are nearly an earlier one."""
    place = Path(job.folder) / "near-duplicates"
    if read_done_marker(place) is None:
        (whole,) = ranges(1)
        rows = read_range(runs, whole).select(["order", "reason", "bands"])
        rows = _unique_rows(rows.filter(rows["reason"].is_null()).combine_chunks())
        band_keys = rows["bands"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        is_dropped = cluster(np.arange(rows.num_rows), band_keys, job.data.near_duplicates)
        with staging_dir(place) as folder:
            dropped = pa.table({"order": rows["order"].filter(pa.array(is_dropped)).cast(DIGEST)})
            write_arrow(folder / "dropped.arrow", dropped)
            write_done_marker(folder, {"num_dropped": dropped.num_rows})
    return str(place / "dropped.arrow")


def _unique_rows(rows: pa.Table) -> pa.Table:
    """One row of each content, in the order of their places: copies are dropped as such, and are no near-duplicates."""
    rows = rows.take(pc.sort_indices(rows["order"]))
    order = rows["order"].combine_chunks()
    is_first = pa.concat_arrays(
        [pa.array([True] * min(1, len(order))), pc.not_equal(order[1:], order[:-1])]
    )
    return rows.filter(is_first)


def exclusion_runs(job: PrepareJob, others: Sequence[Path]) -> list[Path]:
    """Runs with the documents of other prepared corpora: they come first among their copies, and are left out afterwards."""
    place = Path(job.folder) / "others"
    if read_done_marker(place) is None:
        with staging_dir(place) as folder:
            writer = RunWriter(folder, job.run_bytes)
            for other in others:
                for batch in pq.ParquetFile(other / DOCUMENTS_PARQUET).iter_batches(
                    _ROWS_AT_ONCE, columns=["sha256"]
                ):
                    writer.add(_as_rows(batch, job.seed))
            writer.close()
            write_done_marker(folder, {"num_runs": writer.num_runs})
    return sorted(place.glob("*.arrow"))


def _as_rows(batch: pa.RecordBatch, seed: int) -> pa.RecordBatch:
    digests = [bytes.fromhex(digest) for digest in batch["sha256"].to_pylist()]
    known = {
        "order": pa.array([keyed_hash("order", seed, digest) for digest in digests], type=DIGEST),
        "sha256": pa.array(digests, type=DIGEST),
        "reason": pa.array([IN_OTHER_CORPUS] * len(digests), type=pa.large_string()),
        # Nothing sorts before these, so the first copy is the one to be left out.
        **{
            name: pa.array([""] * len(digests), type=pa.large_string())
            for name in ("source", "path", "language")
        },
    }
    columns = {
        field.name: known.get(field.name, pa.nulls(len(digests), type=field.type))
        for field in ROW_SCHEMA
    }
    return pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)
