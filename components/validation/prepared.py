"""Validate prepared corpora, before they are trained on.

What is judged: the shards as files, the splits as wholes, the list of kept documents against the separators in the shards,
what became of the raw documents, and over all corpora together that nothing held out is trained on in any stage. Not
judged: whether ids decode to the texts of the documents; the tokenizer proves its encoding itself, in every run.

Design decision: everything is streamed (`shards`, `documents`), and Great Expectations sees counts, one row for each split,
language or corpus. Memory: see `repeats`; besides, 16 bytes for each held-out document, of which there are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import JsonValue

from components.core.files import read_json, write_json
from components.validation.checks import TableCheck, run_checks
from components.validation.config import ValidationConfig, languages_of
from components.validation.document_checks import (
    DOCUMENT_DEFECTS,
    TRAIN,
    LanguageDocuments,
    SplitDocuments,
    find_train_leakage,
    judge_documents,
    languages_of_tables,
)
from components.validation.drift import FIRST_VERSION, compared_with
from components.validation.mergeable_stats import RuleViolations
from components.validation.outcome import (
    CountContext,
    RuleResult,
    ViolationCount,
    in_words,
    not_judged,
)
from components.validation.profile import OTHER
from components.validation.shard_checks import (
    Index,
    read_index,
    table_of_shards,
    table_of_splits,
    unlisted_shards,
)
from components.validation.suite_files import Suites
from components.validation.suites import read_suites

METRICS_JSON = "figures.json"
_HELD_OUT = "held-out/"
_DRIFT = "prepared-drift"
_FRACTIONS = ("rejected_fraction", "duplicate_fraction")

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By corpus, language and name: the columns of `prepared-languages`."""


@dataclass(frozen=True)
class _Prepared:
    """A prepared corpus, as far as it is judged."""

    corpus: str
    index: Index
    shards: pd.DataFrame
    splits: pd.DataFrame
    documents: Mapping[str, SplitDocuments]
    languages: Mapping[str, LanguageDocuments]

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        return {
            name: _figures(one)
            for name, one in self.languages.items()
            if name != OTHER or one.num_raw
        }


def validate_prepared(
    folder: Path,
    *,
    prepared: Mapping[str, Path],
    config: ValidationConfig,
    docs: Path,
    previous: Figures | None = None,
    previous_version: str = "",
    suites: Suites | None = None,
) -> dict[str, JsonValue]:
    """Hold prepared corpora against the suites `prepared-*`.

    Args:
        folder: the artifact's folder, to be filled.
        prepared: the folder of each prepared corpus, by the corpus's name.
        config: the limits.
        docs: folder of all Data Docs.
        previous: the figures of the previous version, as `read_figures` gives them; None if there is none.
        previous_version: what Data Docs call it.
        suites: the rules; None means those of `config`, a relative folder starting at the working directory.

    Returns:
        Statistics: `num_expectations`, `num_passed`, `warnings`, and `corpora` with documents and sequences of each split.

    Raises:
        ValidationFailed: a rule is broken, or an index or a list of documents cannot be read.
        ConfigError: a corpus that is not one of ours.
    """
    everything = [_read(corpus, place) for corpus, place in prepared.items()]
    checks = [check for one in everything for check in _checks_of(one, config)]
    drift, skipped = _drift(everything, previous or {}, previous_version, config)
    write_json(folder / METRICS_JSON, {one.corpus: one.figures for one in everything})
    passed = run_checks(
        folder,
        "prepared corpora",
        [*checks, _held_out_check(prepared, config), *drift],
        docs=docs,
        suites=read_suites(config) if suites is None else suites,
        not_judged=skipped,
    )
    counts: dict[str, JsonValue] = {
        one.corpus: {
            row["split"]: {"documents": row["num_documents"], "sequences": row["num_sequences"]}
            for row in one.splits.to_dict("records")
        }
        for one in everything
    }
    return {**passed, "corpora": counts}


def read_figures(folder: Path) -> Figures | None:
    """The figures that an earlier validation left in its artifact's folder; None if it left none."""
    path = folder / METRICS_JSON
    figures: Figures | None = read_json(path) if path.is_file() else None
    return figures


def _read(corpus: str, folder: Path) -> _Prepared:
    languages, index = languages_of(corpus), read_index(folder)
    documents, separators = judge_documents(folder, index, languages)
    contents = {path: found for one in separators.values() for path, found in one.contents.items()}
    shards = table_of_shards(index, {**contents, **unlisted_shards(folder, index)})
    splits = table_of_splits(
        index, separators, {name: one.num_documents for name, one in documents.items()}
    )
    return _Prepared(
        corpus, index, shards, splits, documents, languages_of_tables(folder, languages)
    )


def _checks_of(one: _Prepared, config: ValidationConfig) -> list[TableCheck]:
    languages = languages_of(one.corpus)
    parameters: dict[str, JsonValue] = {
        **config.limits,
        **one.index.model_dump(include={"context_length", "eot_id", "num_ids"}),
        "max_dropped_tokens": one.index.context_length - 1,
        "languages": list[JsonValue](languages),
        "splits": [TRAIN, *(_HELD_OUT + language for language in languages)],
    }

    def check(
        suite: str, unit: str, table: pd.DataFrame, key: str, evidence: CountContext | None = None
    ) -> TableCheck:
        return TableCheck(
            suite=suite,
            subject=one.corpus,
            unit=unit,
            table=table,
            key=(key,),
            parameters=parameters,
            evidence=evidence,
        )

    present = {
        name: split for name, split in one.documents.items() if name != OTHER or split.num_documents
    }
    rows = [_row_of_defects(name, split) for name, split in present.items()]
    return [
        check("prepared-shards", "shards", one.shards, "path"),
        check("prepared-splits", "splits", one.splits, "split"),
        check(
            "prepared-documents",
            "splits",
            pd.DataFrame(rows),
            "split",
            _evidence_of_documents(present),
        ),
        check(
            "prepared-languages",
            "languages",
            _table(one.figures),
            "language",
            _evidence_of_names(one.languages),
        ),
    ]


def _table(figures: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{"language": name, **row} for name, row in figures.items()])


def _row_of_defects(split: str, one: SplitDocuments) -> dict[str, Any]:
    """Columns: split, num_documents, num_tokens, and `num_` for each of `DOCUMENT_DEFECTS`: documents that have it."""
    counts = {f"num_{name}": found.num for name, found in one.defects.items()}
    return {
        "split": split,
        "num_documents": one.num_documents,
        "num_tokens": one.num_tokens,
        **counts,
    }


def _figures(one: LanguageDocuments) -> dict[str, float]:
    """Columns of `prepared-languages`, besides the language."""
    return {
        "num_raw": one.num_raw,
        "num_kept": one.num_kept,
        "num_rejected": one.num_rejected,
        "num_duplicates": one.num_duplicates,
        "rejected_fraction": one.num_rejected / max(one.num_raw, 1),
        "duplicate_fraction": one.num_duplicates / max(one.num_raw, 1),
        "num_repeated_names": one.repeated_names.num,
        "repeated_names_fraction": one.repeated_names.num / max(one.num_raw, 1),
    }


def _evidence_of_documents(splits: Mapping[str, SplitDocuments]) -> CountContext:
    columns = {
        f"num_{name}": {split: _counted(one.defects[name], value) for split, one in splits.items()}
        for name, value in DOCUMENT_DEFECTS.items()
    }
    return CountContext(
        unit="documents", num_all=sum(one.num_documents for one in splits.values()), columns=columns
    )


def _evidence_of_names(languages: Mapping[str, LanguageDocuments]) -> CountContext:
    counts = {name: _counted(one.repeated_names, "") for name, one in languages.items()}
    num_all = sum(one.num_raw for one in languages.values())
    columns = dict.fromkeys(("num_repeated_names", "repeated_names_fraction"), counts)
    return CountContext(unit="documents", num_all=num_all, columns=columns)


def _counted(found: RuleViolations, value: str, place: str = "") -> ViolationCount:
    return ViolationCount(
        found.num, tuple(place + in_words(example, value) for example in found.examples)
    )


def _held_out_check(prepared: Mapping[str, Path], config: ValidationConfig) -> TableCheck:
    """The held-out documents of every corpus, and how many of them any corpus trains on."""
    found = find_train_leakage(prepared)
    rows = [
        {"corpus": corpus, "num_held_out": num, "num_trained_on": hits.num}
        for corpus, (num, hits) in found.items()
    ]
    counts = {
        corpus: _counted(hits, "trained_on_in", f"{corpus}/") for corpus, (_, hits) in found.items()
    }
    return TableCheck(
        suite="prepared-held-out",
        subject="all corpora",
        unit="corpora",
        table=pd.DataFrame(rows),
        key=("corpus",),
        parameters=config.limits,
        evidence=CountContext(
            unit="held-out documents",
            num_all=sum(num for num, _ in found.values()),
            columns={"num_trained_on": counts},
        ),
    )


def _drift(
    everything: list[_Prepared], previous: Figures, version: str, config: ValidationConfig
) -> tuple[list[TableCheck], list[RuleResult]]:
    """What to compare with the previous version, and the corpora for which there is none."""
    if config.drift == "off":
        return [], []
    known = [one for one in everything if one.corpus in previous]
    checks = [
        TableCheck(
            suite=_DRIFT,
            subject=one.corpus,
            unit="languages",
            table=_table(_changes(one.figures, previous[one.corpus])),
            key=("language",),
            parameters=config.limits,
            evidence=_evidence_of_changes(_changes(one.figures, previous[one.corpus])),
            warn_only=config.drift == "warn",
            notes=compared_with(version),
        )
        for one in known
    ]
    return checks, [
        not_judged(_DRIFT, one.corpus, FIRST_VERSION) for one in everything if one not in known
    ]


def _changes(
    now: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Of each language of both versions the fractions of each, and by how much they differ."""
    return {
        language: {
            column: value
            for name in _FRACTIONS
            for column, value in (
                (name, row[name]),
                (f"previous_{name}", before[language][name]),
                (f"{name}_change", abs(row[name] - before[language][name])),
            )
        }
        for language, row in now.items()
        if language in before
    }


def _evidence_of_changes(changes: Mapping[str, Mapping[str, float]]) -> CountContext:
    columns = {
        f"{name}_change": {
            language: ViolationCount(
                1, (f"{language} ({row[name]:.1%}, was {row[f'previous_{name}']:.1%})",)
            )
            for language, row in changes.items()
        }
        for name in _FRACTIONS
    }
    return CountContext(unit="languages", num_all=len(changes), columns=columns)
