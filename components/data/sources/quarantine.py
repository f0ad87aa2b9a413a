"""Quarantined records, and the checks of their number.

A record that cannot be read does not stop a run: it is quarantined, that is stored apart with its
position and reason. There may be only a small share of such records, and some record of a corpus
must be readable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components.core.errors import RecordError
from components.data.sources.config import QuarantineConfig
from components.data.sources.records import (
    LFS_POINTER,
    NO_LANGUAGE,
    NO_TEXT,
    NOT_JSON,
    NOT_OBJECT,
    TOO_LONG,
)

_MAX_QUOTED = 5
"""Quarantined records quoted in an error."""
_JSON_FIX = (
    "correct those files: one JSON object per line (JSON Lines); for a single JSON array: "
    "`jq -c '.[]' FILE.json > FILE.jsonl`"
)
_FIXES = {
    TOO_LONG: "raise data.quarantine.max_record_bytes, or exclude those files",
    LFS_POINTER: "run `git lfs pull` in the checkout, which replaces the pointers by the files",
    NOT_JSON: _JSON_FIX,
    NOT_OBJECT: _JSON_FIX,
    NO_TEXT: "set `text` of that source to the name of the field with the documents",
    NO_LANGUAGE: "set `language` or `path` of that source to a field, or set fixed_language",
}
"""What to do about a reason; other reasons have the default fix."""
_DEFAULT_FIX = "fix or exclude those files"


class QuarantinedRecord(NamedTuple):
    """A record that cannot be read: its position, the reason and an excerpt."""

    file: str
    """As in the recipe; `!` separates an archive and its member."""
    offset: int
    """JSON Lines: byte after decompression. Tables: row number. Files and members: 0."""
    reason: str
    """A reason of `QUARANTINE_REASONS`, with details after a colon."""
    excerpt: str
    """The start of the record, printable, at most 200 characters."""

    @property
    def kind(self) -> str:
        """The reason without details."""
        return self.reason.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.file}, {self.offset}: {self.reason}: {self.excerpt!r}"


def check_quarantine_limit(
    num_quarantined: int,
    num_read: int,
    examples: Sequence[QuarantinedRecord],
    config: QuarantineConfig,
) -> None:
    """Check the number of quarantined records of a corpus.

    Args:
        num_quarantined: quarantined records.
        num_read: all records, also skipped records.
        examples: quarantined records for the message.
        config: the limit.

    Raises:
        RecordError: more records are quarantined than the limit allows.
    """
    if num_quarantined <= config.max_quarantined_fraction * num_read:
        return
    quotes = [f"\n    {example}" for example in examples[:_MAX_QUOTED]]
    kinds = Counter(example.kind for example in examples).most_common(1)
    fix = _FIXES.get(kinds[0][0], _DEFAULT_FIX) if kinds else _DEFAULT_FIX
    raise RecordError(
        f"{num_quarantined:,} of {num_read:,} records are quarantined{''.join(quotes)}",
        expected=f"at most {config.max_quarantined_fraction:.3%} of them",
        fix=f"{fix}; or raise data.quarantine.max_quarantined_fraction",
    )


def require_readable_records(
    corpus: str,
    num_documents: int,
    quarantined: Mapping[str, int],
    skipped: Mapping[str, int],
    examples: Sequence[QuarantinedRecord],
) -> None:
    """Check that a corpus has a record that can be read, before any check of its documents.

    Args:
        corpus: its name.
        num_documents: records that were read.
        quarantined: quarantined records by reason.
        skipped: skipped records by reason.
        examples: quarantined records for the message.

    Raises:
        RecordError: no record was read.
    """
    if num_documents:
        return
    expected = f"records in a language of the corpus {corpus}"
    num_quarantined = sum(quarantined.values())
    num_skipped = sum(skipped.values())
    if num_quarantined:
        kind, num = max(quarantined.items(), key=lambda item: item[1])
        example = next((example for example in examples if example.kind == kind), None)
        raise RecordError(
            f"no record of {corpus} can be read: {num_quarantined:,} are quarantined and "
            f"{num_skipped:,} skipped; the most frequent reason is {kind!r} ({num:,})"
            + (f", as in {example}" if example else ""),
            expected=expected,
            fix=_FIXES.get(kind, _DEFAULT_FIX),
        )
    reasons = ", ".join(f"{reason} {num:,}" for reason, num in skipped.items())
    raise RecordError(
        f"the sources of {corpus} hold no usable record: "
        + (f"all {num_skipped:,} were skipped ({reasons})" if skipped else "their files are empty"),
        expected=expected,
        fix="check the uri of the sources, and the languages of their records: `language`, `path` "
        "or fixed_language of a source, data.extensions of the recipe",
    )
