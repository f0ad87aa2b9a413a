"""Metrics and tables of prepared corpora in MLflow: text after each step, licenses, rejects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.corpus_statistics import CorpusSteps, read_corpus_steps
from components.core.remote_errors import wrap_remote_errors
from components.core.store import Store

_ALL = "all"
"""Source or language of totals."""


def step_metrics(prepared: Mapping[str, Artifact]) -> dict[str, JsonValue]:
    """Return metrics of the text after each step, by corpus, language and step.

    Titles of sources cannot be names of metrics; `step_table` has them.
    """
    metrics: dict[str, JsonValue] = {}
    for corpus, artifact in prepared.items():
        languages: dict[str, JsonValue] = {}
        for row in read_corpus_steps(artifact.statistics):
            if row.source is None:
                languages[row.language or _ALL] = _step_metrics(row)
        metrics[corpus] = languages
    return metrics


def _step_metrics(row: CorpusSteps) -> dict[str, JsonValue]:
    metrics: dict[str, JsonValue] = {}
    for counts in row.steps:
        metrics[counts.step] = {
            "documents": counts.num_documents,
            "bytes": counts.num_bytes,
            "dropped_share": counts.dropped_share,
            **({} if counts.num_tokens is None else {"tokens": counts.num_tokens}),
        }
    return metrics


def step_table(prepared: Mapping[str, Artifact]) -> list[dict[str, JsonValue]]:
    """Return the text after each step, by source and language, with the text that rules rejected.

    A row with a rule counts what the rule rejected, a row without a rule what remains after the
    step. `share`: rejected share of the bytes before the step. The step "training split" counts
    the occurrences of documents, which the epochs of their sources decide.
    """
    return [
        {"corpus": corpus, "source": row.source or _ALL, "language": row.language or _ALL, **values}
        for corpus, artifact in prepared.items()
        for row in read_corpus_steps(artifact.statistics)
        for values in _step_rows(row)
    ]


def _step_rows(row: CorpusSteps) -> Iterator[dict[str, JsonValue]]:
    for counts in row.steps:
        numbers = counts.num_documents, counts.num_bytes, counts.num_tokens
        yield _step_row(counts.step, "", *numbers, counts.dropped_share)
        for rejected in counts.rules:
            numbers = rejected.num_documents, rejected.num_bytes, None
            yield _step_row(counts.step, rejected.rule, *numbers, rejected.share)
    numbers = row.num_train_documents, row.num_train_bytes, row.num_train_tokens
    yield _step_row("training split", "", *numbers, None)


def _step_row(
    step: str,
    rule: str,
    num_documents: int,
    num_bytes: int,
    num_tokens: int | None,
    share: float | None,
) -> dict[str, JsonValue]:
    return {
        "step": step,
        "rule": rule,
        "documents": num_documents,
        "bytes": num_bytes,
        "tokens": num_tokens,
        "share": share,
    }


def license_table(prepared: Mapping[str, Artifact]) -> list[dict[str, JsonValue]]:
    """Return the documents and tokens of every license of each corpus."""
    rows: list[dict[str, JsonValue]] = []
    for corpus, artifact in prepared.items():
        licenses: Any = artifact.statistics["licenses"]
        rows += [{"corpus": corpus, **row} for row in licenses]
    return rows


def sample_rejects(prepared: Mapping[str, Artifact], store: Store) -> list[dict[str, JsonValue]]:
    """Return samples of rejects per corpus, reason and language; columns: `SAMPLE_COLUMNS`.

    Reads the reject files directly, so no shard is fetched.

    Raises:
        RemoteError: a file cannot be read.
    """
    from components.dataset.manifests import (
        QUARANTINE_JSONL,
        REJECTS_PARQUET,
        sample_quarantined_records,
        sample_rejected_documents,
    )

    rows: list[dict[str, JsonValue]] = []
    for corpus, artifact in prepared.items():
        with (
            wrap_remote_errors("reading rejected documents", artifact.address),
            store.fs.open(f"{artifact.address}/{REJECTS_PARQUET}", "rb") as rejects,
            store.fs.open(f"{artifact.address}/{QUARANTINE_JSONL}", "rb") as quarantine,
        ):
            samples = [*sample_rejected_documents(rejects), *sample_quarantined_records(quarantine)]
        samples.sort(key=lambda row: (row["reason"], row["language"] or ""))
        rows += [{"reason": row["reason"], "corpus": corpus, **row} for row in samples]
    return rows


def reject_counts(prepared: Mapping[str, Artifact]) -> dict[str, JsonValue]:
    """Return metrics: rejected documents by reason, quarantined records, and redactions."""
    from components.data.filters.quality import DUPLICATE

    rejected: dict[str, JsonValue] = {}
    quarantined: dict[str, JsonValue] = {}
    redacted: dict[str, JsonValue] = {}
    for corpus, artifact in prepared.items():
        languages: Any = artifact.statistics["languages"]
        rejected[corpus] = {
            language: {**counts["rejected"], DUPLICATE: counts["duplicates"]}
            for language, counts in languages.items()
        }
        quarantined[corpus] = artifact.statistics.get("quarantined", {})
        redacted[corpus] = artifact.statistics.get("redacted", {})
    return {"rejected": rejected, "quarantined": quarantined, "redacted": redacted}
