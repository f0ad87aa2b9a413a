"""Validate raw corpora, before they are prepared.

Lines that cannot be read at all (no JSON, no UTF-8, another field, a NUL) are already refused, with file and line, by
`components.data.sources.records`; the suites `raw-*` judge what can be read. Quality filters and deduplication are preparation,
not validation: a document that is merely unwanted is no reason to stop.

Design decision: Great Expectations never sees a document. It is given one row for each language, with what a `Profile`
counted over all documents, so its cost does not grow with the corpus; the documents that people are shown are those that
the profile names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.files import read_json, write_json
from components.data.sources.records import list_corpus_files, read_corpus_file
from components.validation.checks import TableCheck, run_checks
from components.validation.config import ValidationConfig
from components.validation.drift import FIRST_VERSION, SUITE, drift_check
from components.validation.outcome import (
    CountContext,
    RuleResult,
    ViolationCount,
    in_words,
    not_judged,
)
from components.validation.profile import DEFECTS, LanguageProfile, Limits, Profile, profile_corpus
from components.validation.quarantine_page import QuarantineSummary
from components.validation.suite_files import Suites
from components.validation.suites import read_suites

PROFILE_JSON = "profile.json"
_FORMAT = 2
"""Raised when profiles change so that earlier ones cannot be compared with them."""


def validate_raw(
    folder: Path,
    *,
    config: ValidationConfig,
    docs: Path,
    corpora: Mapping[str, Path] | None = None,
    profiles: Mapping[str, Profile] | None = None,
    previous: Mapping[str, Profile] | None = None,
    previous_version: str = "",
    quarantined: Mapping[str, QuarantineSummary] | None = None,
    suites: Suites | None = None,
) -> dict[str, JsonValue]:
    """Hold raw corpora against the suites `raw-*`, and leave their profiles in `profile.json`.

    Args:
        folder: the artifact's folder, to be filled.
        config: the limits.
        docs: folder of all Data Docs.
        corpora: corpora to be profiled here: the folder of JSON Lines files of each, by its name.
        profiles: corpora that were profiled already, under the limits of `config`.
        previous: the profiles of the previous version, as `read_profiles` gives them; None if there is none.
        previous_version: what Data Docs call it.
        quarantined: the records of each corpus that were set aside, for a page of Data Docs.
        suites: the rules; None means those of `config`, a relative folder starting at the working directory.

    Returns:
        Statistics: `num_expectations`, `num_passed`, `warnings`, and `corpora` with documents and bytes of each language.

    Raises:
        DataError: a folder holds no corpus.
        RecordError: a line cannot be read.
        ValidationFailed: a rule is broken.
        ConfigError: a corpus that is not one of ours, or a profile that was made under other limits.
    """
    given = {
        corpus: _require_same_limits(corpus, profile, config)
        for corpus, profile in (profiles or {}).items()
    }
    every = {
        **{
            corpus: profile_folder(corpus, place, config)
            for corpus, place in (corpora or {}).items()
        },
        **given,
    }
    checks = [
        check for corpus, profile in every.items() for check in checks_of(corpus, profile, config)
    ]
    drift, skipped = _drift(every, previous or {}, previous_version, config)
    write_json(
        folder / PROFILE_JSON,
        {
            "format": _FORMAT,
            "corpora": {name: one.model_dump(mode="json") for name, one in every.items()},
        },
    )
    passed = run_checks(
        folder,
        "raw corpora",
        [*checks, *drift],
        docs=docs,
        suites=read_suites(config) if suites is None else suites,
        not_judged=skipped,
        quarantined=quarantined,
    )
    counts: dict[str, JsonValue] = {
        corpus: {
            language: {"documents": one.num_documents, "bytes": one.size_bytes.total}
            for language, one in _expected(profile).items()
        }
        for corpus, profile in every.items()
    }
    return {**passed, "corpora": counts}


def read_profiles(folder: Path) -> dict[str, Profile] | None:
    """The profiles that an earlier validation left in its artifact's folder; None if they cannot be compared with.

    Raises:
        ConfigError: they are not what was written.
    """
    path = folder / PROFILE_JSON
    document = read_json(path) if path.is_file() else {}
    if document.get("format") != _FORMAT:
        return None
    return {corpus: Profile.parse(profile) for corpus, profile in document["corpora"].items()}


def profile_folder(corpus: str, folder: Path, config: ValidationConfig) -> Profile:
    """The profile of a folder of JSON Lines files, with one file in memory at a time.

    Raises:
        DataError: the folder holds no corpus.
        RecordError: a line cannot be read.
        ConfigError: a corpus that is not one of ours.
    """
    return profile_corpus(_batches(folder), Limits.of(corpus, config))


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for path in list_corpus_files(folder):
        yield from read_corpus_file(path).to_batches()


def checks_of(corpus: str, profile: Profile, config: ValidationConfig) -> list[TableCheck]:
    """What there is to check about one corpus: what its documents have wrong with them, and its languages."""
    parameters: dict[str, JsonValue] = {
        **config.limits,
        "languages": list[JsonValue](profile.limits.languages),
    }
    present = {**_expected(profile), **profile.languages}
    return [
        TableCheck(
            suite="raw-documents",
            subject=corpus,
            unit="languages",
            table=pd.DataFrame([_row_of_defects(name, one) for name, one in present.items()]),
            key=("language",),
            parameters=parameters,
            evidence=_evidence(present, profile.num_documents),
        ),
        TableCheck(
            suite="raw-languages",
            subject=corpus,
            unit="languages",
            table=pd.DataFrame(
                [_row_of_figures(name, one) for name, one in _expected(profile).items()]
            ),
            key=("language",),
            parameters=parameters,
        ),
    ]


def _require_same_limits(corpus: str, profile: Profile, config: ValidationConfig) -> Profile:
    limits = Limits.of(corpus, config)
    if profile.limits != limits:
        raise ConfigError(
            f"the profile of {corpus} was made under the limits {profile.limits.model_dump(mode='json')}",
            expected=f"{limits.model_dump(mode='json')}",
            fix="profile the corpus with the limits of this recipe",
        )
    return profile


def _expected(profile: Profile) -> dict[str, LanguageProfile]:
    """The languages that the corpus has to contain, also those without a document."""
    return {
        language: profile.languages.get(language, LanguageProfile())
        for language in profile.limits.languages
    }


def _row_of_defects(language: str, one: LanguageProfile) -> dict[str, Any]:
    """Columns: language, num_documents, and for each of `DEFECTS` how many documents have it, and their fraction."""
    return {
        "language": language,
        "num_documents": one.num_documents,
        **{f"num_{name}": found.num for name, found in one.defects.items()},
        **{
            f"{name}_fraction": found.num / max(one.num_documents, 1)
            for name, found in one.defects.items()
        },
    }


def _row_of_figures(language: str, one: LanguageProfile) -> dict[str, Any]:
    """One language in figures; sizes are in bytes, `below` is the next power of two. No rule has to use them all."""
    return {
        "language": language,
        "num_documents": one.num_documents,
        "size_bytes": one.size_bytes.total,
        "num_chars": one.num_chars.total,
        "smallest_bytes": one.size_bytes.smallest or 0,
        "mean_bytes": one.size_bytes.total / max(one.num_documents, 1),
        "largest_bytes": one.size_bytes.largest or 0,
        "half_are_below_bytes": one.size_below(0.5),
        "99_percent_are_below_bytes": one.size_below(0.99),
        "num_licenses": len(one.licenses.counts),
        "num_extensions": len(one.extensions.counts),
    }


def _evidence(languages: Mapping[str, LanguageProfile], num_documents: int) -> CountContext:
    return CountContext(
        unit="documents",
        num_all=num_documents,
        columns={
            column: {
                language: ViolationCount(
                    one.defects[name].num,
                    tuple(in_words(it, value) for it in one.defects[name].examples),
                )
                for language, one in languages.items()
            }
            for name, value in DEFECTS.items()
            for column in (f"num_{name}", f"{name}_fraction")
        },
    )


def _drift(
    profiles: Mapping[str, Profile],
    previous: Mapping[str, Profile],
    version: str,
    config: ValidationConfig,
) -> tuple[list[TableCheck], list[RuleResult]]:
    """What to compare with the previous version, and the corpora for which there is none."""
    if config.drift == "off":
        return [], []
    known = {corpus: profile for corpus, profile in profiles.items() if corpus in previous}
    checks = [
        drift_check(corpus, profile, previous[corpus], config, version)
        for corpus, profile in known.items()
    ]
    return checks, [
        not_judged(SUITE, corpus, FIRST_VERSION) for corpus in profiles if corpus not in known
    ]
