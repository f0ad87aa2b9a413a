"""Bounded statistics: exact for listed names, and independent of the partitioning."""

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
    count_names,
    find_violations,
    merge_counters,
    merge_violations,
)


def test_at_most_max_names_are_listed_and_their_counts_are_exact() -> None:
    names = [f"license {number}" for number in range(MAX_NAMES + 500)]
    counters = [
        count_names(Counter(names[:1000])),
        count_names(Counter(names[500:])),
        count_names(Counter(names[:700])),
    ]
    total = Counter(names[:1000]) + Counter(names[500:]) + Counter(names[:700])
    merged = merge_counters(counters)
    assert len(merged.counts) == MAX_NAMES
    assert merged.counts == {name: total[name] for name in merged.counts}
    assert merged.num_unlisted == total.total() - sum(merged.counts.values())
    assert merged == merge_counters([merge_counters(counters[1:]), counters[0]])
    assert merged == count_names(total)


def test_a_name_is_definitely_absent_only_if_it_certainly_did_not_occur() -> None:
    small = count_names({"MIT": 3})
    assert small.definitely_absent("GPL")
    assert not small.definitely_absent("MIT")
    names = [f"license {number}" for number in range(2 * MAX_NAMES)]
    full = count_names(Counter(names))
    absent = [f"other {number}" for number in range(100)]
    assert not any(full.definitely_absent(name) for name in names)
    # Half of the names are listed, so half of the absent names would have been listed.
    assert 30 < sum(full.definitely_absent(name) for name in absent) < 70


def test_long_names_are_truncated() -> None:
    assert count_names({"x" * 10_000: 1, "x" * 9_999: 2}).counts == {"x" * 200: 3}


def documents(numbers: list[int]) -> RuleViolations:
    paths = pa.array([f"docs/{number}.txt" for number in numbers], type=pa.large_string())
    sources = pa.array(["package 1.0"] * len(numbers), type=pa.large_string())
    return find_violations(
        np.ones(len(numbers), dtype=bool), sources, paths, np.array(numbers, dtype=np.int64)
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=90), st.data())
def test_examples_do_not_depend_on_how_documents_are_partitioned(
    numbers: list[int], data: st.DataObject
) -> None:
    owner = [data.draw(st.integers(0, 3)) for _ in numbers]
    parts = [
        documents([number for number, index in zip(numbers, owner, strict=True) if index == part])
        for part in range(4)
    ]
    order = data.draw(st.permutations(parts))
    merged = merge_violations([merge_violations(order[:2]), *order[2:]])
    assert merged == documents(numbers)
    assert (merged.num, len(merged.examples)) == (len(numbers), min(len(numbers), MAX_EXAMPLES))
    assert {example.value for example in merged.examples} <= set(numbers)


def test_only_selected_documents_are_counted_and_long_values_are_truncated() -> None:
    names = pa.array(["a", None, "c" * 1000], type=pa.large_string())
    violations = find_violations(np.array([False, True, True]), names, names, names)
    assert violations.num == 2
    assert {(item.source, item.path, item.value) for item in violations.examples} == {
        (None, None, None),
        ("c" * 200,) * 3,
    }
