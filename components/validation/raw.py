"""Validate raw corpora before preparation.

Great Expectations gets a row per language with the counts of a `Profile` over all documents, so its
cost does not depend on the size of the corpus. A record of `data/` that cannot be read raises an
error (`components.data.sources.records`); quality filters and deduplication belong to preparation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.files import read_json, write_json
from components.data.config import DataConfig
from components.data.sources.records import list_corpus_files, read_corpus_file
from components.validation.checks import TableCheck, run_checks
from components.validation.config import ValidationConfig
from components.validation.drift import NO_PREVIOUS_VERSION, RAW_SUITE, raw_drift_check
from components.validation.profile import (
    RAW_DEFECTS,
    LanguageProfile,
    Profile,
    ProfileLimits,
    QuarantineSummary,
    profile_corpus,
)
from components.validation.rule_results import CountContext, ViolationCount, skipped_suite
from components.validation.suite_files import Suites
from components.validation.suites import read_suites

PROFILE_JSON = "profile.json"
_FORMAT = 2
"""Raised if earlier profiles cannot be compared with new ones."""


def validate_raw(
    folder: Path,
    *,
    config: ValidationConfig,
    data: DataConfig,
    gx_root: Path,
    corpora: Mapping[str, Path] | None = None,
    profiles: Mapping[str, Profile] | None = None,
    previous: Mapping[str, Profile] | None = None,
    previous_version: str = "",
    quarantined: Mapping[str, QuarantineSummary] | None = None,
    suites: Suites | None = None,
) -> dict[str, JsonValue]:
    """Check raw corpora with the suites `raw-*`, and write their profiles to `profile.json`.

    Args:
        folder: the artifact's folder, to be filled.
        config: the limits.
        data: the languages of each corpus.
        gx_root: folder of the Great Expectations project.
        corpora: corpora to profile, by name: the folder of their JSON Lines files.
        profiles: profiles of other corpora, by name, with the limits of `config`.
        previous: the profiles of the previous version (`read_profiles`); None if there is none.
        previous_version: its name in Data Docs.
        quarantined: quarantined records by corpus, for a page of Data Docs.
        suites: None: those of `config`, with a relative folder in the working directory.

    Returns:
        Statistics: `num_expectations`, `num_passed`, `num_warnings`, `warnings`, and `corpora` with
        documents and bytes of each language.

    Raises:
        DataError: a folder has no corpus.
        RecordError: a line cannot be read.
        ValidationFailedError: a rule is broken.
        ConfigError: a profile has other limits.
    """
    all_profiles = {
        corpus: profile_folder(path, data.corpora[corpus].languages, config.for_corpus(corpus))
        for corpus, path in (corpora or {}).items()
    }
    for corpus, profile in (profiles or {}).items():
        languages = data.corpora[corpus].languages
        expected = ProfileLimits.for_corpus(languages, config.for_corpus(corpus))
        _require_same_limits(corpus, profile, expected)
        all_profiles[corpus] = profile
    previous = previous or {}
    checks = []
    drift_checks = []
    skipped = []
    for corpus, profile in all_profiles.items():
        limits = config.for_corpus(corpus)
        checks += corpus_checks(corpus, profile, limits)
        if config.drift == "off":
            continue
        if corpus in previous:
            drift_checks.append(
                raw_drift_check(corpus, profile, previous[corpus], limits, previous_version)
            )
        else:
            skipped.append(skipped_suite(RAW_SUITE, corpus, NO_PREVIOUS_VERSION))
    _write_profiles(folder, all_profiles)
    statistics = run_checks(
        folder,
        "raw corpora",
        checks + drift_checks,
        gx_root=gx_root,
        suites=read_suites(config) if suites is None else suites,
        skipped=skipped,
        quarantined=quarantined,
    )
    counts: dict[str, JsonValue] = {}
    for corpus, profile in all_profiles.items():
        counts[corpus] = {
            name: {"documents": language.num_documents, "bytes": language.size_bytes.total}
            for name, language in _required_languages(profile).items()
        }
    return {**statistics, "corpora": counts}


def _write_profiles(folder: Path, profiles: Mapping[str, Profile]) -> None:
    corpora = {corpus: profile.model_dump(mode="json") for corpus, profile in profiles.items()}
    write_json(folder / PROFILE_JSON, {"format": _FORMAT, "corpora": corpora})


def read_profiles(folder: Path) -> dict[str, Profile] | None:
    """Read the profiles of an earlier validation; None if they cannot be compared."""
    path = folder / PROFILE_JSON
    document = read_json(path) if path.is_file() else {}
    if document.get("format") != _FORMAT:
        return None
    return {corpus: Profile.parse(profile) for corpus, profile in document["corpora"].items()}


def profile_folder(folder: Path, languages: Sequence[str], config: ValidationConfig) -> Profile:
    """Profile a folder of JSON Lines files, one file in memory at a time."""
    return profile_corpus(_read_batches(folder), ProfileLimits.for_corpus(languages, config))


def _read_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for path in list_corpus_files(folder):
        yield from read_corpus_file(path).to_batches()


def corpus_checks(corpus: str, profile: Profile, config: ValidationConfig) -> list[TableCheck]:
    """Return the checks of a corpus: defects of its documents, and its languages."""
    parameters: dict[str, JsonValue] = {
        **config.limits,
        "languages": list[JsonValue](profile.limits.languages),
    }
    required = _required_languages(profile)
    present = {**required, **profile.languages}
    defects = pd.DataFrame([_defect_row(name, item) for name, item in present.items()])
    languages = pd.DataFrame([_language_row(name, item) for name, item in required.items()])
    return [
        TableCheck(
            suite="raw-documents",
            subject=corpus,
            unit="languages",
            table=defects,
            parameters=parameters,
            context=_defect_context(present, profile.num_documents),
        ),
        TableCheck(
            suite="raw-languages",
            subject=corpus,
            unit="languages",
            table=languages,
            parameters=parameters,
        ),
    ]


def _require_same_limits(corpus: str, profile: Profile, limits: ProfileLimits) -> None:
    if profile.limits != limits:
        raise ConfigError(
            f"the profile of {corpus} has the limits {profile.limits.model_dump(mode='json')}",
            expected=f"{limits.model_dump(mode='json')}",
            fix="profile the corpus with the limits of this recipe",
        )


def _required_languages(profile: Profile) -> dict[str, LanguageProfile]:
    """Return the languages that the corpus must have, including those without documents."""
    return {
        name: profile.languages.get(name, LanguageProfile()) for name in profile.limits.languages
    }


def _defect_row(name: str, language: LanguageProfile) -> dict[str, Any]:
    """Return a row of `raw-documents`: the documents with each defect, and their fraction."""
    counts = {defect: violations.num for defect, violations in language.defects.items()}
    num_documents = max(language.num_documents, 1)
    return {
        "language": name,
        "num_documents": language.num_documents,
        **{f"num_{defect}": num for defect, num in counts.items()},
        **{f"{defect}_fraction": num / num_documents for defect, num in counts.items()},
    }


def _language_row(name: str, language: LanguageProfile) -> dict[str, Any]:
    """Return a row of `raw-languages`; bounds of quantiles are powers of two."""
    return {
        "language": name,
        "num_documents": language.num_documents,
        "size_bytes": language.size_bytes.total,
        "num_chars": language.num_chars.total,
        "min_bytes": language.size_bytes.smallest or 0,
        "mean_bytes": language.size_bytes.total / max(language.num_documents, 1),
        "max_bytes": language.size_bytes.largest or 0,
        "p50_bytes_bound": language.quantile_bound(0.5),
        "p99_bytes_bound": language.quantile_bound(0.99),
        "num_licenses": len(language.licenses.counts),
        "num_extensions": len(language.extensions.counts),
    }


def _defect_context(languages: Mapping[str, LanguageProfile], num_documents: int) -> CountContext:
    columns = {}
    for defect, value_name in RAW_DEFECTS.items():
        counts = {
            name: ViolationCount.of(language.defects[defect], value_name)
            for name, language in languages.items()
        }
        columns[f"num_{defect}"] = counts
        columns[f"{defect}_fraction"] = counts
    return CountContext(unit="documents", num_all=num_documents, columns=columns)
