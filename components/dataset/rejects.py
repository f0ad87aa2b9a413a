"""A few of what a prepared corpus leaves out, of every reason and language, for a person to look at.

Design decision: rejected documents lie in training order, which is a keyed hash of their contents
(`components.data.filters.documents`), so the first of a reason and language are a sample that hangs on contents and seed alone,
never on files, partitions or workers; of equal contents the first copy stands for all. Records that could not be read have
no content, so the hash is of the line that describes them. Both are streamed, and no text but excerpts is ever read. What
is not covered: how many there are, which the statistics of the corpus state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = ("reason", "language", "source", "path", "num_bytes", "sha256", "excerpt")
"""Of a sample. The excerpt of a copy is null: its text is that of a document that was kept."""
NUM_EACH = 3
"""Documents of a reason and language (assumption: enough to see what a reason means)."""
_ROWS_AT_ONCE = 8192
"""Rows held at a time (assumption: some MB, as an excerpt has 200 characters)."""

Row = dict[str, Any]


def sample_of_rejects(table: Path | IO[bytes], num_each: int = NUM_EACH) -> list[Row]:
    """Rejected documents: of each reason and language the first `num_each` different contents, in training order.

    Args:
        table: `rejects.parquet` of a prepared corpus.
        num_each: how many.

    Returns:
        Rows of `COLUMNS`.
    """
    chosen: list[Row] = []
    contents: dict[str, list[str]] = {}
    for batch in pq.ParquetFile(table).iter_batches(_ROWS_AT_ONCE, columns=list(COLUMNS)):
        group = pc.binary_join_element_wise(batch["reason"], batch["language"], "\0")
        content = pc.binary_join_element_wise(group, batch["sha256"], "\0")
        full = [name for name, known in contents.items() if len(known) == num_each]
        passed = pc.or_(
            _is_in(group, full),
            _is_in(content, [one for known in contents.values() for one in known]),
        )
        rows = (
            pa.Table.from_batches([batch])
            .append_column("group", group)
            .append_column("content", content)
        )
        for row in rows.filter(pc.invert(passed)).to_pylist():
            known = contents.setdefault(row["group"], [])
            if len(known) < num_each and row["content"] not in known:
                known.append(row["content"])
                chosen.append({name: row[name] for name in COLUMNS})
    return chosen


def _is_in(values: pa.Array, known: list[str]) -> pa.Array:
    return pc.is_in(values, value_set=pa.array(known, type=values.type))


def sample_of_quarantine(lines: Iterable[bytes | str], num_each: int = NUM_EACH) -> list[Row]:
    """Records that could not be read, at most `num_each` of a kind of reason.

    Args:
        lines: of `quarantine.jsonl` of a prepared corpus.
        num_each: how many.

    Returns:
        Rows of `COLUMNS`: the source is the file, the path the offset in it. What only documents have is null.
    """
    kept: dict[str, list[tuple[bytes, Row]]] = {}
    for line in lines:
        bad: Mapping[str, Any] = orjson.loads(line)
        mark = hashlib.sha256(orjson.dumps(bad, option=orjson.OPT_SORT_KEYS)).digest()
        found = {
            "reason": bad["reason"],
            "source": bad["file"],
            "path": f"offset {bad['offset']}",
            "excerpt": bad["excerpt"],
        }
        kind = bad["reason"].partition(":")[0]
        some = [*kept.get(kind, []), (mark, {**dict.fromkeys(COLUMNS), **found})]
        kept[kind] = sorted(some, key=lambda one: one[0])[:num_each]
    return [row for _, some in sorted(kept.items()) for _, row in some]
