"""Compare a raw corpus with its previous version.

Design decision: a corpus that changes is no error by itself, so by default what has changed too much is shown and the run
goes on; `validation.drift` decides. Both versions are known by their profiles alone, so the previous corpus need not be
there any more. Not covered: which version is the previous one; whoever calls knows it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from components.validation.checks import TableCheck
from components.validation.config import ValidationConfig
from components.validation.mergeable_stats import MAX_EXAMPLES
from components.validation.outcome import CountContext, ViolationCount
from components.validation.profile import LanguageProfile, Profile, merge_languages

SUITE = "raw-drift"
FIRST_VERSION = "there is no previous version to compare with"
WHOLE = "(all)"
"""The row of the corpus as a whole."""


def drift_check(
    corpus: str, profile: Profile, previous: Profile, config: ValidationConfig, version: str = ""
) -> TableCheck:
    """The check that holds a corpus against its previous version, which Data Docs call `version`.

    One row for each language of either version, and one for the whole. Columns: language; `share` of the corpus's bytes,
    `mean_bytes` of a document, `quarantined_share` of all records, each also with `previous_` before it and, as rules use
    it, `_change` behind it; and num_new_licenses. Null where it makes no sense: shares of languages that are the whole,
    means of no documents, and, in the rows of languages, what is known of the whole alone.
    """
    names = [
        *profile.limits.languages,
        *sorted({*profile.languages, *previous.languages} - {*profile.limits.languages}),
    ]
    rows = [_row(name, profile, previous) for name in names] + [_row_of_whole(profile, previous)]
    return TableCheck(
        suite=SUITE,
        subject=corpus,
        unit="languages",
        table=pd.DataFrame(rows),
        key=("language",),
        parameters=config.limits,
        evidence=_evidence(rows, new_licenses(profile, previous)),
        warn_only=config.drift == "warn",
        notes=compared_with(version),
    )


def compared_with(version: str) -> tuple[str, ...]:
    """The note that says which version is the previous one, where that is known."""
    return (f"Compared with {version}.",) if version else ()


def new_licenses(profile: Profile, previous: Profile) -> dict[str, int]:
    """Licenses that the previous version is certain not to have had, and the documents under each."""
    before = _whole(previous).licenses
    return {
        name: num
        for name, num in _whole(profile).licenses.counts.items()
        if before.definitely_absent(name)
    }


def _whole(profile: Profile) -> LanguageProfile:
    return merge_languages(profile.languages.values())


def _row(name: str, profile: Profile, previous: Profile) -> dict[str, Any]:
    now, before = (one.languages.get(name, LanguageProfile()) for one in (profile, previous))
    share, previous_share = (
        _share(one, _whole(all_)) for one, all_ in ((now, profile), (before, previous))
    )
    return {
        "language": name,
        "share": share,
        "previous_share": previous_share,
        "share_change": abs(share - previous_share),
        **_means(now, before),
        "quarantined_share": None,
        "previous_quarantined_share": None,
        "quarantined_share_change": None,
        "num_new_licenses": None,
    }


def _row_of_whole(profile: Profile, previous: Profile) -> dict[str, Any]:
    share, previous_share = _quarantined(profile), _quarantined(previous)
    return {
        "language": WHOLE,
        "share": None,
        "previous_share": None,
        "share_change": None,
        **_means(_whole(profile), _whole(previous)),
        "quarantined_share": share,
        "previous_quarantined_share": previous_share,
        "quarantined_share_change": abs(share - previous_share),
        "num_new_licenses": len(new_licenses(profile, previous)),
    }


def _means(now: LanguageProfile, before: LanguageProfile) -> dict[str, float | None]:
    mean, previous = (
        one.size_bytes.total / one.num_documents if one.num_documents else None
        for one in (now, before)
    )
    change = abs(mean / previous - 1) if mean is not None and previous else None
    return {"mean_bytes": mean, "previous_mean_bytes": previous, "mean_bytes_change": change}


def _share(part: LanguageProfile, whole: LanguageProfile) -> float:
    return part.size_bytes.total / max(whole.size_bytes.total, 1)


def _quarantined(profile: Profile) -> float:
    return profile.num_quarantined / max(profile.num_documents + profile.num_quarantined, 1)


def _evidence(rows: list[dict[str, Any]], licenses: dict[str, int]) -> CountContext:
    """What changed from what to what, in words."""
    wordings = {
        "share": "{:.1%} of the bytes",
        "mean_bytes": "{:,.0f} bytes a document",
        "quarantined_share": "{:.2%} set aside",
    }
    columns = {
        f"{name}_change": {
            row["language"]: ViolationCount(1, (_change(row, name, wording),))
            for row in rows
            if row[f"{name}_change"] is not None
        }
        for name, wording in wordings.items()
    }
    most = sorted(licenses.items(), key=lambda item: (-item[1], item[0]))[:MAX_EXAMPLES]
    named = tuple(f"{name} ({num:,} documents)" for name, num in most)
    return CountContext(
        unit="rows",
        num_all=len(rows),
        columns={**columns, "num_new_licenses": {WHOLE: ViolationCount(1, named)}},
    )


def _change(row: dict[str, Any], name: str, wording: str) -> str:
    return f"{row['language']} ({wording.format(row[name])}, was {wording.format(row[f'previous_{name}'])})"
