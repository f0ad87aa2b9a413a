"""The corpus section: text after each step, rejected text by rule, licenses, validation, and the
paper's corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.core.artifact import Artifact
from components.core.corpus_statistics import (
    CorpusSteps,
    StepCounts,
    format_share,
    largest_licenses,
    read_corpus_steps,
    shown_steps,
)
from components.core.paper import is_verified, paper_corpora
from components.core.store import Store
from components.report.benchmark_results import UNVERIFIED
from components.report.formatting import count, join_words, size
from components.report.page import Block, Section, Statement, section
from components.report.rejects import reject_blocks
from components.report.results import RunResults, stage_title
from components.report.table import Cell, Column, Table, Value, group, stage_cell, table

Rule = Mapping[str, Any]
"""A validation result in `results.json`: see
`components.validation.rule_results.RuleResult.record`."""

_SIZE_FOOTNOTE = (
    "Lost: share of the bytes before the step. Tokens once: each document counts once. Training "
    "tokens: documents are repeated as the epochs of their sources say."
)


def corpus_section(results: RunResults, store: Store) -> Section:
    """Per corpus and language: from raw documents to tokens."""
    prepared = results.prepared
    blocks: tuple[Block | None, ...] = (Statement(None, "No corpus was prepared in this run."),)
    if prepared:
        rows = _corpus_steps(prepared)
        languages = [(corpus, row) for corpus, row in rows if row.source is None]
        sources = [(corpus, row) for corpus, row in rows if row.source is not None]
        blocks = (
            _size_table("Size after each step", languages, prepared),
            _document_table(languages, prepared),
            _size_table("Size after each step, by source", sources, prepared),
            _rule_table(languages, prepared),
            _license_table(prepared),
            *reject_blocks(prepared, store),
        )
    lead = "From raw documents to tokens. Every rejected document has a reason and is counted."
    return section(
        "corpus", "Corpus", lead, _validation_statement(results), *blocks, _paper_table()
    )


def _validation_statement(results: RunResults) -> Statement | None:
    """How many expectations hold; a run stops early if a critical rule fails."""
    counts = []
    success = True
    for artifact in results.validation:
        passed, total = artifact.statistics["num_passed"], artifact.statistics["num_expectations"]
        success = success and passed == total
        counts.append(f"{passed} of {total} for the {artifact.name} corpora")
    return Statement(success, f"Expectations that hold: {join_words(counts)}.") if counts else None


def _corpus_steps(prepared: Mapping[str, Artifact]) -> list[tuple[str, CorpusSteps]]:
    return [
        (corpus, row)
        for corpus, artifact in prepared.items()
        for row in read_corpus_steps(artifact.statistics)
    ]


def _size_table(
    caption: str, rows: Sequence[tuple[str, CorpusSteps]], prepared: Mapping[str, Artifact]
) -> Table | None:
    """Size after each step, and the tokens of the splits."""
    if not rows:
        return None
    steps = shown_steps(row for _, row in rows)
    cells: list[list[Value]] = [
        [
            _name(corpus, row),
            *(_size_cell(row.step(step)) for step in steps),
            _token_cell(row.num_tokens),
            _token_cell(row.num_train_tokens),
            _token_cell(row.num_held_out_tokens),
        ]
        for corpus, row in rows
    ]
    columns: list[str | Column] = [
        "corpus",
        *steps,
        *group("tokens", "once", "training", "held-out"),
    ]
    return table(caption, columns, cells, prepared.values(), footnote=_SIZE_FOOTNOTE)


def _document_table(
    rows: Sequence[tuple[str, CorpusSteps]], prepared: Mapping[str, Artifact]
) -> Table:
    """Documents after each step, and in the training split."""
    steps = shown_steps(row for _, row in rows)
    cells: list[list[Value]] = [
        [
            _name(corpus, row),
            *(row.step(step).num_documents for step in steps),
            row.num_train_documents,
            Cell(size(row.num_train_bytes), title=f"{row.num_train_bytes:,} bytes"),
        ]
        for corpus, row in rows
    ]
    columns: list[str | Column] = ["corpus", *steps, *group("training split", "documents", "size")]
    footnote = "The training split repeats documents as the epochs of their sources say."
    return table("Documents after each step", columns, cells, prepared.values(), footnote=footnote)


def _name(corpus: str, row: CorpusSteps) -> Cell:
    names = [stage_title(corpus), row.source, row.language or "all"]
    return Cell(
        " \u00b7 ".join(name for name in names if name),
        stage=corpus,
        tone="plain" if row.language else "strong",
    )


def _size_cell(counts: StepCounts) -> Cell:
    """A size, and the share of the text that the step rejected."""
    title = f"{counts.num_bytes:,} bytes"
    if counts.num_tokens is not None:
        title += f", {counts.num_tokens:,} tokens"
    lost = f"{format_share(counts.dropped_share)} lost" if counts.dropped_share else ""
    return Cell(size(counts.num_bytes), title=title, subtext=lost)


def _token_cell(num_tokens: int) -> Cell:
    return Cell(count(num_tokens), title=f"{num_tokens:,} tokens")


def _rule_table(
    rows: Sequence[tuple[str, CorpusSteps]], prepared: Mapping[str, Artifact]
) -> Table | None:
    """The documents that each rule rejected, if any."""
    cells: list[list[Value]] = [
        [
            _name(corpus, row),
            counts.step,
            rejected.rule,
            rejected.num_documents,
            Cell(size(rejected.num_bytes), title=f"{rejected.num_bytes:,} bytes"),
            format_share(rejected.share),
        ]
        for corpus, row in rows
        for counts in row.steps
        for rejected in counts.rules
    ]
    if not cells:
        return None
    return table(
        "Rejected text by rule",
        ["corpus", "step", "rule", "documents", "size", "share"],
        cells,
        prepared.values(),
        footnote="Share of the bytes before the step.",
        num_text_columns=3,
    )


def _license_table(prepared: Mapping[str, Artifact]) -> Table:
    rows: list[list[Value]] = [
        [
            stage_cell(corpus),
            item.name,
            item.num_documents,
            Cell(count(item.num_tokens), title=f"{item.num_tokens:,} tokens"),
            format_share(item.share),
        ]
        for corpus, artifact in prepared.items()
        for item in largest_licenses(artifact.statistics)
    ]
    return table(
        "Tokens by license",
        ["corpus", "license", "documents", "tokens", "share"],
        rows,
        prepared.values(),
        footnote="As the records state the license. Tokens of all splits, with repetitions.",
        folded=True,
        num_text_columns=2,
    )


def _paper_table() -> Table:
    paper = paper_corpora()
    return table(
        "The paper's corpora, for scale",
        ["corpus", "raw", "processed", "tokens"],
        [
            [Cell(row.corpus, stage=row.stage), *_paper_cells(row.raw, row.processed, row.tokens)]
            for row in paper.rows
        ],
        footnote=f"{paper.source}. {UNVERIFIED}",
    )


def _paper_cells(*values: str) -> list[Cell]:
    return [
        Cell(value) if is_verified(value) else Cell(value, tone="quiet", title="unverified")
        for value in values
    ]


def rules_section(subject: str, rules: Sequence[Rule]) -> Section:
    """The rules of a validation, failed rules first.

    Args:
        subject: the validated data, for the title.
        rules: as in `results.json`.
    """
    critical = [rule["success"] for rule in rules if rule["severity"] == "critical"]
    num_warnings = sum(rule["success"] is False for rule in rules) - critical.count(False)
    summary = (
        f"{critical.count(True)} of {len(critical)} critical rules hold; {num_warnings} other "
        "rules fail."
    )
    rows = [
        [rule["subject"], rule["rule"], _success(rule), _rule_result(rule)]
        for rule in sorted(rules, key=lambda rule: rule["success"] is not False)
    ]
    return section(
        "rules",
        f"Rules for the {subject}",
        "Great Expectations validated all documents, not a sample.",
        Statement(False not in critical, summary),
        table("Rules", ["data", "rule", "holds", "result"], rows, num_text_columns=4),
    )


def _success(rule: Rule) -> Cell:
    if rule["success"] is None:
        return Cell("not evaluated", tone="quiet")
    if rule["success"]:
        return Cell("yes")
    return Cell("no" if rule["severity"] == "critical" else "no: a warning", tone="strong")


def _rule_result(rule: Rule) -> str:
    examples = f": {'; '.join(rule['examples'])}" if rule["examples"] else ""
    if rule["num_unexpected"] is None:
        return "" if rule["observed"] is None else f"{rule['observed']}{examples}"
    return f"{rule['num_unexpected']:,} of {rule['num_rows']:,} fail{examples}"
