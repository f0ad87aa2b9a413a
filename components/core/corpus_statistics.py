"""Statistics of a prepared corpus: the text after each step of its preparation, and its licenses.

Preparation computes these records once; the dataset card, the results report and MLflow show them,
so they cannot differ in a number. Shares of text are shares of bytes: a document that a filter
rejects is never tokenized, so only its bytes are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from components.core.config import Config, ListOrTuple

STATISTIC = "steps"
"""The records in the statistics of a prepared corpus."""
RAW = "raw"
"""The first step: all documents that were read."""
_PAPER_STEPS = ("filtered", "deduplicated")
"""Steps of the paper's table of corpora (docs/paper.md, section 1): they are always shown."""
_SMALLEST_SHARE = 0.00005
"""Smallest share that two decimals of a percentage show."""
_MAX_LICENSES = 20
"""Licenses of a corpus that are listed (assumption: nearly all tokens of a corpus of code)."""


class RejectedText(Config):
    """The documents that a rule rejected."""

    rule: str
    """The reason in `rejects.parquet`."""
    num_documents: int
    num_bytes: int
    share: float
    """Of the bytes before the step."""


class StepCounts(Config):
    """The documents after a step, each counted once."""

    step: str
    num_documents: int
    num_bytes: int
    num_tokens: int | None
    """None: a later step rejects documents that were not tokenized."""
    dropped_share: float
    """Share of the bytes before the step that the step rejects."""
    rules: ListOrTuple[RejectedText] = ()
    """The rules of the step that rejected documents, the most bytes first."""


class CorpusSteps(Config):
    """The steps of a source and a language, and the tokens in the splits."""

    source: str | None
    """None: all sources together."""
    language: str | None
    """None: all languages together."""
    steps: ListOrTuple[StepCounts]
    """In their order; the first is `RAW`."""
    num_tokens: int
    """Of the accepted documents, each counted once."""
    num_train_documents: int
    """Occurrences in the training split, which the epochs of the sources decide."""
    num_train_bytes: int
    num_train_tokens: int
    num_held_out_tokens: int

    def step(self, name: str) -> StepCounts:
        """The counts after a step."""
        return next(counts for counts in self.steps if counts.step == name)


class LicenseTokens(NamedTuple):
    """The documents with a license, and the tokens of all their occurrences."""

    name: str
    num_documents: int
    num_tokens: int
    share: float
    """Of the tokens of the corpus."""


def read_corpus_steps(statistics: Mapping[str, Any]) -> list[CorpusSteps]:
    """Read the records of a corpus: each language, then all; then the same for each of several
    sources."""
    return [CorpusSteps.parse(row) for row in statistics[STATISTIC]]


def shown_steps(rows: Iterable[CorpusSteps]) -> list[str]:
    """Return `RAW`, the steps of the paper, and each other step that rejected a document."""
    names: dict[str, bool] = {}
    for row in rows:
        for counts in row.steps:
            is_shown = counts.step in (RAW, *_PAPER_STEPS) or bool(counts.rules)
            names[counts.step] = names.get(counts.step, False) or is_shown
    return [name for name, is_shown in names.items() if is_shown]


def largest_licenses(statistics: Mapping[str, Any]) -> list[LicenseTokens]:
    """The licenses of a corpus, as its records state them: the most tokens first, further licenses
    together."""
    rows = [(row["license"], row["documents"], row["tokens"]) for row in statistics["licenses"]]
    total = max(1, sum(tokens for _, _, tokens in rows))
    further = rows[_MAX_LICENSES:]
    listed = [(name or "(not stated)", documents, tokens) for name, documents, tokens in rows]
    del listed[_MAX_LICENSES:]
    if further:
        documents = sum(documents for _, documents, _ in further)
        tokens = sum(tokens for _, _, tokens in further)
        listed.append((f"({len(further):,} others)", documents, tokens))
    return [LicenseTokens(*row, row[2] / total) for row in listed]


def format_share(share: float) -> str:
    """A share in percent with two decimals; a share that would be 0.00 is not shown as zero."""
    return f"{100 * share:.2f} %" if share >= _SMALLEST_SHARE or not share else "below 0.01 %"
