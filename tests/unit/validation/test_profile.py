"""Profiles equal statistics computed by hand, for any partition into batches."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError, DataError
from components.data.sources.records import FIELDS, SCHEMA
from components.validation.mergeable_stats import Example, SumMinMax
from components.validation.profile import (
    OTHER,
    RAW_DEFECTS,
    Profile,
    ProfileLimits,
    merge_profiles,
    profile_batch,
    profile_corpus,
)

LIMITS = ProfileLimits(
    languages=("C", "Go"),
    max_document_bytes=8,
    max_control_fraction=0.25,
    max_replacement_fraction=0.25,
)

Row = tuple[str | None, ...]
ROWS: list[Row] = [
    # language, license, path, source, text
    ("C", "MIT", "a.c", "p 1", "int x;\n"),  # 7 bytes
    ("C", "MIT", "b.h", "p 1", "é"),  # 2 bytes, 1 character
    ("C", "", "c.tar.gz", "p 1", "123456789"),  # 9 bytes: too large
    ("C", None, "", "", None),
    ("Go", "BSD", "x/Makefile", "p 2", ""),
    ("Go", "BSD", "x/.hidden", "p 2", "ab\x01\x02"),  # half of it control characters
    ("Rust", "MIT", "lib.rs", "p 3", "\ufffdab"),  # 5 bytes, a third of it not decoded
    (None, "MIT", None, None, " \n"),
    ("", "MIT", "y.c", "p 3", "abc"),
]


def batch(rows: list[Row], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    columns = [
        pa.array([row[number] for row in rows], type=schema.field(name).type)
        for number, name in enumerate(FIELDS)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def defect_counts(profile: Profile, language: str) -> dict[str, int]:
    defects = profile.languages[language].defects
    return {name: violations.num for name, violations in defects.items() if violations.num}


def test_statistics_are_those_computed_by_hand() -> None:
    profile = profile_batch(batch(ROWS), LIMITS)
    assert list(profile.languages) == ["C", "Go", OTHER]
    assert profile.num_documents == 9
    c, go, other = profile.languages.values()
    assert (c.num_documents, c.size_bytes, c.num_chars) == (
        4,
        SumMinMax(total=18, smallest=0, largest=9),
        SumMinMax(total=17, smallest=0, largest=9),
    )
    # 0 bytes; none of 1; 2 of 2-3; 7 of 4-7; 9 of 8-15.
    assert c.size_histogram == (1, 0, 1, 1, 1)
    assert (c.quantile_bound(0.5), c.quantile_bound(0.75), c.quantile_bound(1)) == (4, 8, 16)
    assert (c.licenses.counts, c.extensions.counts) == (
        {"": 1, "MIT": 2},
        {"": 1, ".c": 1, ".gz": 1, ".h": 1},
    )
    assert (go.licenses.counts, go.extensions.counts) == ({"BSD": 2}, {"": 2})
    assert (other.num_documents, other.size_bytes.total) == (3, 10)
    assert defect_counts(profile, "C") == {
        "null_license": 1,
        "null_text": 1,
        "empty_license": 1,
        "empty_path": 1,
        "empty_source": 1,
        "large_text": 1,
    }
    assert defect_counts(profile, "Go") == {"empty_text": 1, "blank_text": 1, "binary_text": 1}
    assert defect_counts(profile, OTHER) == {
        "null_language": 1,
        "null_path": 1,
        "null_source": 1,
        "empty_language": 1,
        "unknown_language": 2,
        "blank_text": 1,
        "undecoded_text": 1,
    }


def test_examples_have_location_and_value() -> None:
    profile = profile_batch(batch(ROWS), LIMITS)
    defects = {name: language.defects for name, language in profile.languages.items()}
    assert defects["C"]["large_text"].examples == (Example(source="p 1", path="c.tar.gz", value=9),)
    assert defects["Go"]["binary_text"].examples == (
        Example(source="p 2", path="x/.hidden", value=0.5),
    )
    assert defects["Go"]["blank_text"].examples == (
        Example(source="p 2", path="x/Makefile", value=0),
    )
    assert {example.value for example in defects[OTHER]["unknown_language"].examples} == {
        "Rust",
        "",
    }


CELLS: list[Any] = [
    st.sampled_from(["C", "Go", "Rust", "", None]),
    st.sampled_from(["MIT", "BSD", "", None]),
    st.sampled_from(["a.c", "b.go", "docs/a", "", None]),
    st.sampled_from(["p 1", "p 2", "", None]),
    st.none() | st.text(alphabet="a é\x01\ufffd", max_size=10),
]


@settings(deadline=None)
@given(
    st.lists(st.tuples(*CELLS), max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
    st.randoms(use_true_random=False),
)
def test_profiles_do_not_depend_on_the_partitioning(
    rows: list[Row], cuts: list[int], random: Any
) -> None:
    all_rows = batch(rows)
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [profile_batch(all_rows.slice(a, b - a), LIMITS) for a, b in pairwise(bounds)]
    random.shuffle(parts)
    expected = profile_batch(all_rows, LIMITS)
    grouped = merge_profiles([merge_profiles([Profile(limits=LIMITS), *parts[:2]]), *parts[2:]])
    assert grouped == expected
    random.shuffle(rows)
    assert profile_corpus((batch([row]) for row in rows), LIMITS) == expected
    for name, language in expected.languages.items():
        texts = [row[4] or "" for row in rows if _group(row) == name]
        assert (language.num_documents, language.size_bytes.total, language.num_chars.total) == (
            len(texts), sum(len(text.encode()) for text in texts), sum(map(len, texts))
        )  # fmt: skip
        assert sum(language.size_histogram) == len(texts)
        assert [
            language.defects[field].num for field in ("null_text", "empty_text", "blank_text")
        ] == [
            sum(row[4] is None for row in rows if _group(row) == name),
            sum(row[4] == "" for row in rows if _group(row) == name),
            sum(row[4] is not None and not row[4].strip() for row in rows if _group(row) == name),
        ]


def _group(row: Row) -> str:
    return row[0] if row[0] in LIMITS.languages and row[0] else OTHER


def test_profiles_can_be_stored_as_json() -> None:
    profile = profile_batch(batch(ROWS), LIMITS).with_quarantined(3)
    assert Profile.parse(json.loads(json.dumps(profile.model_dump(mode="json")))) == profile
    assert merge_profiles([profile, profile]).num_quarantined == 6


def test_hostile_input_does_not_make_a_profile_large() -> None:
    rows: list[Row] = [
        (f"L{n}", f"license {n} " * 50, f"a.{n}", "p" * 5000, "\x01" * 9) for n in range(3000)
    ]
    profile = profile_batch(batch(rows), LIMITS)
    assert list(profile.languages) == [OTHER]
    # 1,000 licenses and extensions of at most 200 characters, 15 times 20 examples of at most 600.
    assert (
        len(json.dumps(profile.model_dump(mode="json")))
        < 1000 * 2 * 230 + len(RAW_DEFECTS) * 20 * 700
    )


def test_columns_may_have_any_string_type_and_must_have_the_right_names() -> None:
    other_types = pa.schema(
        [(name, pa.string_view() if name == "text" else pa.string()) for name in FIELDS]
    )
    assert profile_batch(batch(ROWS, other_types), LIMITS) == profile_batch(batch(ROWS), LIMITS)
    renamed = batch(ROWS).rename_columns(["language", "rights", "path", "source", "text"])
    with pytest.raises(DataError, match="language, rights, path, source, text"):
        profile_batch(renamed, LIMITS)


def test_merging_needs_profiles_with_equal_limits() -> None:
    other = Profile(limits=LIMITS.replace(max_document_bytes=9))
    with pytest.raises(ConfigError, match="2 different limits"):
        merge_profiles([other, Profile(limits=LIMITS)])
    with pytest.raises(ConfigError, match="at least 1 profile"):
        merge_profiles([])
