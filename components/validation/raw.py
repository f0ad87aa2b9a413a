"""Validate raw corpora, before they are prepared.

Lines that cannot be read at all (no JSON, no UTF-8, another field, a NUL) are already refused, with file and line, by
`components.data.records`; the suites `raw-*` judge what can be read. Quality filters and deduplication are preparation,
not validation: a document that is merely unwanted is no reason to stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pydantic import JsonValue

from components.data.records import read_corpus
from components.validation.checks import Check, run_checks
from components.validation.config import ValidationConfig, languages_of
from components.validation.profile import profile


def validate_raw(folder: Path, *, corpora: Mapping[str, Path], config: ValidationConfig, docs: Path) -> dict[str, JsonValue]:
    """Hold raw corpora against the suites `raw-*`.

    Args:
        folder: the artifact's folder, to be filled.
        corpora: the folder of JSON Lines files of each corpus, by its name.
        docs: folder of all Data Docs.

    Returns:
        Statistics: `num_expectations`, `num_passed`, and `corpora` with documents and bytes of each language.

    Raises:
        RecordError: a line cannot be read.
        ValidationFailed: a rule is broken.
        ConfigError: a corpus that is not one of ours.
    """
    checks: list[Check] = []
    for corpus in corpora:
        checks += checks_of(corpus, read_corpus(corpora[corpus]), config)
    passed = run_checks(folder, "raw corpora", checks, docs=docs)
    counts: dict[str, JsonValue] = {
        check.subject: {
            language: {"documents": num_documents, "bytes": size_bytes}
            for language, num_documents, size_bytes in check.table.itertuples(index=False)
        }
        for check in checks
        if check.suite == "raw-languages"
    }
    return {**passed, "corpora": counts}


def checks_of(corpus: str, documents: pa.Table, config: ValidationConfig) -> list[Check]:
    """What there is to check about one corpus: its documents one by one, and its languages."""
    languages = languages_of(corpus)
    parameters: dict[str, JsonValue] = {**config.model_dump(mode="json"), "languages": list[JsonValue](languages)}
    table = profile(documents)
    return [
        Check(
            suite="raw-documents",
            subject=corpus,
            unit="documents",
            table=table,
            key=("source", "path"),
            parameters=parameters,
        ),
        Check(
            suite="raw-languages",
            subject=corpus,
            unit="languages",
            table=_languages(table, languages),
            key=("language",),
            parameters=parameters,
        ),
    ]


def _languages(table: pd.DataFrame, languages: list[str]) -> pd.DataFrame:
    """One row for each expected language, also for one without a document: documents and bytes."""
    own = table.groupby("language")["num_bytes"].agg(["count", "sum"]).reindex(languages, fill_value=0)
    return pd.DataFrame(
        {"language": languages, "num_documents": own["count"].astype(int), "size_bytes": own["sum"].astype(int)}
    ).reset_index(drop=True)
