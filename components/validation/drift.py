"""Compare a raw or prepared corpus with its previous version.

A change is not an error by itself, so by default an excessive change is a warning;
`validation.drift` decides. Both versions are given by their profile or metrics, so the previous
corpus need not exist any more. The caller decides which version is the previous one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from components.validation.checks import TableCheck
from components.validation.config import ValidationConfig
from components.validation.mergeable_stats import MAX_EXAMPLES
from components.validation.profile import LanguageProfile, Profile, merge_languages
from components.validation.rule_results import CountContext, ViolationCount

RAW_SUITE = "raw-drift"
PREPARED_SUITE = "prepared-drift"
NO_PREVIOUS_VERSION = "there is no previous version to compare with"
ALL_LANGUAGES = "(all)"
"""The row of the corpus as a whole."""

LanguageMetrics = Mapping[str, Mapping[str, float]]
"""By language and column of `prepared-languages`."""

_FORMATS = {
    "share": "{:.1%} of the bytes",
    "mean_bytes": "{:,.0f} bytes a document",
    "quarantined_share": "{:.2%} quarantined",
}
_FRACTIONS = ("rejected_fraction", "duplicate_fraction")


def raw_drift_check(
    corpus: str, profile: Profile, previous: Profile, config: ValidationConfig, version: str = ""
) -> TableCheck:
    """Return the check of a raw corpus against its previous version, called `version`.

    The table has a row for each language of either version, and for the whole corpus. Columns:
    language; num_new_licenses; `share` of the corpus's bytes, `mean_bytes` per document,
    `quarantined_share` of all records, each also as `previous_*` and, for rules, as `*_change`.
    Undefined values are null: the share of the whole corpus, the mean of no documents, and in rows
    of languages the columns that are known for the whole corpus only.
    """
    languages = list(profile.limits.languages)
    languages += sorted({*profile.languages, *previous.languages}.difference(languages))
    whole = merge_languages(profile.languages.values())
    previous_whole = merge_languages(previous.languages.values())
    rows = []
    for name in languages:
        language = profile.languages.get(name, LanguageProfile())
        previous_language = previous.languages.get(name, LanguageProfile())
        rows.append(
            {
                "language": name,
                **_change(
                    "share", _share(language, whole), _share(previous_language, previous_whole)
                ),
                **_mean_change(language, previous_language),
                **_change("quarantined_share", None, None),
                "num_new_licenses": None,
            }
        )
    new_licenses = find_new_licenses(profile, previous)
    rows.append(
        {
            "language": ALL_LANGUAGES,
            **_change("share", None, None),
            **_mean_change(whole, previous_whole),
            **_change("quarantined_share", _quarantined(profile), _quarantined(previous)),
            "num_new_licenses": len(new_licenses),
        }
    )
    context = _raw_context(rows, new_licenses)
    return _drift_check(RAW_SUITE, corpus, rows, context, config, version)


def prepared_drift_check(
    corpus: str,
    metrics: LanguageMetrics,
    previous: LanguageMetrics,
    config: ValidationConfig,
    version: str = "",
) -> TableCheck:
    """Return the check of a prepared corpus against its previous version, called `version`.

    The table has a row for each language of both versions, with the fractions of rejected and of
    duplicate documents, also as `previous_*` and `*_change`.
    """
    rows: list[dict[str, Any]] = []
    for language in metrics:
        if language not in previous:
            continue
        row: dict[str, Any] = {"language": language}
        for name in _FRACTIONS:
            row |= _change(name, metrics[language][name], previous[language][name])
        rows.append(row)
    context = CountContext(
        unit="languages",
        num_all=len(rows),
        columns={f"{name}_change": _describe_changes(rows, name, "{:.1%}") for name in _FRACTIONS},
    )
    return _drift_check(PREPARED_SUITE, corpus, rows, context, config, version)


def find_new_licenses(profile: Profile, previous: Profile) -> dict[str, int]:
    """Return the licenses that the previous version certainly lacks, with their documents."""
    licenses = merge_languages(profile.languages.values()).licenses
    previous_licenses = merge_languages(previous.languages.values()).licenses
    return {
        name: num
        for name, num in licenses.counts.items()
        if previous_licenses.definitely_absent(name)
    }


def _drift_check(
    suite: str,
    corpus: str,
    rows: list[dict[str, Any]],
    context: CountContext,
    config: ValidationConfig,
    version: str,
) -> TableCheck:
    return TableCheck(
        suite=suite,
        subject=corpus,
        unit="languages",
        table=pd.DataFrame(rows),
        parameters=config.limits,
        context=context,
        warn_only=config.drift == "warn",
        notes=(f"Compared with {version}.",) if version else (),
    )


def _change(name: str, value: float | None, previous: float | None) -> dict[str, float | None]:
    change = None if value is None or previous is None else abs(value - previous)
    return {name: value, f"previous_{name}": previous, f"{name}_change": change}


def _mean_change(language: LanguageProfile, previous: LanguageProfile) -> dict[str, float | None]:
    mean = _mean_bytes(language)
    previous_mean = _mean_bytes(previous)
    change = abs(mean / previous_mean - 1) if mean is not None and previous_mean else None
    return {"mean_bytes": mean, "previous_mean_bytes": previous_mean, "mean_bytes_change": change}


def _mean_bytes(language: LanguageProfile) -> float | None:
    if not language.num_documents:
        return None
    return language.size_bytes.total / language.num_documents


def _share(language: LanguageProfile, whole: LanguageProfile) -> float:
    return language.size_bytes.total / max(whole.size_bytes.total, 1)


def _quarantined(profile: Profile) -> float:
    return profile.num_quarantined / max(profile.num_documents + profile.num_quarantined, 1)


def _raw_context(rows: list[dict[str, Any]], new_licenses: dict[str, int]) -> CountContext:
    columns = {
        f"{name}_change": _describe_changes(rows, name, value_format)
        for name, value_format in _FORMATS.items()
    }
    most_frequent = sorted(new_licenses.items(), key=lambda item: (-item[1], item[0]))
    licenses = [f"{name} ({num:,} documents)" for name, num in most_frequent[:MAX_EXAMPLES]]
    columns["num_new_licenses"] = {ALL_LANGUAGES: ViolationCount(1, tuple(licenses))}
    return CountContext(unit="rows", num_all=len(rows), columns=columns)


def _describe_changes(
    rows: list[dict[str, Any]], name: str, value_format: str
) -> dict[str, ViolationCount]:
    """Return by language the text "Python (37.5%, was 16.7%)" for a column with its change."""
    descriptions = {}
    for row in rows:
        if row[f"{name}_change"] is not None:
            value = value_format.format(row[name])
            previous = value_format.format(row[f"previous_{name}"])
            text = f"{row['language']} ({value}, was {previous})"
            descriptions[row["language"]] = ViolationCount(1, (text,))
    return descriptions
