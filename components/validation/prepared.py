"""Validate prepared corpora, before they are trained on.

What is judged: the shards as files, the splits as wholes, the list of kept documents against the separators in the shards,
and over all corpora together that nothing held out is trained on in any stage. Not judged: whether ids decode to the texts
of the documents; the tokenizer proves its encoding itself, in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import JsonValue

from components.validation.checks import Check, run_checks
from components.validation.config import ValidationConfig, languages_of
from components.validation.shards import Index, read_documents, read_index, read_shards, table_of_shards, table_of_splits

_TRAIN = "train"
_HELD_OUT = "held-out/"
_COUNTED = ["split", "num_documents", "num_sequences"]


@dataclass(frozen=True)
class _Prepared:
    """A prepared corpus, as far as it is judged."""

    corpus: str
    index: Index
    shards: pd.DataFrame
    splits: pd.DataFrame
    documents: pd.DataFrame


def validate_prepared(
    folder: Path, *, prepared: Mapping[str, Path], config: ValidationConfig, docs: Path
) -> dict[str, JsonValue]:
    """Hold prepared corpora against the suites `prepared-*`.

    Args:
        folder: the artifact's folder, to be filled.
        prepared: the folder of each prepared corpus, by the corpus's name.
        docs: folder of all Data Docs.

    Returns:
        Statistics: `num_expectations`, `num_passed`, and `corpora` with documents and sequences of each split.

    Raises:
        ValidationFailed: a rule is broken, or an index or a list of documents cannot be read.
        ConfigError: a corpus that is not one of ours.
    """
    everything = [_read(corpus, place) for corpus, place in prepared.items()]
    checks = [check for one in everything for check in _checks_of(one, config)]
    passed = run_checks(folder, "prepared corpora", [*checks, _held_out_check(everything)], docs=docs)
    counts: dict[str, JsonValue] = {
        one.corpus: {
            split: {"documents": num_documents, "sequences": num_sequences}
            for split, num_documents, num_sequences in one.splits[_COUNTED].itertuples(index=False)
        }
        for one in everything
    }
    return {**passed, "corpora": counts}


def _read(corpus: str, folder: Path) -> _Prepared:
    index, documents = read_index(folder), read_documents(folder)
    contents = read_shards(folder, index)
    shards, splits = table_of_shards(index, contents), table_of_splits(index, contents, documents)
    return _Prepared(corpus, index, shards, splits, documents)


def _checks_of(one: _Prepared, config: ValidationConfig) -> list[Check]:
    languages = languages_of(one.corpus)
    parameters: dict[str, JsonValue] = {
        **config.model_dump(mode="json"),
        **one.index.model_dump(include={"context_length", "eot_id", "num_ids"}),
        "max_dropped_tokens": one.index.context_length - 1,
        "languages": list[JsonValue](languages),
        "splits": [_TRAIN, *(_HELD_OUT + language for language in languages)],
    }

    def check(suite: str, unit: str, table: pd.DataFrame, *key: str) -> Check:
        return Check(suite=suite, subject=one.corpus, unit=unit, table=table, key=key, parameters=parameters)

    return [
        check("prepared-shards", "shards", one.shards, "path"),
        check("prepared-splits", "splits", one.splits, "split"),
        check("prepared-documents", "documents", one.documents, "source", "path"),
    ]


def _held_out_check(everything: list[_Prepared]) -> Check:
    """Every held-out document of every corpus, and the corpora in which the same content is trained on."""
    documents = pd.concat([one.documents.assign(corpus=one.corpus) for one in everything], ignore_index=True)
    training = documents[documents["split"] == _TRAIN]
    where = training.groupby("sha256")["corpus"].agg(lambda names: ", ".join(sorted(set(names))))
    held_out = documents[documents["split"] != _TRAIN].copy()
    held_out["trained_on_in"] = held_out["sha256"].map(where).fillna("")
    return Check(
        suite="prepared-held-out",
        subject="all corpora",
        unit="held-out documents",
        table=held_out,
        key=("corpus", "source", "path"),
        parameters={},
    )
