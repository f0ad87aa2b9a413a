"""The text of a language that each step of a preparation rejects, counted from the tables of the
corpus.

The shares are of bytes, see `components.data.config.MaxDroppedShare`. Excerpts come from
`rejects.parquet`; preparation redacts them if the corpus is redacted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.core.markdown import printable
from components.data.config import MaxDroppedShare
from components.data.filters.quality import STEPS, Step
from components.validation.mergeable_stats import MAX_EXAMPLES, RowMask

LIMITED_STEPS = tuple(step for step in STEPS if step.setting in MaxDroppedShare.model_fields)
"""The steps with a limit; the epochs of a source decide deliberately which documents occur."""
EXAMPLE_COLUMNS = ("sha256", "excerpt")
"""Columns of `rejects.parquet` that examples need."""
_EXCERPT_CHARACTERS = 60
"""Characters of an excerpt (assumption: three examples fit a screen)."""
_NAME_CHARACTERS = 200
"""Characters of a source or a path, which are unbounded in hostile input."""
_DIGEST_CHARACTERS = 12


def share_column(step: Step) -> str:
    """The column of the suite `prepared-languages`."""
    return f"{step.setting}_dropped_share"


def limit_parameter(setting: str) -> str:
    """The parameter of suites with the limit of a step, a field of `MaxDroppedShare`."""
    return f"max_{setting}_dropped_share"


def limit_parameters(limits: MaxDroppedShare) -> dict[str, JsonValue]:
    """The limits of a corpus for its suites."""
    return {limit_parameter(setting): limit for setting, limit in limits}


@dataclass
class RejectedText:
    """The documents of a language with a reason."""

    num_bytes: int = 0
    examples: list[str] = field(default_factory=list)
    """Of the first documents in the table, which is a random order of contents."""


@dataclass
class LanguageText:
    """The text of a language, in bytes."""

    kept_bytes: int = 0
    rejected: dict[str, RejectedText] = field(default_factory=dict)
    """By reason."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all documents that preparation read."""
        return self.kept_bytes + sum(text.num_bytes for text in self.rejected.values())

    def add_kept(self, batch: pa.RecordBatch, rows: RowMask) -> None:
        """Count the selected rows of `documents.parquet`."""
        self.kept_bytes += _num_bytes(batch.filter(pa.array(rows)))

    def add_rejected(self, batch: pa.RecordBatch, rows: RowMask) -> None:
        """Count the selected rows of `rejects.parquet`."""
        selected = batch.filter(pa.array(rows))
        for reason in pc.unique(selected["reason"]).to_pylist():
            documents = selected.filter(pc.equal(selected["reason"], reason))
            text = self.rejected.setdefault(reason, RejectedText())
            text.num_bytes += _num_bytes(documents)
            num_missing = MAX_EXAMPLES - len(text.examples)
            examples = documents.slice(0, num_missing).to_pylist()
            text.examples += [_describe_document(document) for document in examples]

    def steps(self) -> Iterator[StepText]:
        """The limited steps in their order."""
        num_bytes = self.num_bytes
        for step in STEPS:
            rejected = {
                reason: self.rejected[reason] for reason in step.reasons if reason in self.rejected
            }
            if step in LIMITED_STEPS:
                yield StepText(step, num_bytes, rejected)
            num_bytes -= sum(text.num_bytes for text in rejected.values())


class StepText(NamedTuple):
    """The text that a step rejected."""

    step: Step
    num_bytes: int
    """Before the step."""
    rejected: Mapping[str, RejectedText]
    """By reason."""

    @property
    def dropped_bytes(self) -> int:
        """Bytes that the step rejected."""
        return sum(text.num_bytes for text in self.rejected.values())

    @property
    def dropped_share(self) -> float:
        """Share of the bytes before the step that it rejected."""
        return self._share(self.dropped_bytes)

    def describe(self, language: str) -> str:
        """The share, and the share of each rule: `66.0% of English: line length 60.0%, ...`."""
        shares = [f"{reason} {self._share(text.num_bytes):.1%}" for reason, text in self._by_size()]
        return f"{self.dropped_share:.1%} of {language}: {', '.join(shares)}"

    def examples(self) -> list[str]:
        """Rejected documents with their rules; those of the rule that rejected most come first."""
        return [
            f"{example} ({reason})" for reason, text in self._by_size() for example in text.examples
        ]

    def _by_size(self) -> list[tuple[str, RejectedText]]:
        return sorted(self.rejected.items(), key=lambda item: (-item[1].num_bytes, item[0]))

    def _share(self, num_bytes: int) -> float:
        return num_bytes / max(1, self.num_bytes)


def dropped_shares(text: LanguageText) -> dict[str, float]:
    """The columns of `prepared-languages` of a language."""
    return {share_column(item.step): item.dropped_share for item in text.steps()}


def _num_bytes(batch: pa.RecordBatch) -> int:
    return int(pc.sum(batch["num_bytes"]).as_py() or 0)


def _describe_document(document: Mapping[str, str | None]) -> str:
    """Source, path and beginning; without a path, the SHA-256 that finds it in the table."""
    source = (document["source"] or "(no source)")[:_NAME_CHARACTERS]
    path = (document["path"] or "")[:_NAME_CHARACTERS]
    if not path:
        path = f"SHA-256 {(document['sha256'] or '')[:_DIGEST_CHARACTERS]}"
    name = printable(" ".join(f"{source}/{path}".split()))
    excerpt = document["excerpt"]
    return f"{name}: {excerpt[:_EXCERPT_CHARACTERS]!r}" if excerpt else name
