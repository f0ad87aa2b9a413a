"""A corpus beside its previous version: what counts as a change, in each direction, and what becomes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpora_on_disk import SMALL, upright_table

from components.core.errors import ValidationFailedError
from components.data.sources.corpus_files import SCHEMA
from components.validation.config import ValidationConfig
from components.validation.drift import drift_check
from components.validation.profile import Limits, Profile, profile_corpus
from components.validation.quarantine_page import QuarantineSummary
from components.validation.raw import read_profiles, validate_raw

SIX = ("C", "C++", "Go", "Java", "JavaScript", "Python")
SHARE, SIZE, QUARANTINED, LICENSES = (
    "multi: The share of no language has changed by more than 5.0% of the corpus",
    "multi: The mean size of a document has changed by at most 25%",
    "multi: The share of records that could not be read has changed by at most 1.0%",
    "multi: Licenses that the previous version did not have: at most 0",
)


def profile(
    size_bytes: int = 100, num: int = 10, license: str = "MIT", **other_nums: int
) -> Profile:
    """`num` documents of each language, other numbers by name; all of `size_bytes`, Python's under `license`."""
    rows = [
        {
            "language": language,
            "license": license if language == "Python" else "MIT",
            "path": f"{number}.txt",
            "source": "package 1.0",
            "text": "x" * size_bytes,
        }
        for language in SIX
        for number in range(other_nums.get(language, num))
    ]
    return profile_corpus(
        pa.Table.from_pylist(rows, schema=SCHEMA).to_batches(), Limits.of("multi", SMALL)
    )


def validate(
    folder: Path, now: Profile, previous: Profile | None, config: ValidationConfig = SMALL
) -> dict[str, Any]:
    before = None if previous is None else {"multi": previous}
    return validate_raw(
        folder / "out",
        profiles={"multi": now},
        previous=before,
        config=config,
        docs=folder / "docs",
    )


# 10 documents of each of six languages make a share of 16.7% each. With 30 of Python it is 30 of 80, 37.5%, others 12.5%.
# One record that was set aside beside 60 documents is 1 of 61.
CASES = {
    "a share rises": (
        profile(), profile(Python=30), SHARE, "1 of 7 rows, such as Python (37.5% of the bytes, was 16.7% of the bytes)"
    ),
    "a share falls": (
        profile(Python=30), profile(), SHARE, "1 of 7 rows, such as Python (16.7% of the bytes, was 37.5% of the bytes)"
    ),
    "a share rises a little": (profile(), profile(Python=12), None, ""),
    "documents grow": (
        profile(size_bytes=100), profile(size_bytes=130), SIZE,
        "7 of 7 rows, such as C (130 bytes a document, was 100 bytes a document); C++ (130",
    ),
    "documents shrink": (
        profile(size_bytes=100), profile(size_bytes=70), SIZE,
        "7 of 7 rows, such as C (70 bytes a document, was 100 bytes a document); C++ (70",
    ),
    "documents grow a little": (profile(size_bytes=100), profile(size_bytes=125), None, ""),
    "more is set aside": (
        profile(), profile().with_quarantined(1), QUARANTINED,
        "1 of 7 rows, such as (all) (1.64% set aside, was 0.00% set aside)"
    ),
    "less is set aside": (
        profile().with_quarantined(1), profile(), QUARANTINED,
        "1 of 7 rows, such as (all) (0.00% set aside, was 1.64% set aside)"
    ),
    "a new license": (
        profile(), profile(license="GPL-3.0-only"), LICENSES, "1 of 7 rows, such as GPL-3.0-only (10 documents)"
    ),
    "a license is gone": (profile(license="GPL-3.0-only"), profile(), None, ""),
    "the same": (profile(), profile(), None, ""),
}  # fmt: skip


@pytest.mark.parametrize(("previous", "now", "rule", "found"), CASES.values(), ids=CASES)
def test_what_changed_too_much_is_a_warning(
    tmp_path: Path, previous: Profile, now: Profile, rule: str | None, found: str
) -> None:
    statistics = validate(tmp_path, now, previous)
    assert statistics["num_warnings"] == len(statistics["warnings"]) == (rule is not None)
    assert all(
        warning.startswith(f"{rule}: broken by {found}") for warning in statistics["warnings"]
    )
    assert statistics["num_passed"] == statistics["num_expectations"] == 15


def test_a_language_that_is_gone_or_new_changes_shares_and_has_no_mean(tmp_path: Path) -> None:
    table = drift_check("multi", profile(Go=0), profile(C=0), SMALL).table.set_index("language")
    assert table["share_change"].to_dict() == pytest.approx(
        {
            "C": 0.2,
            "C++": 0,
            "Go": 0.2,
            "Java": 0,
            "JavaScript": 0,
            "Python": 0,
            "(all)": float("nan"),
        },
        nan_ok=True,
    )
    assert table["mean_bytes_change"].isna().to_dict() == {
        language: language in ("C", "Go") for language in (*SIX, "(all)")
    }


def test_warnings_are_logged_and_marked_in_the_pages_and_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="components.validation"):
        (warning,) = validate(tmp_path, profile(license="GPL-3.0-only"), profile())["warnings"]
    assert [record.getMessage() for record in caplog.records] == [f"raw corpora: {warning}"]
    index = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert "multi: raw-drift</a>: 1 of 4 rules broken, a warning" in index
    assert "✘" not in index
    page = next((tmp_path / "docs").glob("raw-corpora-*/validations/raw-drift-multi/**/*.html"))
    assert "<li>GPL-3.0-only (10 documents)</li>" in page.read_text(encoding="utf-8")
    outcomes = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(one["severity"], one["examples"]) for one in outcomes if one["success"] is False] == [
        ("warning", ["GPL-3.0-only (10 documents)"])
    ]


def test_the_page_says_with_what_it_was_compared_that_it_warns_and_both_versions_figures(
    tmp_path: Path,
) -> None:
    validate_raw(
        tmp_path / "out",
        profiles={"multi": profile(size_bytes=130).with_quarantined(2)},
        previous={"multi": profile()},
        previous_version="<the one> of yesterday",
        quarantined={"multi": QuarantineSummary({"not JSON": 2}, [])},
        config=SMALL,
        docs=tmp_path / "docs",
    )
    (page,) = (tmp_path / "docs").glob("raw-corpora-*/validations/raw-drift-multi/**/*.html")
    text = page.read_text(encoding="utf-8")
    head = text[: text.index("Expectation Validation Result")]
    assert "<br>Compared with &lt;the one&gt; of yesterday.<br>" in head
    assert (
        "validation.drift is &quot;warn&quot;: a rule of this suite that is broken is shown, and stops nothing."
        in head
    )
    assert 'quarantine.html#multi">records that were set aside</a> (2)' in head
    table = upright_table(text)
    assert (table[""], table["mean_bytes"]) == ([*SIX, "(all)"], ["130"] * 7)
    assert table["previous_mean_bytes"] == ["100"] * 7
    (other,) = (tmp_path / "docs").glob("raw-corpora-*/validations/raw-documents-multi/**/*.html")
    assert "Compared with" not in other.read_text(encoding="utf-8")


def test_drift_can_stop_a_run_or_be_switched_off(tmp_path: Path) -> None:
    now, previous = profile(license="GPL-3.0-only"), profile()
    with pytest.raises(
        ValidationFailedError, match=r"1 of 19 rules are broken(.|\n)*GPL-3.0-only \(10 documents\)"
    ) as error:
        validate(tmp_path / "fail", now, previous, SMALL.replace(drift="fail"))
    assert error.value.fix.endswith("if a limit is wrong, change validation.max_new_licenses")
    assert validate(tmp_path / "off", now, previous, SMALL.replace(drift="off"))["warnings"] == []
    assert "drift" not in (tmp_path / "off" / "out" / "results.json").read_text()


def test_a_first_version_has_nothing_to_compare_with_and_says_so(tmp_path: Path) -> None:
    assert read_profiles(tmp_path / "out") is None
    validate(tmp_path, profile(), None)
    note = "there is no previous version to compare with"
    assert f"<li>multi: raw-drift: {note}</li>" in (tmp_path / "docs" / "index.html").read_text(
        encoding="utf-8"
    )
    outcomes = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [
        (one["success"], one["observed"]) for one in outcomes if one["suite"] == "raw-drift"
    ] == [(None, note)]
    # The next version finds what it left.
    assert read_profiles(tmp_path / "out") == {"multi": profile()}


def test_a_profile_of_another_format_is_nothing_to_compare_with(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text('{"format": 0, "corpora": {"multi": "whatever"}}')
    assert read_profiles(tmp_path) is None
