"""Validate prepared corpora before training.

Checked: shards as files, splits, the list of kept documents against the separators in the shards,
the fate of raw documents, and that no held-out document is in a training split of any corpus. Not
checked: that ids decode to the texts; the tokenizer verifies its encoding in each run.

All files are streamed, and Great Expectations gets counts: a row per split, language or corpus.
Memory: see `duplicate_keys`, plus 16 bytes per held-out document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import JsonValue

from components.core.files import read_json, write_json
from components.data.config import CorpusConfig, DataConfig
from components.validation.checks import TableCheck, run_checks
from components.validation.config import ValidationConfig
from components.validation.document_checks import (
    PREPARED_DEFECTS,
    TRAIN,
    LanguageDocuments,
    SplitDocuments,
    check_documents,
    count_languages,
    find_train_leakage,
)
from components.validation.drift import (
    NO_PREVIOUS_VERSION,
    PREPARED_SUITE,
    LanguageMetrics,
    prepared_drift_check,
)
from components.validation.dropped_text import dropped_shares, limit_parameters, share_column
from components.validation.profile import OTHER
from components.validation.rule_results import CountContext, ViolationCount, skipped_suite
from components.validation.shard_checks import (
    ShardIndex,
    read_index,
    shards_table,
    splits_table,
    unlisted_shards,
)
from components.validation.suite_files import Suites
from components.validation.suites import read_suites

METRICS_JSON = "metrics.json"
_HELD_OUT = "held-out/"

CorpusMetrics = Mapping[str, LanguageMetrics]
"""By corpus."""


@dataclass(frozen=True)
class _PreparedCorpus:
    """The counts of a prepared corpus."""

    corpus: str
    rules: CorpusConfig
    index: ShardIndex
    shards: pd.DataFrame
    splits: pd.DataFrame
    documents: Mapping[str, SplitDocuments]
    languages: Mapping[str, LanguageDocuments]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By language, without `OTHER` if it has no documents."""
        return {
            name: _language_metrics(language)
            for name, language in self.languages.items()
            if name != OTHER or language.num_raw
        }


def validate_prepared(
    folder: Path,
    *,
    prepared: Mapping[str, Path],
    config: ValidationConfig,
    data: DataConfig,
    gx_root: Path,
    previous: CorpusMetrics | None = None,
    previous_version: str = "",
    suites: Suites | None = None,
) -> dict[str, JsonValue]:
    """Check prepared corpora with the suites `prepared-*`, and write `metrics.json`.

    Args:
        folder: the artifact's folder, to be filled.
        prepared: the folder of each prepared corpus, by name.
        config: the limits.
        data: the languages and rules of each corpus.
        gx_root: folder of the Great Expectations project.
        previous: the metrics of the previous version (`read_metrics`); None if there is none.
        previous_version: its name in Data Docs.
        suites: None: those of `config`, with a relative folder in the working directory.

    Returns:
        Statistics: `num_expectations`, `num_passed`, `num_warnings`, `warnings`, and `corpora` with
        documents and sequences of each split.

    Raises:
        ValidationFailedError: a rule is broken, or an index or a table cannot be read.
    """
    corpora = [
        _read_corpus(corpus, path, data.corpora[corpus]) for corpus, path in prepared.items()
    ]
    previous = previous or {}
    checks = []
    drift_checks = []
    skipped = []
    for corpus in corpora:
        name = corpus.corpus
        limits = config.for_corpus(name)
        checks += _corpus_checks(corpus, limits)
        if config.drift == "off":
            continue
        if name in previous:
            drift_checks.append(
                prepared_drift_check(name, corpus.metrics, previous[name], limits, previous_version)
            )
        else:
            skipped.append(skipped_suite(PREPARED_SUITE, name, NO_PREVIOUS_VERSION))
    write_json(folder / METRICS_JSON, {corpus.corpus: corpus.metrics for corpus in corpora})
    statistics = run_checks(
        folder,
        "prepared corpora",
        [*checks, _held_out_check(prepared, config), *drift_checks],
        gx_root=gx_root,
        suites=read_suites(config) if suites is None else suites,
        skipped=skipped,
    )
    counts: dict[str, JsonValue] = {}
    for corpus in corpora:
        counts[corpus.corpus] = {
            row["split"]: {"documents": row["num_documents"], "sequences": row["num_sequences"]}
            for row in corpus.splits.to_dict("records")
        }
    return {**statistics, "corpora": counts}


def read_metrics(folder: Path) -> CorpusMetrics | None:
    """Read the metrics of an earlier validation; None if it has none."""
    path = folder / METRICS_JSON
    metrics: CorpusMetrics | None = read_json(path) if path.is_file() else None
    return metrics


def _read_corpus(corpus: str, folder: Path, rules: CorpusConfig) -> _PreparedCorpus:
    languages = rules.languages
    index = read_index(folder)
    documents, separators = check_documents(folder, index, languages, exact_dedup=rules.exact_dedup)
    contents = unlisted_shards(folder, index)
    for check in separators.values():
        contents |= check.shard_contents
    num_documents = {name: split.num_documents for name, split in documents.items()}
    return _PreparedCorpus(
        corpus,
        rules,
        index,
        shards_table(index, contents),
        splits_table(index, separators, num_documents),
        documents,
        count_languages(folder, languages),
    )


def _corpus_checks(corpus: _PreparedCorpus, config: ValidationConfig) -> list[TableCheck]:
    languages = corpus.rules.languages
    parameters: dict[str, JsonValue] = {
        **config.limits,
        **limit_parameters(corpus.rules.max_dropped_share),
        **corpus.index.model_dump(include={"context_length", "eot_id", "num_ids"}),
        "max_dropped_tokens": corpus.index.context_length - 1,
        "languages": list[JsonValue](languages),
        "splits": [TRAIN, *(_HELD_OUT + language for language in languages)],
    }

    def check(
        suite: str, table: pd.DataFrame, unit: str, context: CountContext | None = None
    ) -> TableCheck:
        return TableCheck(
            suite=suite,
            subject=corpus.corpus,
            unit=unit,
            table=table,
            parameters=parameters,
            context=context,
        )

    splits = {
        name: split
        for name, split in corpus.documents.items()
        if name != OTHER or split.num_documents
    }
    documents = pd.DataFrame([_split_row(name, split) for name, split in splits.items()])
    metrics = pd.DataFrame([{"language": name, **row} for name, row in corpus.metrics.items()])
    return [
        check("prepared-shards", corpus.shards, "shards"),
        check("prepared-splits", corpus.splits, "splits"),
        check("prepared-documents", documents, "splits", _document_context(splits)),
        check("prepared-languages", metrics, "languages", _language_context(corpus.languages)),
    ]


def _split_row(name: str, split: SplitDocuments) -> dict[str, Any]:
    """Return a row of `prepared-documents`: the documents with each of `PREPARED_DEFECTS`."""
    return {
        "split": name,
        "num_documents": split.num_documents,
        "num_tokens": split.num_tokens,
        **{f"num_{defect}": violations.num for defect, violations in split.defects.items()},
    }


def _language_metrics(language: LanguageDocuments) -> dict[str, float]:
    """Return the columns of `prepared-languages` without the language."""
    num_raw = max(language.num_raw, 1)
    return {
        "num_raw": language.num_raw,
        "num_kept": language.num_kept,
        "num_rejected": language.num_rejected,
        "num_duplicates": language.num_duplicates,
        "rejected_fraction": language.num_rejected / num_raw,
        "duplicate_fraction": language.num_duplicates / num_raw,
        "num_duplicate_paths": language.duplicate_paths.num,
        "duplicate_path_fraction": language.duplicate_paths.num / num_raw,
        "num_raw_bytes": language.text.num_bytes,
        "num_kept_bytes": language.text.kept_bytes,
        **dropped_shares(language.text),
    }


def _document_context(splits: Mapping[str, SplitDocuments]) -> CountContext:
    columns = {}
    for defect, value_name in PREPARED_DEFECTS.items():
        columns[f"num_{defect}"] = {
            name: ViolationCount.of(split.defects[defect], value_name)
            for name, split in splits.items()
        }
    num_documents = sum(split.num_documents for split in splits.values())
    return CountContext(unit="documents", num_all=num_documents, columns=columns)


def _language_context(languages: Mapping[str, LanguageDocuments]) -> CountContext:
    paths = {
        name: ViolationCount.of(language.duplicate_paths, "")
        for name, language in languages.items()
    }
    columns = dict.fromkeys(("num_duplicate_paths", "duplicate_path_fraction"), paths)
    for name, language in languages.items():
        for item in language.text.steps():
            violations = ViolationCount(
                item.dropped_bytes, tuple(item.examples()), item.describe(name)
            )
            columns.setdefault(share_column(item.step), {})[name] = violations
    return CountContext(
        unit="documents",
        num_all=sum(language.num_raw for language in languages.values()),
        columns=columns,
    )


def _held_out_check(prepared: Mapping[str, Path], config: ValidationConfig) -> TableCheck:
    """Return the check that no held-out document is in a training split of any corpus."""
    rows = []
    counts = {}
    num_all = 0
    for corpus, (num_held_out, violations) in find_train_leakage(prepared).items():
        num_all += num_held_out
        rows.append(
            {"corpus": corpus, "num_held_out": num_held_out, "num_in_train": violations.num}
        )
        counts[corpus] = ViolationCount.of(violations, "in_train_of", f"{corpus}/")
    return TableCheck(
        suite="prepared-held-out",
        subject="all corpora",
        unit="corpora",
        table=pd.DataFrame(rows),
        parameters=config.limits,
        context=CountContext(
            unit="held-out documents", num_all=num_all, columns={"num_in_train": counts}
        ),
    )
