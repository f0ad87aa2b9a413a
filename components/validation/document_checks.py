"""Read the document tables of a prepared corpus as streams and count what rules check.

Like `shard_checks`, this module reads the layout independently of the package that writes it. Only
counts are in memory, and 16 bytes per row while duplicates are searched (`duplicate_keys`).
Malformed digests are excluded from this search.

Functions that read tables raise ValidationFailedError if a table cannot be read.
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
from components.validation.dropped_text import EXAMPLE_COLUMNS, LanguageText
from components.validation.duplicate_keys import (
    NO_KEYS,
    Keys,
    find_duplicates,
    is_in,
    keys_of_digests,
    keys_of_paths,
)
from components.validation.mergeable_stats import (
    RowMask,
    RuleViolations,
    find_violations,
    merge_violations,
)
from components.validation.profile import OTHER
from components.validation.shard_checks import SeparatorCheck, ShardIndex, unreadable_file

DOCUMENTS = "documents.parquet"
REJECTS = "rejects.parquet"
TRAIN = "train"

PREPARED_DEFECTS = {
    "null_sha256": "",
    "null_language": "",
    "null_split": "",
    "null_num_tokens": "",
    "malformed_sha256": "sha256",
    "unknown_language": "language",
    "unknown_split": "split",
    "too_few_tokens": "num_tokens",
    "duplicate_sha256": "sha256",
}
"""Defects of a kept document, each with the name of the value that examples show, or ""."""

_COLUMNS = {
    DOCUMENTS: (
        "sha256", "language", "split", "source", "path", "num_bytes", "num_tokens", "occurrence"
    ),
    REJECTS: ("language", "source", "path", "num_bytes", "reason", *EXAMPLE_COLUMNS),
}  # fmt: skip
_ROWS_PER_BATCH = 2**16
"""Some 10 MB."""
_DIGEST = "^[0-9a-f]{64}$"


@dataclass
class SplitDocuments:
    """Counts of the documents of a split."""

    num_documents: int = 0
    num_tokens: int = 0
    defects: dict[str, RuleViolations] = field(
        default_factory=lambda: {name: RuleViolations() for name in PREPARED_DEFECTS}
    )

    def add(self, batch: pa.RecordBatch, defects: Mapping[str, RowMask], selected: RowMask) -> None:
        """Count the selected documents of a batch."""
        self.num_documents += int(selected.sum())
        self.num_tokens += pc.sum(batch["num_tokens"].filter(pa.array(selected))).as_py() or 0
        for name, rows in defects.items():
            value = PREPARED_DEFECTS[name]
            values = batch[value] if value else None
            violations = find_violations(rows & selected, batch["source"], batch["path"], values)
            self.defects[name] = merge_violations([self.defects[name], violations])


@dataclass
class LanguageDocuments:
    """Counts of the documents of a language."""

    num_kept: int = 0
    num_rejected: int = 0
    """By a filter."""
    num_duplicates: int = 0
    duplicate_paths: RuleViolations = field(default_factory=RuleViolations)
    text: LanguageText = field(default_factory=LanguageText)

    @property
    def num_raw(self) -> int:
        """All documents that preparation read."""
        return self.num_kept + self.num_rejected + self.num_duplicates


@contextmanager
def _open_table(folder: Path, name: str) -> Iterator[pq.ParquetFile]:
    """Open a table with the required columns; wraps errors that occur until it is closed.

    Raises:
        ValidationFailedError: the table cannot be read, or lacks a column.
    """
    path = folder / name
    required = _COLUMNS[name]
    try:
        with pq.ParquetFile(path) as file:
            if missing := [column for column in required if column not in file.schema_arrow.names]:
                raise pa.ArrowInvalid(f"it has no column {', '.join(missing)}")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise unreadable_file(
            path, f"cannot be read ({error})", f"a table with the columns {', '.join(required)}"
        ) from None


def read_batches(folder: Path, name: str, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table, all required columns or some, texts as `large_string`."""
    names = list(columns or _COLUMNS[name])
    types = dict.fromkeys(("num_bytes", "num_tokens", "occurrence"), pa.int64())
    schema = pa.schema([(column, types.get(column, pa.large_string())) for column in names])
    with _open_table(folder, name) as file:
        # An iterator over several row groups keeps the bytes of all previous groups (measured with
        # Arrow 25).
        for row_group in range(file.num_row_groups):
            batches = file.iter_batches(_ROWS_PER_BATCH, row_groups=[row_group], columns=names)
            for batch in batches:
                yield batch.select(names).cast(schema)


def num_rows(folder: Path, name: str) -> int:
    """Return the number of rows of a table."""
    with _open_table(folder, name) as file:
        return int(file.metadata.num_rows)


def check_documents(
    folder: Path, index: ShardIndex, languages: Sequence[str], *, exact_dedup: bool
) -> tuple[dict[str, SplitDocuments], dict[str, SeparatorCheck]]:
    """Count the defects of kept documents, and compare them with the separators in the shards.

    Equal documents are a defect if the corpus was deduplicated (`exact_dedup`).

    Returns:
        By split, with `OTHER` for other splits, the documents; and by split, the separators.
    """
    duplicates = NO_KEYS
    if exact_dedup:
        duplicates = find_duplicates(
            lambda: (keys[rows] for rows, keys in _read_first_digests(folder)),
            num_rows(folder, DOCUMENTS),
        )
    separators = {name: SeparatorCheck(folder, index, name) for name in index.splits}
    documents = {name: SplitDocuments() for name in (*index.splits, OTHER)}
    for batch in read_batches(folder, DOCUMENTS):
        groups = _group_rows(batch, "split", list(index.splits))
        defects = _find_defects(batch, groups[OTHER], languages, duplicates)
        num_tokens = batch["num_tokens"].fill_null(0).to_numpy(zero_copy_only=False)
        for name, rows in groups.items():
            if rows.any():
                documents[name].add(batch, defects, rows)
        for name, check in separators.items():
            check.add_documents(num_tokens[groups[name]])
    for check in separators.values():
        check.finish()
    return documents, separators


def _group_rows(batch: pa.RecordBatch, column: str, values: Sequence[str]) -> dict[str, RowMask]:
    """Return the rows of each value of a column, and of any other value as `OTHER`."""
    groups = {value: _is_true(pc.equal(batch[column], value)) for value in values}
    is_other = np.ones(batch.num_rows, dtype=bool)
    for rows in groups.values():
        is_other &= ~rows
    return {**groups, OTHER: is_other}


def _read_digests(folder: Path) -> Iterator[tuple[pa.RecordBatch, Keys]]:
    """Yield the kept documents that have a digest, and the keys of their digests."""
    columns = ("sha256", "split", "source", "path", "occurrence")
    for batch in read_batches(folder, DOCUMENTS, columns):
        with_digest = batch.filter(_has_digest(batch))
        yield with_digest, keys_of_digests(with_digest["sha256"])


def _read_first_digests(folder: Path) -> Iterator[tuple[RowMask, Keys]]:
    """Yield which of the kept documents are first occurrences, and the keys of all."""
    for batch, keys in _read_digests(folder):
        yield _is_first(batch), keys


def _is_first(batch: pa.RecordBatch) -> RowMask:
    """Return which rows are not further occurrences of a document (sources with epochs)."""
    return ~_is_true(pc.greater(batch["occurrence"], 0))


def _has_digest(batch: pa.RecordBatch) -> pa.BooleanArray:
    return pc.fill_null(pc.match_substring_regex(batch["sha256"], _DIGEST), False)


def _find_defects(
    batch: pa.RecordBatch, is_other_split: RowMask, languages: Sequence[str], duplicates: Keys
) -> dict[str, RowMask]:
    """Return for each of `PREPARED_DEFECTS` the documents that have it, [N]."""
    is_valid = {name: _is_true(batch[name].is_valid()) for name in _COLUMNS[DOCUMENTS]}
    has_digest = _is_true(_has_digest(batch))
    keys = keys_of_digests(batch["sha256"].filter(pa.array(has_digest)))
    is_duplicate = np.zeros(batch.num_rows, dtype=bool)
    is_duplicate[has_digest] = is_in(keys, duplicates)
    is_duplicate &= _is_first(batch)
    language_values = pa.array(languages, type=pa.large_string())
    has_language = _is_true(pc.is_in(batch["language"], value_set=language_values))
    return {
        "null_sha256": ~is_valid["sha256"],
        "null_language": ~is_valid["language"],
        "null_split": ~is_valid["split"],
        "null_num_tokens": ~is_valid["num_tokens"],
        "malformed_sha256": is_valid["sha256"] & ~has_digest,
        "unknown_language": is_valid["language"] & ~has_language,
        "unknown_split": is_valid["split"] & is_other_split,
        "too_few_tokens": _is_true(pc.less(batch["num_tokens"], 1)),
        "duplicate_sha256": is_duplicate,
    }


def _is_true(column: pa.BooleanArray) -> RowMask:
    """Return which values are true and not null."""
    rows: RowMask = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return rows


def count_languages(folder: Path, languages: Sequence[str]) -> dict[str, LanguageDocuments]:
    """Count kept, rejected and duplicate documents of each language, `OTHER` for any other."""
    duplicates = find_duplicates(
        lambda: (_path_keys(batch) for batch in _read_all_documents(folder)),
        num_rows(folder, DOCUMENTS) + num_rows(folder, REJECTS),
    )
    counts = {name: LanguageDocuments() for name in (*languages, OTHER)}
    for batch in _read_all_documents(folder, EXAMPLE_COLUMNS):
        has_duplicate_path = np.zeros(batch.num_rows, dtype=bool)
        if len(duplicates):
            has_duplicate_path[_has_path(batch)] = is_in(_path_keys(batch), duplicates)
        is_kept = _is_true(batch["reason"].is_null())
        is_duplicate = _is_true(pc.equal(batch["reason"], DUPLICATE))
        for name, rows in _group_rows(batch, "language", languages).items():
            language = counts[name]
            language.num_kept += int((rows & is_kept).sum())
            language.num_duplicates += int((rows & is_duplicate).sum())
            language.num_rejected += int((rows & ~is_kept & ~is_duplicate).sum())
            language.text.add_kept(batch, rows & is_kept)
            language.text.add_rejected(batch, rows & ~is_kept)
            violations = find_violations(rows & has_duplicate_path, batch["source"], batch["path"])
            language.duplicate_paths = merge_violations([language.duplicate_paths, violations])
    return counts


def _read_all_documents(
    folder: Path, reject_columns: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Yield kept and rejected documents: language, source, path, reason (null for kept), and
    `num_bytes`.

    Batches of rejected documents also have the `reject_columns`.
    """
    columns = ("language", "source", "path", "num_bytes")
    for batch in read_batches(folder, DOCUMENTS, (*columns, "occurrence")):
        first = batch.filter(pa.array(_is_first(batch))).select(columns)
        yield first.append_column("reason", pa.nulls(first.num_rows, pa.large_string()))
    for batch in read_batches(folder, REJECTS, (*columns, *reject_columns, "reason")):
        # A rejected document without a reason is not a kept document.
        index = batch.schema.get_field_index("reason")
        yield batch.set_column(index, "reason", batch["reason"].fill_null(""))


def _path_keys(batch: pa.RecordBatch) -> Keys:
    """Return the keys of the documents that have source and path."""
    with_path = batch.filter(pa.array(_has_path(batch)))
    return keys_of_paths(with_path["source"].to_pylist(), with_path["path"].to_pylist())


def _has_path(batch: pa.RecordBatch) -> RowMask:
    """Return which documents have both source and path; documents of the Pile have no path."""
    return _is_true(pc.not_equal(batch["source"], "")) & _is_true(pc.not_equal(batch["path"], ""))


def find_train_leakage(folders: Mapping[str, Path]) -> dict[str, tuple[int, RuleViolations]]:
    """Find held-out documents in the training splits of all corpora.

    Returns:
        By corpus, the number of held-out documents and those in a training split; the value of an
        example names the corpora of these splits.
    """
    held_out = {
        corpus: [keys for _, keys in _read_split(folder, train=False)]
        for corpus, folder in folders.items()
    }
    chunks = [keys for corpus_keys in held_out.values() for keys in corpus_keys]
    all_held_out = np.unique(np.concatenate([NO_KEYS, *chunks]))
    train_corpora: dict[bytes, set[str]] = {}
    """By key, the corpora that train on a held-out document."""
    for corpus, folder in folders.items():
        for _, keys in _read_split(folder, train=True):
            for key in keys[is_in(keys, all_held_out)].tolist():
                train_corpora.setdefault(key, set()).add(corpus)
    leakage = {}
    for corpus, folder in folders.items():
        num_held_out = sum(map(len, held_out[corpus]))
        violations = RuleViolations()
        if train_corpora:
            violations = merge_violations(_find_leaked(folder, train_corpora))
        leakage[corpus] = (num_held_out, violations)
    return leakage


def _read_split(folder: Path, *, train: bool) -> Iterator[tuple[pa.RecordBatch, Keys]]:
    """Yield the documents in the training split, or all other documents."""
    for batch, keys in _read_digests(folder):
        rows = _is_true(pc.equal(batch["split"], TRAIN)) == train
        yield batch.filter(pa.array(rows)), keys[rows]


def _find_leaked(folder: Path, train_corpora: Mapping[bytes, set[str]]) -> Iterator[RuleViolations]:
    for batch, keys in _read_split(folder, train=False):
        corpora = [", ".join(sorted(train_corpora.get(key, ()))) for key in keys.tolist()]
        yield find_violations(
            np.array([bool(names) for names in corpora]),
            batch["source"],
            batch["path"],
            pa.array(corpora, pa.large_string()),
        )
