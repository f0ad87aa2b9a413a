"""Second round of a preparation: one range of the training order, out of all runs, without duplicates.

What is left of a range is a stream of tokens for every split, and its part of the tables. All copies of a content have one
place in the order, so they meet in one range, whichever partitions they came from. Tokens are nine tenths of a range: they
stay where they lie, in the mapped runs, until the order is known, and are copied once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.core.files import read_json
from components.data.config import LANGUAGES
from components.data.filters.documents import sort_and_mark_duplicates
from components.data.filters.quality import IN_OTHER_CORPUS, NEAR_DUPLICATE
from components.dataset.manifests import language_statistics, rows_of_kept, rows_of_rejects
from components.dataset.shards import HELD_OUT, TOKEN_DTYPE, TRAIN, held_out
from components.preparation.job import PrepareJob, read_done_marker, staging_dir, write_done_marker
from components.preparation.sorted_runs import ranges, read_range, write_arrow, write_tokens

DOCUMENTS, REJECTS = "documents.arrow", "rejects.arrow"
_WRITTEN_BYTES = 1 << 20
"""Handed to the system at a time."""


def stream_name(split: str) -> str:
    """The file of a split's tokens in the folder of a range."""
    return f"{split.replace('/', '-')}.bin"


def splits_of(corpus: Any) -> list[str]:
    """The training split, and a held-out one for each language of the corpus."""
    return [TRAIN, *(held_out(language) for language in LANGUAGES[corpus])]


def merge_range(work: Any) -> JsonValue:
    """Gather the range `work["number"]` of `work["num_ranges"]` of the job `work["job"]` from the runs that a file names.

    Returns:
        `number`, `tokens` by split, and `languages`, the counts of each language.
    """
    job = PrepareJob.read(work["job"])
    place = job.gathered(work["number"], work["num_ranges"])
    if (result := read_done_marker(place)) is None:
        with staging_dir(place) as folder:
            part = ranges(work["num_ranges"])[work["number"]]
            rows = read_range([Path(path) for path in read_json(Path(work["runs"]))], part)
            tokens = rows["tokens"]
            rows = rows.set_column(
                rows.schema.get_field_index("tokens"), "num_tokens", _lengths(tokens)
            )
            rows = rows.append_column("row", pa.array(np.arange(len(tokens))))
            result = {
                "number": work["number"],
                **_gather(job, apply_global_rejects(rows, work["dropped"]), tokens, folder),
            }
            write_done_marker(folder, result)
    return result


def apply_global_rejects(rows: pa.Table, dropped: str | None) -> pa.Table:
    """The rows in training order, with the last reasons: duplicates of this and of other corpora, near-duplicates."""
    rows = sort_and_mark_duplicates(rows)
    rows = rows.filter(pc.fill_null(pc.not_equal(rows["reason"], IN_OTHER_CORPUS), True))
    if dropped:
        is_near = pc.is_in(
            rows["order"], value_set=pa.ipc.open_file(dropped).read_all()["order"].combine_chunks()
        )
        reason = pa.scalar(NEAR_DUPLICATE, type=pa.large_string())
        reasons = pc.if_else(pc.and_(is_near, pc.is_null(rows["reason"])), reason, rows["reason"])
        rows = rows.set_column(
            rows.schema.get_field_index("reason"), rows.schema.field("reason"), reasons
        )
    return rows


def _splits(kept: pa.Table) -> pa.ChunkedArray:
    """The split of each document."""
    text = pa.large_string()
    own = pc.binary_join_element_wise(
        pa.scalar(HELD_OUT, type=text), kept["language"], pa.scalar("", type=text)
    )
    return pc.if_else(kept["held_out"], own, pa.scalar(TRAIN, type=text))


def _lengths(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.divide(pc.binary_length(tokens), TOKEN_DTYPE.itemsize)


def _gather(
    job: PrepareJob, rows: pa.Table, tokens: pa.ChunkedArray, folder: Path
) -> dict[str, JsonValue]:
    """Write what is left. `rows` are judged; `tokens` are of all rows of the range, by their column `row`."""
    is_kept = pc.is_null(rows["reason"])
    kept, rejected = rows.filter(is_kept), rows.filter(pc.invert(is_kept))
    splits = _splits(kept)
    num_tokens: dict[str, JsonValue] = {}
    for split in splits_of(job.corpus):
        of_split = kept["row"].filter(pc.equal(splits, split)).to_numpy()
        with (folder / stream_name(split)).open("wb", buffering=_WRITTEN_BYTES) as file:
            num_tokens[split] = write_tokens(tokens, of_split, file)
    documents, rejects = rows_of_kept(kept, splits), rows_of_rejects(rejected)
    write_arrow(folder / DOCUMENTS, documents)
    write_arrow(folder / REJECTS, rejects)
    return {
        "tokens": num_tokens,
        "languages": language_statistics(LANGUAGES[job.corpus], documents, rejects),
    }
