"""Records into Arrow batches of a bounded size, and beside them what was bad and what was left out.

Design decision: a batch carries its own bad records, so that whoever reads a partition sees them in the order of the file
and no list grows with the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from components.data.sources.corpus_files import SCHEMA
from components.data.sources.records import RecordMaker, Reject

BATCH_BYTES = 8 << 20
"""Text in a batch, about (assumption: large enough that the cost of a batch vanishes, small beside any memory)."""
_MAX_BAD = 1000
"""Bad records in a batch, so that a file of nothing else does not fill the memory (assumption)."""
_EXCERPT_CHARACTERS = 200


class QuarantinedRecord(NamedTuple):
    """A record in quarantine."""

    file: str
    """As the recipe writes it; a member of an archive stands behind a `!`, a file of a folder behind the folder."""
    offset: int
    """Where it begins. JSON Lines: bytes, after decompression. Tables: the number of the row. Files and members: 0."""
    reason: str
    """One of `BAD_REASONS`, with details behind a colon."""
    excerpt: str
    """Its beginning, printable, at most 200 characters."""

    @property
    def kind(self) -> str:
        """The reason without its details: what can be counted."""
        return self.reason.partition(":")[0]


class Batch(NamedTuple):
    """What a stretch of a partition gave."""

    records: pa.RecordBatch
    """Of `components.data.sources.corpus_files.SCHEMA`; about 8 MB of text, or a single longer record. May have no rows."""
    bad: list[QuarantinedRecord]
    num_skipped: dict[str, int]
    """How much was left out, by a reason of `SKIP_REASONS`."""
    stored_bytes: int
    """How far into the partition it reaches; exactly the partition's size for the last one of a whole partition."""


class RawRecord(NamedTuple):
    """What a format hands over for each record, file or member."""

    file: str
    offset: int
    size_bytes: int
    """As stored in its file, uncompressed."""
    stored_bytes: int
    """Stored bytes of the partition from its beginning to the end of this, as near as the format can tell."""
    value: Mapping[str, Any] | Reject
    head_bytes: bytes = b""
    """At least the first bytes as stored, where a format has them at hand."""


class BatchBuilder:
    """Fills batches from items."""

    def __init__(self, maker: RecordMaker) -> None:
        self._maker = maker
        self._clear()

    def _clear(self) -> None:
        self._columns: tuple[list[str], ...] = tuple([] for _ in SCHEMA.names)
        self._bad: list[QuarantinedRecord] = []
        self._num_skipped: Counter[str] = Counter()
        self._num_bytes = self._stored_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to `take`."""
        return self._num_bytes >= BATCH_BYTES or len(self._bad) >= _MAX_BAD

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to `take`."""
        return not (self._columns[0] or self._bad or self._num_skipped)

    def add(self, item: RawRecord) -> None:
        """Take up one item, whatever it is."""
        self._stored_bytes = item.stored_bytes
        made = item.value if isinstance(item.value, Reject) else self._maker.make(item.value)
        if not isinstance(made, Reject):
            for column, value in zip(self._columns, made, strict=True):
                column.append(value)
            self._num_bytes += item.size_bytes
        elif made.is_bad:
            self._bad.append(
                QuarantinedRecord(
                    item.file,
                    item.offset,
                    made.reason,
                    _excerpt(item.head_bytes or _begins(item.value)),
                )
            )
        else:
            self._num_skipped[made.reason] += 1

    def flush(self) -> Batch:
        """The batch so far; the next one begins."""
        arrays = [pa.array(column, type=pa.large_string()) for column in self._columns]
        records = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
        batch = Batch(records, self._bad, dict(self._num_skipped), self._stored_bytes)
        self._clear()
        return batch


def _begins(value: Mapping[str, Any] | Reject) -> bytes:
    """The beginning of a row, without a copy of its longest field."""
    if isinstance(value, Reject):
        return b""
    return ", ".join(f"{name}={_short(one)}" for name, one in value.items()).encode(
        "utf-8", "backslashreplace"
    )


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:_EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return value[:_EXCERPT_CHARACTERS] if isinstance(value, str) else repr(value)


def _excerpt(begins: bytes) -> str:
    text = begins[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    printable = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text[:_EXCERPT_CHARACTERS]
    )
    return printable[:_EXCERPT_CHARACTERS]
