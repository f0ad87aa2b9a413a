"""The tables of a prepared corpus, read in streams: what is wrong with the documents, and what became of each language.

Design decision: like `shards`, this reads the layout by itself. A table is read in batches of a fixed number of rows and
never held whole; what is kept of it are counts, and 16 bytes a row while it is looked for what occurs twice (`repeats`).
A digest that is none is counted as such, and takes no part in the search for equal contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.filters.quality import DUPLICATE
from components.validation.duplicate_keys import (
    NO_KEYS,
    Keys,
    find_duplicates,
    is_in,
    keys_of_digests,
    keys_of_names,
)
from components.validation.mergeable_stats import Rows, RuleViolations, defect, merge_defects
from components.validation.profile import OTHER
from components.validation.shard_checks import Index, Separators, unreadable

DOCUMENTS = "documents.parquet"
REJECTS = "rejects.parquet"
TRAIN = "train"

DOCUMENT_DEFECTS = {
    "null_sha256": "",
    "null_language": "",
    "null_split": "",
    "null_num_tokens": "",
    "malformed_sha256": "sha256",
    "unknown_language": "language",
    "unknown_split": "split",
    "too_few_tokens": "num_tokens",
    "repeated_sha256": "sha256",
}
"""What a kept document can have wrong with it, and what the value of an example is, if it has one."""

_COLUMNS = {
    DOCUMENTS: ("sha256", "language", "split", "source", "path", "num_tokens"),
    REJECTS: ("language", "source", "path", "reason"),
}
_ROWS_PER_BATCH = 2**16
"""Rows that are looked at together: some 10 MB."""
_DIGEST = "^[0-9a-f]{64}$"


@dataclass
class SplitDocuments:
    """The documents of one split, counted as they pass."""

    num_documents: int = 0
    num_tokens: int = 0
    defects: dict[str, RuleViolations] = field(
        default_factory=lambda: {name: RuleViolations() for name in DOCUMENT_DEFECTS}
    )

    def add(self, batch: pa.RecordBatch, faults: Mapping[str, Rows], mine: Rows) -> None:
        """Count those documents of a batch that are `mine`."""
        self.num_documents += int(mine.sum())
        self.num_tokens += pc.sum(batch["num_tokens"].filter(pa.array(mine))).as_py() or 0
        for name, rows in faults.items():
            value = DOCUMENT_DEFECTS[name]
            found = defect(
                rows & mine, batch["source"], batch["path"], batch[value] if value else None
            )
            self.defects[name] = merge_defects([self.defects[name], found])


@dataclass
class LanguageDocuments:
    """What became of the documents of one language."""

    num_kept: int = 0
    num_rejected: int = 0
    """By a filter."""
    num_duplicates: int = 0
    """Left out since they are copies."""
    repeated_names: RuleViolations = field(default_factory=RuleViolations)

    @property
    def num_raw(self) -> int:
        """All that were read."""
        return self.num_kept + self.num_rejected + self.num_duplicates


@contextmanager
def _table(folder: Path, name: str) -> Iterator[pq.ParquetFile]:
    """A table that has the columns it should have; what goes wrong while it is read is explained."""
    path, needed = folder / name, _COLUMNS[name]
    try:
        with pq.ParquetFile(path) as file:
            if missing := [column for column in needed if column not in file.schema_arrow.names]:
                raise pa.ArrowInvalid(f"it has no column {', '.join(missing)}")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise unreadable(
            path, f"cannot be read ({error})", f"a table with the columns {', '.join(needed)}"
        ) from None


def batches(folder: Path, name: str, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of a table, or some columns of them, texts as `large_string`.

    Raises:
        ValidationFailed: the table is absent, no parquet, damaged, or lacks a column.
    """
    wanted = list(columns or _COLUMNS[name])
    schema = pa.schema(
        [(column, pa.int64() if column == "num_tokens" else pa.large_string()) for column in wanted]
    )
    with _table(folder, name) as file:
        # One iterator over several row groups keeps the bytes of those it has passed (measured with Arrow 25).
        for number in range(file.num_row_groups):
            for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=[number], columns=wanted):
                yield batch.select(wanted).cast(schema)


def num_rows(folder: Path, name: str) -> int:
    """The rows of a table.

    Raises:
        ValidationFailed: it cannot be read.
    """
    with _table(folder, name) as file:
        return int(file.metadata.num_rows)


def judge_documents(
    folder: Path, index: Index, languages: Sequence[str]
) -> tuple[dict[str, SplitDocuments], dict[str, Separators]]:
    """What is wrong with the kept documents of each split, `OTHER` for any other split, and where their separators stand.

    Raises:
        ValidationFailed: the table cannot be read.
    """
    again = find_duplicates(
        lambda: (keys for _, keys in _contents(folder)), num_rows(folder, DOCUMENTS)
    )
    separators = {name: Separators(folder, index, name) for name in index.splits}
    splits = {name: SplitDocuments() for name in (*index.splits, OTHER)}
    for batch in batches(folder, DOCUMENTS):
        mine = {name: _true(pc.equal(batch["split"], name)) for name in index.splits}
        mine[OTHER] = ~np.logical_or.reduce([np.zeros(batch.num_rows, dtype=bool), *mine.values()])
        num_tokens = batch["num_tokens"].fill_null(0).to_numpy(zero_copy_only=False)
        faults = _faults(batch, mine[OTHER], languages, again)
        for name, rows in mine.items():
            if rows.any():
                splits[name].add(batch, faults, rows)
        for name, one in separators.items():
            one.meet(num_tokens[mine[name]])
    for one in separators.values():
        one.finish()
    return splits, separators


def _contents(folder: Path) -> Iterator[tuple[pa.RecordBatch, Keys]]:
    """The kept documents that have a digest, and the keys of those."""
    for batch in batches(folder, DOCUMENTS, ("sha256", "split", "source", "path")):
        with_digest = batch.filter(_has_digest(batch))
        yield with_digest, keys_of_digests(with_digest["sha256"])


def _has_digest(batch: pa.RecordBatch) -> pa.BooleanArray:
    return pc.fill_null(pc.match_substring_regex(batch["sha256"], _DIGEST), False)


def _faults(
    batch: pa.RecordBatch, other_split: Rows, languages: Sequence[str], again: Keys
) -> dict[str, Rows]:
    """Which documents of a batch have each of `DOCUMENT_DEFECTS`, [N]."""
    present = {name: _true(batch[name].is_valid()) for name in _COLUMNS[DOCUMENTS]}
    has_digest = _true(_has_digest(batch))
    is_again = np.zeros(batch.num_rows, dtype=bool)
    is_again[has_digest] = is_in(
        keys_of_digests(batch["sha256"].filter(pa.array(has_digest))), again
    )
    known = pc.is_in(batch["language"], value_set=pa.array(languages, type=pa.large_string()))
    return {
        **{
            f"null_{name}": ~present[name] for name in ("sha256", "language", "split", "num_tokens")
        },
        "malformed_sha256": present["sha256"] & ~has_digest,
        "unknown_language": present["language"] & ~_true(known),
        "unknown_split": present["split"] & other_split,
        "too_few_tokens": _true(pc.less(batch["num_tokens"], 1)),
        "repeated_sha256": is_again,
    }


def _true(column: pa.BooleanArray) -> Rows:
    """Where a column is true, and not null."""
    rows: Rows = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return rows


def languages_of_tables(folder: Path, languages: Sequence[str]) -> dict[str, LanguageDocuments]:
    """What became of the documents of each language, `OTHER` for any other.

    Raises:
        ValidationFailed: a table cannot be read.
    """
    again = find_duplicates(
        lambda: (_names(batch) for batch in _all_names(folder)),
        num_rows(folder, DOCUMENTS) + num_rows(folder, REJECTS),
    )
    found = {name: LanguageDocuments() for name in (*languages, OTHER)}
    for batch in _all_names(folder):
        is_again = np.zeros(batch.num_rows, dtype=bool)
        if len(again):
            is_again[_has_name(batch)] = is_in(_names(batch), again)
        mine = {name: _true(pc.equal(batch["language"], name)) for name in languages}
        mine[OTHER] = ~np.logical_or.reduce(list(mine.values()))
        is_kept, is_copy = (
            _true(batch["reason"].is_null()),
            _true(pc.equal(batch["reason"], DUPLICATE)),
        )
        for name, rows in mine.items():
            one = found[name]
            one.num_kept += int((rows & is_kept).sum())
            one.num_duplicates += int((rows & is_copy).sum())
            one.num_rejected += int((rows & ~is_kept & ~is_copy).sum())
            named = defect(rows & is_again, batch["source"], batch["path"])
            one.repeated_names = merge_defects([one.repeated_names, named])
    return found


def _all_names(folder: Path) -> Iterator[pa.RecordBatch]:
    """All documents, kept or not, with the columns language, source, path and reason, null for what was kept."""
    for batch in batches(folder, DOCUMENTS, ("language", "source", "path")):
        yield batch.append_column("reason", pa.nulls(batch.num_rows, pa.large_string()))
    for batch in batches(folder, REJECTS):
        # A reject without a reason is none that was kept.
        yield batch.set_column(3, "reason", batch["reason"].fill_null(""))


def _names(batch: pa.RecordBatch) -> Keys:
    """The keys of those documents of a batch that have a name."""
    named = batch.filter(pa.array(_has_name(batch)))
    return keys_of_names(named["source"].to_pylist(), named["path"].to_pylist())


def _has_name(batch: pa.RecordBatch) -> Rows:
    """Which documents state both where they come from and their path there; the Pile's, for one, have no path."""
    source, path = (_true(pc.not_equal(batch[name], "")) for name in ("source", "path"))
    return source & path


def find_train_leakage(folders: Mapping[str, Path]) -> dict[str, tuple[int, RuleViolations]]:
    """Of each corpus the number of held-out documents, and those of them that a corpus trains on; the value names which.

    Raises:
        ValidationFailed: a table cannot be read.
    """
    held_out = {
        corpus: [keys for _, keys in _part(folder, train=False)]
        for corpus, folder in folders.items()
    }
    every = np.unique(
        np.concatenate([NO_KEYS, *(keys for parts in held_out.values() for keys in parts)])
    )
    where: dict[bytes, set[str]] = {}
    for corpus, folder in folders.items():
        for _, keys in _part(folder, train=True):
            for key in keys[is_in(keys, every)].tolist():
                where.setdefault(key, set()).add(corpus)
    return {
        corpus: (
            sum(map(len, held_out[corpus])),
            merge_defects(_hits(folder, where)) if where else RuleViolations(),
        )
        for corpus, folder in folders.items()
    }


def _part(folder: Path, *, train: bool) -> Iterator[tuple[pa.RecordBatch, Keys]]:
    """The documents of a corpus that are in the training split, or all that are not."""
    for batch, keys in _contents(folder):
        rows = _true(pc.equal(batch["split"], TRAIN)) == train
        yield batch.filter(pa.array(rows)), keys[rows]


def _hits(folder: Path, where: Mapping[bytes, set[str]]) -> Iterator[RuleViolations]:
    for batch, keys in _part(folder, train=False):
        corpora = [", ".join(sorted(where.get(key, ()))) for key in keys.tolist()]
        yield defect(
            np.array([bool(one) for one in corpora]),
            batch["source"],
            batch["path"],
            pa.array(corpora, pa.large_string()),
        )
