"""Drift: which changes from the previous version are reported, and how."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpus_files_on_disk import SMALL, page_section, page_table

from components.core.errors import ValidationFailedError
from components.data.config import DataConfig
from components.data.sources.records import SCHEMA
from components.validation.config import ValidationConfig
from components.validation.drift import raw_drift_check
from components.validation.profile import Profile, ProfileLimits, QuarantineSummary, profile_corpus
from components.validation.raw import read_profiles, validate_raw

SIX = ("C", "C++", "Go", "Java", "JavaScript", "Python")
SHARE, SIZE, QUARANTINED, LICENSES = (
    "multi: The share of every language in the bytes of the corpus changed by at most 5.0%",
    "multi: The mean size of a document changed by at most 25%",
    "multi: The share of quarantined records changed by at most 1.0%",
    "multi: At most 0 licenses are new since the previous version",
)


def profile(
    size_bytes: int = 100, num: int = 10, license_name: str = "MIT", **num_by_language: int
) -> Profile:
    """`num` documents per language unless given by name; only Python's have `license_name`."""
    rows = [
        {
            "language": language,
            "license": license_name if language == "Python" else "MIT",
            "path": f"{number}.txt",
            "source": "package 1.0",
            "text": "x" * size_bytes,
        }
        for language in SIX
        for number in range(num_by_language.get(language, num))
    ]
    return profile_corpus(
        pa.Table.from_pylist(rows, schema=SCHEMA).to_batches(),
        ProfileLimits.for_corpus(SIX, SMALL),
    )


def validate(
    folder: Path, current: Profile, previous: Profile | None, config: ValidationConfig = SMALL
) -> dict[str, Any]:
    return validate_raw(
        folder / "out",
        profiles={"multi": current},
        previous=None if previous is None else {"multi": previous},
        config=config,
        data=DataConfig(),
        gx_root=folder / "gx",
    )


# 10 documents of each of six languages: a share of 16.7%. With 30 of Python: 30 of 80, 37.5%.
# A quarantined record beside 60 documents is 1 of 61.
CASES = {
    "a share rises": (
        profile(), profile(Python=30), SHARE,
        "1 of 7 rows, such as Python (37.5% of the bytes, was 16.7% of the bytes)",
    ),
    "a share falls": (
        profile(Python=30), profile(), SHARE,
        "1 of 7 rows, such as Python (16.7% of the bytes, was 37.5% of the bytes)",
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
    "more records are quarantined": (
        profile(), profile().with_quarantined(1), QUARANTINED,
        "1 of 7 rows, such as (all) (1.64% quarantined, was 0.00% quarantined)"
    ),
    "fewer records are quarantined": (
        profile().with_quarantined(1), profile(), QUARANTINED,
        "1 of 7 rows, such as (all) (0.00% quarantined, was 1.64% quarantined)"
    ),
    "a new license": (
        profile(), profile(license_name="GPL-3.0-only"), LICENSES,
        "1 of 7 rows, such as GPL-3.0-only (10 documents)",
    ),
    "a license is removed": (profile(license_name="GPL-3.0-only"), profile(), None, ""),
    "no change": (profile(), profile(), None, ""),
}  # fmt: skip


@pytest.mark.parametrize(("previous", "current", "rule", "problem"), CASES.values(), ids=CASES)
def test_an_excessive_change_is_a_warning(
    tmp_path: Path, previous: Profile, current: Profile, rule: str | None, problem: str
) -> None:
    statistics = validate(tmp_path, current, previous)
    assert statistics["num_warnings"] == len(statistics["warnings"]) == (rule is not None)
    assert all(
        warning.startswith(f"{rule}: broken by {problem}") for warning in statistics["warnings"]
    )
    assert statistics["num_passed"] == statistics["num_expectations"] == 15


def test_a_removed_or_new_language_changes_shares_and_has_no_mean_change(tmp_path: Path) -> None:
    table = raw_drift_check("multi", profile(Go=0), profile(C=0), SMALL).table.set_index("language")
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
        (warning,) = validate(tmp_path, profile(license_name="GPL-3.0-only"), profile())["warnings"]
    assert [record.getMessage() for record in caplog.records] == [f"raw corpora: {warning}"]
    index = (tmp_path / "gx" / "index.html").read_text(encoding="utf-8")
    assert "multi: raw-drift</a>: 1 of 4 rules broken, a warning" in index
    assert "✘" not in index
    (page,) = (tmp_path / "gx" / "runs").glob("raw-corpora-*/index.html")
    assert "<li>GPL-3.0-only (10 documents)</li>" in page_section(page, "raw-drift-multi")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [
        (result["severity"], result["examples"]) for result in results if result["success"] is False
    ] == [("warning", ["GPL-3.0-only (10 documents)"])]


def test_the_page_has_the_previous_version_a_note_about_warnings_and_both_tables(
    tmp_path: Path,
) -> None:
    validate_raw(
        tmp_path / "out",
        profiles={"multi": profile(size_bytes=130).with_quarantined(2)},
        previous={"multi": profile()},
        previous_version="<version> of yesterday",
        quarantined={"multi": QuarantineSummary({"not JSON": 2}, [])},
        config=SMALL,
        data=DataConfig(),
        gx_root=tmp_path / "gx",
    )
    (page,) = (tmp_path / "gx" / "runs").glob("raw-corpora-*/index.html")
    section = page_section(page, "raw-drift-multi")
    assert "<p>Compared with &lt;version&gt; of yesterday.</p>" in section
    assert "(validation.drift is &#34;warn&#34;)" in section
    assert 'quarantine.html#multi">quarantined records</a> (2)' in section
    table = page_table(section)
    assert (table["language"], table["mean_bytes"]) == ([*SIX, "(all)"], ["130"] * 7)
    assert table["previous_mean_bytes"] == ["100"] * 7
    assert "Compared with" not in page_section(page, "raw-documents-multi")


def test_drift_can_stop_a_run_or_be_disabled(tmp_path: Path) -> None:
    current = profile(license_name="GPL-3.0-only")
    previous = profile()
    with pytest.raises(
        ValidationFailedError, match=r"1 of 19 rules are broken(.|\n)*GPL-3.0-only \(10 documents\)"
    ) as error:
        validate(tmp_path / "fail", current, previous, SMALL.replace(drift="fail"))
    assert "validation.corpora.multi.max_new_licenses" in error.value.fix
    assert (
        validate(tmp_path / "off", current, previous, SMALL.replace(drift="off"))["warnings"] == []
    )
    assert "drift" not in (tmp_path / "off" / "out" / "results.json").read_text()


def test_a_first_version_is_reported_as_not_compared(tmp_path: Path) -> None:
    assert read_profiles(tmp_path / "out") is None
    validate(tmp_path, profile(), None)
    note = "there is no previous version to compare with"
    assert f"<li>multi: raw-drift: {note}</li>" in (tmp_path / "gx" / "index.html").read_text(
        encoding="utf-8"
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [
        (result["success"], result["observed"])
        for result in results
        if result["suite"] == "raw-drift"
    ] == [(None, note)]
    # The next version is compared with this version.
    assert read_profiles(tmp_path / "out") == {"multi": profile()}


def test_a_profile_of_another_format_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text('{"format": 0, "corpora": {"multi": "whatever"}}')
    assert read_profiles(tmp_path) is None
