"""Computes the text that remains after each step from the counts of the merge stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from components.core.corpus_statistics import RAW, CorpusSteps, RejectedText, StepCounts
from components.data.filters.quality import DUPLICATE, STEPS

Counts = Mapping[str, Any]
"""The counts of a language in a source, see `merge_stage`."""


class _Rejected(NamedTuple):
    """The documents with a reason."""

    reason: str
    num_documents: int
    num_bytes: int
    num_tokens: int | None
    """None: they were not tokenized."""


def corpus_steps(
    sources: Mapping[str, Mapping[str, Counts]], titles: Sequence[str], languages: Sequence[str]
) -> list[CorpusSteps]:
    """Compute the records of a corpus from its counts by source and language.

    Args:
        sources: the counts, in any order.
        titles, languages: the order of the records.

    Returns:
        A record of each language and, if there are several, of all. If there are several sources,
            the same for each source, without languages that it does not have.
    """
    total = sum_nested_counts(sources.values())
    rows = list(_source_steps(None, {language: total[language] for language in languages}))
    if len(titles) > 1:
        for title in titles:
            counts = {language: sources[title][language] for language in languages}
            present = {name: values for name, values in counts.items() if values["raw_documents"]}
            rows += _source_steps(title, present)
    return rows


def _source_steps(source: str | None, languages: Mapping[str, Counts]) -> Iterator[CorpusSteps]:
    for language, counts in languages.items():
        yield _corpus_steps(source, language, counts)
    if len(languages) > 1:
        yield _corpus_steps(source, None, sum_nested_counts(languages.values()))


def _corpus_steps(source: str | None, language: str | None, counts: Counts) -> CorpusSteps:
    return CorpusSteps(
        source=source,
        language=language,
        steps=tuple(_steps(counts)),
        num_tokens=counts["tokens"],
        num_train_documents=counts["train_documents"],
        num_train_bytes=counts["train_bytes"],
        num_train_tokens=counts["train_tokens"],
        num_held_out_tokens=counts["held_out_tokens"],
    )


def _steps(counts: Counts) -> list[StepCounts]:
    """The counts after each step: the accepted documents, plus those that later steps reject."""
    rejected = _rejected(counts)
    num_documents, num_bytes = counts["documents"], counts["bytes"]
    num_tokens: int | None = counts["tokens"]
    steps: list[StepCounts] = []
    for step in reversed(STEPS):
        losses = [rejected[reason] for reason in step.reasons if reason in rejected]
        dropped_bytes = sum(loss.num_bytes for loss in losses)
        before = max(1, num_bytes + dropped_bytes)
        rules = [
            RejectedText(
                rule=loss.reason,
                num_documents=loss.num_documents,
                num_bytes=loss.num_bytes,
                share=loss.num_bytes / before,
            )
            for loss in sorted(losses, key=lambda loss: (-loss.num_bytes, loss.reason))
        ]
        steps.append(
            StepCounts(
                step=step.name,
                num_documents=num_documents,
                num_bytes=num_bytes,
                num_tokens=num_tokens,
                dropped_share=dropped_bytes / before,
                rules=tuple(rules),
            )
        )
        num_documents += sum(loss.num_documents for loss in losses)
        num_bytes += dropped_bytes
        num_tokens = _add_tokens(num_tokens, losses)
    raw = StepCounts(
        step=RAW,
        num_documents=num_documents,
        num_bytes=num_bytes,
        num_tokens=num_tokens,
        dropped_share=0.0,
    )
    return [raw, *reversed(steps)]


def _rejected(counts: Counts) -> dict[str, _Rejected]:
    """The rejected documents by reason; reasons without documents are absent."""
    rows = [
        _Rejected(
            reason, number, counts["rejected_bytes"][reason], counts["rejected_tokens"].get(reason)
        )
        for reason, number in counts["rejected"].items()
    ]
    duplicates = counts["duplicates"], counts["duplicate_bytes"], counts["duplicate_tokens"]
    rows.append(_Rejected(DUPLICATE, *duplicates))
    return {row.reason: row for row in rows if row.num_documents}


def _add_tokens(num_tokens: int | None, losses: list[_Rejected]) -> int | None:
    for loss in losses:
        if num_tokens is None or loss.num_tokens is None:
            return None
        num_tokens += loss.num_tokens
    return num_tokens


def sum_nested_counts(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up nested mappings of numbers; keys may be missing."""
    total: dict[str, Any] = {}
    for mapping in counts:
        for name, value in mapping.items():
            if isinstance(value, dict):
                total[name] = sum_nested_counts([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total
