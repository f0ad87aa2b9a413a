"""Merge stage: a range of the training order from all runs, without duplicates.

The output of a range is a token stream per split and its rows of the document tables. All copies of
a content have the same `order`, so they meet in the same range. Tokens are nine tenths of a range:
they stay in the mapped runs until the order is known and are copied once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.core.files import read_json, write_json
from components.core.progress import track
from components.data.config import DataExecution
from components.data.engine import WorkUnit, run_tasks
from components.data.filters.documents import FIRST_OCCURRENCES
from components.data.filters.quality import DUPLICATE
from components.dataset.manifests import DOCUMENTS_SCHEMA, REJECTS_SCHEMA
from components.dataset.shards import HELD_OUT_PREFIX, TOKEN_DTYPE, TRAIN, held_out_split
from components.preparation.dedup import apply_global_rejects
from components.preparation.prepare_job import PrepareJob, run_once
from components.preparation.sorted_runs import order_ranges, read_range, write_arrow, write_tokens

DOCUMENTS_ARROW = "documents.arrow"
REJECTS_ARROW = "rejects.arrow"
_WRITE_BUFFER_BYTES = 1 << 20


def run_merge_stage(
    job: PrepareJob, runs: Sequence[Path], near_duplicates: str | None, execution: DataExecution
) -> list[dict[str, Any]]:
    """Merge all ranges; returns the results of `merge_range` in training order."""
    num_ranges = job.num_ranges(sum(run.stat().st_size for run in runs))
    run_list = Path(job.folder) / "runs.json"
    write_json(run_list, [str(run) for run in runs])
    tasks: list[WorkUnit] = [
        (
            f"range {number} of {num_ranges}",
            {
                "job": job.path,
                "runs": str(run_list),
                "near_duplicates": near_duplicates,
                "num_ranges": num_ranges,
                "number": number,
            },
        )
        for number in range(num_ranges)
    ]
    results: list[dict[str, Any]] = []
    with track(f"merge {job.corpus}", num_ranges, "ranges") as advance:
        for result in run_tasks(merge_range, tasks, execution, in_threads=True):
            results.append(result)
            advance(1)
    return sorted(results, key=lambda result: int(result["number"]))


def merge_range(task: Any) -> JsonValue:
    """Merge the range `number` of `num_ranges` of a `job` from the runs that the file `runs` lists.

    Returns:
        `number`, `tokens` by split, the counts of each source and language, `sources`, and
        documents and tokens by license, `licenses`.
    """
    job = PrepareJob.read(task["job"])

    def merge(folder: Path) -> dict[str, Any]:
        runs = [Path(path) for path in read_json(Path(task["runs"]))]
        rows = read_range(runs, order_ranges(task["num_ranges"])[task["number"]])
        tokens = rows["tokens"]
        index = rows.schema.get_field_index("tokens")
        rows = rows.set_column(index, "num_tokens", count_tokens(tokens))
        rows = rows.append_column("row", pa.array(np.arange(len(tokens))))
        rows = apply_global_rejects(job, rows, task["near_duplicates"])
        return {"number": task["number"], **_write_range(job, rows, tokens, folder)}

    return run_once(job.merged_dir(task["number"], task["num_ranges"]), merge)


def stream_file(split: str) -> str:
    """The file of a split's tokens in the folder of a range."""
    return f"{split.replace('/', '-')}.bin"


def split_names(languages: Sequence[str]) -> list[str]:
    """The train split and the held-out split of each language."""
    return [TRAIN, *(held_out_split(language) for language in languages)]


def count_tokens(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    """The number of tokens of each row."""
    return pc.divide(pc.binary_length(tokens), TOKEN_DTYPE.itemsize)


def _write_range(
    job: PrepareJob, rows: pa.Table, tokens: pa.ChunkedArray, folder: Path
) -> dict[str, Any]:
    """Write streams and table rows.

    `tokens` are of all rows of the range, indexed by the column `row`.
    """
    is_accepted = pc.is_null(rows["reason"])
    accepted = rows.filter(is_accepted)
    splits = _splits_of(accepted)
    num_tokens: dict[str, int] = {}
    for split in split_names(job.rules.languages):
        split_rows = accepted["row"].filter(pc.equal(splits, split)).to_numpy()
        with (folder / stream_file(split)).open("wb", buffering=_WRITE_BUFFER_BYTES) as file:
            num_tokens[split] = write_tokens(tokens, split_rows, file)
    accepted = accepted.append_column("split", splits)
    # A duplicate of a further occurrence was rejected with the first.
    is_first = pc.is_in(rows["occurrence"], value_set=pa.array(FIRST_OCCURRENCES, pa.int16()))
    rejected = rows.filter(pc.and_(pc.invert(is_accepted), is_first))
    write_arrow(folder / DOCUMENTS_ARROW, _table_rows(accepted, DOCUMENTS_SCHEMA))
    write_arrow(folder / REJECTS_ARROW, _table_rows(rejected, REJECTS_SCHEMA))
    return {
        "tokens": num_tokens,
        "sources": {
            title: _counts_by_language(
                accepted.filter(pc.equal(accepted["origin"], title)),
                rejected.filter(pc.equal(rejected["origin"], title)),
                job.rules.languages,
            )
            for title in ordered_origins(job, rows["origin"].unique().to_pylist())
        },
        "licenses": _license_counts(accepted),
    }


def ordered_origins(job: PrepareJob, origins: Iterable[str | None]) -> list[str]:
    """The names of all sources in statistics: in the order of the recipe, then groups by name.

    Documents of another corpus, which are only compared, have no origin.
    """
    groups = sorted({origin for origin in origins if origin is not None})
    return list(dict.fromkeys([*job.origins, *groups]))


def _counts_by_language(
    accepted: pa.Table, rejected: pa.Table, languages: Sequence[str]
) -> dict[str, dict[str, Any]]:
    return {
        language: _language_counts(
            accepted.filter(pc.equal(accepted["language"], language)),
            rejected.filter(pc.equal(rejected["language"], language)),
        )
        for language in languages
    }


def _license_counts(accepted: pa.Table) -> dict[str, dict[str, int]]:
    """Documents, and tokens of all their occurrences, by license as the records state it."""
    table = accepted.select(["license", "num_tokens"]).append_column(
        "is_first", pc.equal(accepted["occurrence"], 0).cast(pa.int64())
    )
    groups = table.group_by("license").aggregate([("is_first", "sum"), ("num_tokens", "sum")])
    return {
        row["license"]: {"documents": row["is_first_sum"], "tokens": row["num_tokens_sum"]}
        for row in groups.to_pylist()
    }


def _splits_of(documents: pa.Table) -> pa.ChunkedArray:
    """The split of each document."""
    text = pa.large_string()
    prefix, separator = pa.scalar(HELD_OUT_PREFIX, type=text), pa.scalar("", type=text)
    held_out = pc.binary_join_element_wise(prefix, documents["language"], separator)
    return pc.if_else(documents["held_out"], held_out, pa.scalar(TRAIN, type=text))


def _table_rows(documents: pa.Table, schema: pa.Schema) -> pa.Table:
    """Convert rows of runs to rows of a document table: digests in hex, columns of the schema."""
    hex_digests = [digest.hex() for digest in documents["sha256"].to_pylist()]
    sha256 = pa.chunked_array([hex_digests], type=pa.string())
    columns = [
        (sha256 if field.name == "sha256" else documents[field.name]).cast(field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _language_counts(accepted: pa.Table, rejected: pa.Table) -> dict[str, Any]:
    """Documents, bytes and tokens of a language: raw, rejected by reason, accepted by use.

    Counts of the training split contain the further occurrences of documents.
    """
    columns = [("num_bytes", "count"), ("num_bytes", "sum"), ("num_tokens", "sum")]
    reasons = rejected.group_by("reason").aggregate(columns).to_pylist()
    counts = {row["reason"]: row["num_bytes_count"] for row in reasons}
    num_bytes = {row["reason"]: row["num_bytes_sum"] for row in reasons}
    # The tokens of documents that were rejected before they were tokenized are null.
    num_tokens = {row["reason"]: row["num_tokens_sum"] for row in reasons if row["num_tokens_sum"]}
    num_duplicates, duplicate_bytes = counts.pop(DUPLICATE, 0), num_bytes.pop(DUPLICATE, 0)
    duplicate_tokens = num_tokens.pop(DUPLICATE, 0)
    documents = accepted.filter(pc.equal(accepted["occurrence"], 0))
    is_train = pc.equal(accepted["split"], TRAIN)
    train = accepted.filter(is_train)
    held_out = accepted.filter(pc.invert(is_train))
    return {
        "raw_documents": documents.num_rows + rejected.num_rows,
        "raw_bytes": _sum(documents["num_bytes"]) + _sum(rejected["num_bytes"]),
        "rejected": dict(sorted(counts.items())),
        "rejected_bytes": dict(sorted(num_bytes.items())),
        "rejected_tokens": dict(sorted(num_tokens.items())),
        "duplicates": num_duplicates,
        "duplicate_bytes": duplicate_bytes,
        "duplicate_tokens": duplicate_tokens,
        "documents": documents.num_rows,
        "bytes": _sum(documents["num_bytes"]),
        "tokens": _sum(documents["num_tokens"]),
        "train_documents": train.num_rows,
        "train_bytes": _sum(train["num_bytes"]),
        "train_tokens": _sum(train["num_tokens"]),
        "held_out_documents": held_out.num_rows,
        "held_out_tokens": _sum(held_out["num_tokens"]),
    }


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
