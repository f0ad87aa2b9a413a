"""The corpus section: documents from raw to tokens, rejects by reason, validation, and the paper's
corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from components.core.artifact import Artifact
from components.core.paper import is_verified, paper_corpora
from components.core.store import Store
from components.report.benchmark_results import UNVERIFIED
from components.report.formatting import count, join_words, size
from components.report.page import Block, Section, Statement, section
from components.report.rejects import reject_blocks
from components.report.results import RunResults, stage_title
from components.report.table import Cell, Column, Table, Value, group, table

Rule = Mapping[str, Any]
"""A validation result in `results.json`: see
`components.validation.rule_results.RuleResult.record`."""

_COLUMNS: tuple[str | Column, ...] = (
    "corpus",
    *group("raw", "documents", "size"),
    *group("rejected", "by filters", "duplicates"),
    *group("prepared", "documents", "size"),
    *group("tokens", "training", "held-out"),
)
_STATISTICS = (
    "raw_documents",
    "raw_bytes",
    "rejected",
    "duplicates",
    "documents",
    "bytes",
    "train_tokens",
    "held_out_tokens",
)
"""A language's statistics in a prepared corpus, in the order of the columns."""


def corpus_section(results: RunResults, store: Store) -> Section:
    """Per corpus and language: from raw documents to tokens."""
    prepared = results.prepared
    blocks: tuple[Block | None, ...] = (Statement(None, "No corpus was prepared in this run."),)
    if prepared:
        blocks = (_corpus_table(prepared), _reason_table(prepared), *reject_blocks(prepared, store))
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


def _corpus_table(prepared: Mapping[str, Artifact]) -> Table:
    rows: list[list[Value]] = []
    for corpus, artifact in prepared.items():
        languages = _languages(artifact)
        if len(languages) > 1:
            languages = {**languages, "all": _sums(languages)}
        for language, counts in languages.items():
            rows.append(
                [_name(corpus, language), *(_cell(key, counts.get(key)) for key in _STATISTICS)]
            )
    return table("Prepared corpora", _COLUMNS, rows, prepared.values())


def _sums(languages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of each statistic over the languages."""
    return {
        key: sum(_number(counts.get(key, 0)) for counts in languages.values())
        for key in _STATISTICS
    }


def _name(corpus: str, language: str) -> Cell:
    text = f"{stage_title(corpus)} \u00b7 {language}"
    return Cell(text, stage=corpus, tone="strong" if language == "all" else "plain")


def _cell(key: str, value: Any) -> Value:
    if value is None:
        return None
    if key.endswith("bytes"):
        return Cell(size(value), title=f"{value:,} bytes")
    if key.endswith("tokens"):
        return Cell(count(value), title=f"{value:,} tokens")
    return _number(value)


def _number(value: Any) -> int:
    """A number; the sum of counts by reason."""
    return int(sum(value.values()) if isinstance(value, dict) else value)


def _languages(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], artifact.statistics["languages"])


def _reason_table(prepared: Mapping[str, Artifact]) -> Table | None:
    """How many documents each filter rejected, if any."""
    rejected = [
        (_name(corpus, language), counts["rejected"])
        for corpus, artifact in prepared.items()
        for language, counts in _languages(artifact).items()
    ]
    reasons = sorted(
        {reason for _, counts in rejected for reason, number in counts.items() if number}
    )
    if not reasons:
        return None
    rows = [[name, *(counts.get(reason, 0) for reason in reasons)] for name, counts in rejected]
    return table("Rejected documents by reason", ["corpus", *reasons], rows, prepared.values())


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
    if rule["num_unexpected"] is None:
        return "" if rule["observed"] is None else str(rule["observed"])
    examples = f": {'; '.join(rule['examples'])}" if rule["examples"] else ""
    return f"{rule['num_unexpected']:,} of {rule['num_rows']:,} fail{examples}"
