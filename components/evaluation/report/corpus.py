"""What was read, what was left out and why, and what remained; the paper's corpora in a table of their own."""

from __future__ import annotations

from typing import Any, cast

from components.core.artifact import Artifact
from components.core.paper import is_verified, paper_corpora
from components.core.store import Store
from components.evaluation.report.cells import NOTHING, Cell, Column, Source, Table, Tone
from components.evaluation.report.left_out import left_out
from components.evaluation.report.page import Block, Section, Verdict
from components.evaluation.report.results import STAGE_NAMES, STAGES, RunResults
from components.evaluation.report.wording import count, listed, size

_COLUMNS = (
    Column(title="corpus", numeric=False),
    Column(title="documents", group="raw"),
    Column(title="size", group="raw"),
    Column(title="rejected", group="left out"),
    Column(title="duplicates", group="left out"),
    Column(title="documents", group="kept"),
    Column(title="size", group="kept"),
    Column(title="to train on", group="tokens"),
    Column(title="held out", group="tokens"),
)

_FIGURES = (
    "raw_documents", "raw_bytes", "rejected", "duplicates", "documents", "bytes", "train_tokens", "held_out_tokens",
)  # fmt: skip
"""A language's figures in the statistics of a prepared corpus, in the order of the columns."""


def corpus_section(results: RunResults, store: Store) -> Section:
    """Per corpus and language: from raw documents to tokens."""
    prepared = {corpus: results.prepared[corpus] for corpus in STAGES if corpus in results.prepared}
    ours: tuple[Block, ...] = (Verdict(None, "No corpus was prepared in this run."),)
    if prepared:
        ours = (_ours(prepared), *_reasons(prepared), *left_out(prepared, store))
    lead = "From raw documents to tokens. Nothing is dropped silently: every rejected document has a reason and is counted."
    return Section(
        anchor="corpus",
        title="Corpus",
        lead=lead,
        blocks=(*_expectations(results), *ours, _papers()),
    )


def _expectations(results: RunResults) -> tuple[Verdict, ...]:
    """What Great Expectations found. A run with a broken rule stops before it has results."""
    said, held = [], True
    for one in results.validation:
        passed, total = one.statistics["num_passed"], one.statistics["num_expectations"]
        held = held and passed == total
        said.append(f"{passed} of {total} about the {one.name} corpora")
    return (Verdict(held, f"Expectations that hold: {listed(said)}."),) if said else ()


def _ours(prepared: dict[str, Artifact]) -> Table:
    rows = []
    for corpus, artifact in prepared.items():
        languages = _languages(artifact)
        rows += [_row(_name(corpus, language), figures) for language, figures in languages.items()]
        if len(languages) > 1:
            total = {
                figure: sum(_number(one.get(figure, 0)) for one in languages.values())
                for figure in _FIGURES
            }
            rows.append(_row(_name(corpus, "all"), total))
    return Table(
        caption="Our corpora",
        columns=_COLUMNS,
        rows=tuple(rows),
        sources=tuple(Source.of(one) for one in prepared.values()),
    )


def _name(corpus: str, language: str) -> Cell:
    tone: Tone = "strong" if language == "all" else "plain"
    return Cell(text=f"{STAGE_NAMES[corpus]} \u00b7 {language}", mark=corpus, tone=tone)


def _row(name: Cell, figures: dict[str, Any]) -> tuple[Cell, ...]:
    return (name, *(_cell(figure, figures.get(figure)) for figure in _FIGURES))


def _cell(figure: str, value: Any) -> Cell:
    if value is None:
        return NOTHING
    if figure.endswith("bytes"):
        return Cell(text=size(value), title=f"{value:,} bytes")
    if figure.endswith("tokens"):
        return Cell(text=count(value), title=f"{value:,} tokens")
    return Cell(text=f"{_number(value):,}")


def _number(value: Any) -> int:
    """A figure; of counts by reason, their sum."""
    return int(sum(value.values()) if isinstance(value, dict) else value)


def _languages(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], artifact.statistics["languages"])


def _reasons(prepared: dict[str, Artifact]) -> tuple[Table, ...]:
    """How many documents each filter rejected, where one rejected any."""
    rejected = [
        (corpus, language, figures["rejected"])
        for corpus, artifact in prepared.items()
        for language, figures in _languages(artifact).items()
    ]
    reasons = sorted(
        {reason for _, _, counts in rejected for reason, number in counts.items() if number}
    )
    if not reasons:
        return ()
    rows = (
        (_name(corpus, language), *(Cell(text=f"{counts.get(reason, 0):,}") for reason in reasons))
        for corpus, language, counts in rejected
    )
    return (
        Table(
            caption="Rejected documents by reason",
            columns=(
                Column(title="corpus", numeric=False),
                *(Column(title=reason) for reason in reasons),
            ),
            rows=tuple(rows),
            sources=tuple(Source.of(one) for one in prepared.values()),
        ),
    )


def _papers() -> Table:
    paper = paper_corpora()
    rows = tuple(
        (
            Cell(text=row.corpus, mark=row.stage),
            *(_quoted(figure) for figure in (row.raw, row.processed, row.tokens)),
        )
        for row in paper.rows
    )
    titles = ("raw", "processed", "tokens")
    return Table(
        caption="The paper's corpora, for scale",
        columns=(Column(title="corpus", numeric=False), *(Column(title=title) for title in titles)),
        rows=rows,
        footnote=f"{paper.source}. ? unverified: {paper.note.partition(' is ')[2]}.",
    )


def _quoted(figure: str) -> Cell:
    verified = is_verified(figure)
    return Cell(
        text=figure, tone="plain" if verified else "quiet", title="" if verified else "unverified"
    )
