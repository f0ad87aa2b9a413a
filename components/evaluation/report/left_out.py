"""What is in no shard, and why: documents by benchmark, records that were no documents, and how rejected documents begin.

One decision: that nobody looked for a benchmark is told from that nothing was found. A preparation names every benchmark
that it looked for, with a zero where no document held any of it; what it does not name, it was not given.
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
from components.evaluation.report.cells import Cell, Column, Source, Table
from components.evaluation.report.page import Block, Excerpt, Excerpts, Verdict
from components.evaluation.report.results import STAGE_NAMES, STAGES, RunResults
from components.evaluation.report.wording import listed

BENCHMARKS = {"humaneval": "HumanEval", "mtpb": "MTPB"}
"""The benchmarks that this project measures, as they are written; each has a column, looked for or not."""

_EXCERPTS_PER_REASON = 3
_OTHERS = {"bad": "cannot be read", "skipped": "skipped", "redacted": "replaced in kept documents"}
"""Other counts of a prepared corpus, as a person says them: records, records, finds."""


def left_out(prepared: Mapping[str, Artifact], store: Store) -> tuple[Block, ...]:
    """The blocks of the corpus section, for prepared corpora by corpus."""
    return (_contaminated(prepared), *_other_counts(prepared), *_excerpts(prepared, store))


def searched(artifact: Artifact) -> dict[str, int]:
    """How many different documents of a corpus were left out for each benchmark that was looked for."""
    found: Any = artifact.statistics.get("contaminated", {})
    return {str(name): int(number) for name, number in found.items()}


def left_out_for(results: RunResults, benchmark: str) -> tuple[Verdict, ...]:
    """What a benchmark's score has to be read with: how many documents were left out for it, or that nobody looked."""
    prepared = {
        stage: searched(results.prepared[stage]) for stage in STAGES if stage in results.prepared
    }
    if not prepared:
        return ()
    name = BENCHMARKS[benchmark]
    looked = [
        f"{STAGE_NAMES[stage]} {found[benchmark]:,}"
        for stage, found in prepared.items()
        if benchmark in found
    ]
    blind = [STAGE_NAMES[stage] for stage, found in prepared.items() if benchmark not in found]
    said = (
        [f"Documents left out of training because they hold a part of {name}: {listed(looked)}."]
        if looked
        else []
    )
    if blind:
        said.append(
            f"Nobody looked for {name} in the documents of {listed(blind)}: its problems were not at hand, or not to be "
            "looked for, when these were prepared. A model may have learnt them."
        )
    return (Verdict(None if blind else True, " ".join(said)),)


def _contaminated(prepared: Mapping[str, Artifact]) -> Table:
    counts = {corpus: searched(artifact) for corpus, artifact in prepared.items()}
    names = list(
        dict.fromkeys([*BENCHMARKS, *(name for found in counts.values() for name in sorted(found))])
    )
    rows = (
        (Cell(text=STAGE_NAMES[corpus], mark=corpus), *(_count(found.get(name)) for name in names))
        for corpus, found in counts.items()
    )
    return Table(
        caption="Documents left out because they hold a part of a benchmark",
        columns=(
            Column(title="corpus", numeric=False),
            *(Column(title=BENCHMARKS.get(name, name)) for name in names),
        ),
        rows=tuple(rows),
        sources=tuple(Source.of(one) for one in prepared.values()),
        footnote="Different contents; one that holds parts of two benchmarks counts for both. The places are in "
        "contamination.jsonl of the prepared corpus.",
    )


def _count(number: int | None) -> Cell:
    return Cell(text="nobody looked", tone="quiet") if number is None else Cell(text=f"{number:,}")


def _other_counts(prepared: Mapping[str, Artifact]) -> tuple[Table, ...]:
    """Records that were no documents, and what was replaced in documents, where there is any."""
    rows = []
    for corpus, artifact in prepared.items():
        for name, said in _OTHERS.items():
            counts: Any = artifact.statistics.get(name, {})
            for kind, number in sorted(counts.items()):
                rows.append(
                    (
                        Cell(text=STAGE_NAMES[corpus], mark=corpus),
                        Cell(text=f"{said}: {kind}"),
                        _count(number),
                    )
                )
    if not rows:
        return ()
    return (
        Table(
            caption="Records that are no documents, and what was replaced",
            columns=(
                Column(title="corpus", numeric=False),
                Column(title="what", numeric=False),
                Column(title="number"),
            ),
            rows=tuple(rows),
            sources=tuple(Source.of(one) for one in prepared.values()),
            footnote="Those that cannot be read are in quarantine.jsonl of the prepared corpus.",
        ),
    )


def _excerpts(prepared: Mapping[str, Artifact], store: Store) -> tuple[Excerpts, ...]:
    found = [
        one
        for corpus, artifact in prepared.items()
        for one in _of_corpus(corpus, artifact, store.fetch_verified(artifact))
    ]
    if not found:
        return ()
    title = f"How what is left out begins: {_EXCERPTS_PER_REASON} of each reason and corpus, copies apart"
    return (
        Excerpts(
            title=title,
            items=tuple(found),
            sources=tuple(Source.of(one) for one in prepared.values()),
        ),
    )


def _of_corpus(corpus: str, artifact: Artifact, folder: Path) -> list[Excerpt]:
    """Some documents that were rejected for each reason, in the order of the reasons, and records that cannot be read."""
    sample = sample_rejected_documents(folder / REJECTS_PARQUET, _EXCERPTS_PER_REASON)
    chosen = [
        (reason, row)
        for reason in _reasons(artifact)
        for row in [row for row in sample if row["reason"] == reason][:_EXCERPTS_PER_REASON]
    ]
    if artifact.statistics.get("bad"):
        with (folder / QUARANTINE_JSONL).open("rb") as lines:
            unreadable = sample_quarantined_records(lines, _EXCERPTS_PER_REASON)
        chosen += [(f"{_OTHERS['bad']}: {row['reason']}", row) for row in unreadable]
    return [
        Excerpt(
            mark=corpus,
            heading=f"{STAGE_NAMES[corpus]}, {reason}",
            origin=f"{row['path']} of {row['source']}",
            text=row["excerpt"],
        )
        for reason, row in chosen
    ]


def _reasons(artifact: Artifact) -> Iterator[str]:
    languages: Any = artifact.statistics["languages"]
    yield from sorted(
        {
            reason
            for one in languages.values()
            for reason, number in one["rejected"].items()
            if number
        }
    )
