"""Counts in little memory: exact for what they list, and the same however a whole was cut into parts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validation.mergeable_stats import (
    MAX_EXAMPLES,
    MAX_NAMES,
    RuleViolations,
    defect,
    merge_defects,
    merge_tallies,
    tally,
)


def test_names_beyond_the_bound_are_left_out_and_those_listed_are_exact() -> None:
    names = [f"license {number}" for number in range(MAX_NAMES + 500)]
    halves = [
        tally(Counter(names[:1000])),
        tally(Counter(names[500:])),
        tally(Counter(names[:700])),
    ]
    whole = Counter(names[:1000]) + Counter(names[500:]) + Counter(names[:700])
    merged = merge_tallies(halves)
    assert len(merged.counts) == MAX_NAMES
    assert merged.counts == {name: whole[name] for name in merged.counts}
    assert merged.num_others == whole.total() - sum(merged.counts.values())
    assert merged == merge_tallies([merge_tallies(halves[1:]), halves[0]])
    assert merged == tally(whole)


def test_what_is_certain_not_to_have_occurred() -> None:
    small = tally({"MIT": 3})
    assert small.definitely_absent("GPL")
    assert not small.definitely_absent("MIT")
    names = [f"license {number}" for number in range(2 * MAX_NAMES)]
    full, absent = tally(Counter(names)), [f"other {number}" for number in range(100)]
    assert not any(full.definitely_absent(name) for name in names)
    # Half of the names are listed, so half of those that are absent would have been.
    assert 30 < sum(full.definitely_absent(name) for name in absent) < 70


def test_long_names_are_cut() -> None:
    assert tally({"x" * 10_000: 1, "x" * 9_999: 2}).counts == {"x" * 200: 3}


def documents(numbers: list[int]) -> RuleViolations:
    paths = pa.array([f"docs/{number}.txt" for number in numbers], type=pa.large_string())
    sources = pa.array(["package 1.0"] * len(numbers), type=pa.large_string())
    return defect(
        np.ones(len(numbers), dtype=bool), sources, paths, np.array(numbers, dtype=np.int64)
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=90), st.data())
def test_examples_are_the_same_however_documents_are_cut_into_parts(
    numbers: list[int], data: st.DataObject
) -> None:
    owner = [data.draw(st.integers(0, 3)) for _ in numbers]
    parts = [
        documents([number for number, of in zip(numbers, owner, strict=True) if of == part])
        for part in range(4)
    ]
    order = data.draw(st.permutations(parts))
    merged = merge_defects([merge_defects(order[:2]), *order[2:]])
    assert merged == documents(numbers)
    assert (merged.num, len(merged.examples)) == (len(numbers), min(len(numbers), MAX_EXAMPLES))
    assert {one.value for one in merged.examples} <= set(numbers)


def test_only_the_documents_named_are_counted_and_long_values_are_cut() -> None:
    names = pa.array(["a", None, "c" * 1000], type=pa.large_string())
    found = defect(np.array([False, True, True]), names, names, names)
    assert found.num == 2
    assert {(one.source, one.path, one.value) for one in found.examples} == {
        (None, None, None),
        ("c" * 200,) * 3,
    }
