"""Rejected documents: contaminated documents by benchmark, quarantined records, and excerpts.

A preparation records every benchmark that it searched for, with a zero if no document matched. A
benchmark that it does not record was not searched for, which is shown as such and not as a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.core.artifact import Artifact
from components.core.store import Store
from components.dataset.manifests import (
    QUARANTINE_JSONL,
    REJECTS_PARQUET,
    sample_quarantined_records,
    sample_rejected_documents,
)
from components.report.formatting import join_words
from components.report.page import NO_EXCERPT, Block, CodeSample, Listing, Statement
from components.report.results import BENCHMARKS, RunResults, benchmark_title, stage_title
from components.report.table import Cell, Table, Value, sources_of, stage_cell, table

_EXCERPTS_PER_REASON = 3
_OTHER_COUNTS = {
    "quarantined": "quarantined",
    "skipped": "skipped",
    "redacted": "redacted in accepted documents",
}
"""Other counts in the statistics of a prepared corpus: records, records, matches."""


def reject_blocks(prepared: Mapping[str, Artifact], store: Store) -> tuple[Block | None, ...]:
    """The blocks of the corpus section, for prepared corpora by corpus."""
    return (_contamination_table(prepared), _other_counts(prepared), _excerpts(prepared, store))


def _contaminated(artifact: Artifact) -> dict[str, int]:
    """Distinct rejected documents of a corpus for each benchmark that was searched for."""
    counts: Any = artifact.statistics.get("contaminated", {})
    return {str(name): int(number) for name, number in counts.items()}


def contamination_statement(results: RunResults, benchmark: str) -> Statement | None:
    """How many training documents were rejected because of a benchmark, or that it was not searched
    for."""
    counts = {
        stage_title(stage): _contaminated(artifact) for stage, artifact in results.prepared.items()
    }
    if not counts:
        return None
    searched = [
        f"{stage} {numbers[benchmark]:,}"
        for stage, numbers in counts.items()
        if benchmark in numbers
    ]
    not_searched = [stage for stage, numbers in counts.items() if benchmark not in numbers]
    name = benchmark_title(benchmark)
    sentences: list[str] = []
    if searched:
        sentences.append(
            f"Training documents rejected because they contain a part of {name}: "
            f"{join_words(searched)}."
        )
    if not_searched:
        sentences.append(
            f"The documents of {join_words(not_searched)} were not searched for {name}, since the "
            "recipe does not search for it. The model may have been trained on its problems."
        )
    return Statement(None if not_searched else True, " ".join(sentences))


def _contamination_table(prepared: Mapping[str, Artifact]) -> Table:
    counts = {corpus: _contaminated(artifact) for corpus, artifact in prepared.items()}
    other_names = [name for numbers in counts.values() for name in sorted(numbers)]
    names = list(dict.fromkeys([*BENCHMARKS, *other_names]))
    not_searched = Cell("not searched", tone="quiet")
    return table(
        "Documents rejected because they contain a part of a benchmark",
        ["corpus", *map(benchmark_title, names)],
        [
            [stage_cell(corpus), *(numbers.get(name, not_searched) for name in names)]
            for corpus, numbers in counts.items()
        ],
        prepared.values(),
        footnote="Distinct contents; a document that contains parts of two benchmarks counts for "
        "both. contamination.jsonl of the prepared corpus lists the matches.",
    )


def _other_counts(prepared: Mapping[str, Artifact]) -> Table | None:
    """Records that could not be used and redactions, if there are any."""
    rows: list[list[Value]] = []
    for corpus, artifact in prepared.items():
        for name, label in _OTHER_COUNTS.items():
            counts: Any = artifact.statistics.get(name, {})
            rows += [
                [stage_cell(corpus), f"{label}: {kind}", number]
                for kind, number in sorted(counts.items())
            ]
    if not rows:
        return None
    return table(
        "Quarantined records and redactions",
        ["corpus", "kind", "number"],
        rows,
        prepared.values(),
        footnote="quarantine.jsonl of the prepared corpus lists the quarantined records.",
        num_text_columns=2,
    )


def _excerpts(prepared: Mapping[str, Artifact], store: Store) -> Listing | None:
    samples: list[CodeSample] = []
    for corpus, artifact in prepared.items():
        samples += _corpus_excerpts(corpus, artifact, store.fetch_verified(artifact))
    summary = (
        f"Excerpts of rejected documents: {_EXCERPTS_PER_REASON} per reason and corpus, "
        "without duplicates"
    )
    sources = sources_of(prepared.values())
    return Listing(summary=summary, samples=tuple(samples), sources=sources) if samples else None


def _corpus_excerpts(corpus: str, artifact: Artifact, folder: Path) -> list[CodeSample]:
    """Documents that were rejected for each reason, in the order of the reasons, and quarantined
    records."""
    rejects = sample_rejected_documents(folder / REJECTS_PARQUET, _EXCERPTS_PER_REASON)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for reason in _reasons(artifact):
        matching = [row for row in rejects if row["reason"] == reason]
        rows += [(reason, row) for row in matching[:_EXCERPTS_PER_REASON]]
    if artifact.statistics.get("quarantined"):
        with (folder / QUARANTINE_JSONL).open("rb") as lines:
            quarantined = sample_quarantined_records(lines, _EXCERPTS_PER_REASON)
        rows += [(f"{_OTHER_COUNTS['quarantined']}: {row['reason']}", row) for row in quarantined]
    return [_excerpt(corpus, reason, row) for reason, row in rows]


def _excerpt(corpus: str, reason: str, row: Mapping[str, Any]) -> CodeSample:
    excerpt = row["excerpt"]
    return CodeSample(
        stage=corpus,
        heading=f"{stage_title(corpus)}, {reason}",
        origin=f"{row['path']} of {row['source']}",
        turns=(("", excerpt),) if excerpt else (),
        subtext="" if excerpt else NO_EXCERPT,
    )


def _reasons(artifact: Artifact) -> Iterator[str]:
    languages: Any = artifact.statistics["languages"]
    rejected = [counts["rejected"] for counts in languages.values()]
    yield from sorted(
        {reason for counts in rejected for reason, number in counts.items() if number}
    )
