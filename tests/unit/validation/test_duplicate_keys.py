"""Duplicate keys are found exactly, in any number of passes."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validation.duplicate_keys import (
    NO_KEYS,
    Keys,
    find_duplicates,
    is_in,
    keys_of_digests,
    keys_of_paths,
)


def keys_of(values: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(values), dtype=NO_KEYS.dtype)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                bytes(16),
                bytes(15) + b"\1",
                b"\1" + bytes(15),
                b"\xff" * 16,
                b"\x80" + bytes(15),
                b"a" * 16,
            ]
        )
    ),
    st.integers(1, 9),
)
def test_duplicate_keys_are_those_of_a_counter(values: list[bytes], rows_per_pass: int) -> None:
    parts = [keys_of(values[start : start + 3]) for start in range(0, len(values), 3)]
    duplicates = find_duplicates(lambda: iter(parts), len(values), rows_per_pass)
    expected = sorted(value for value, num in Counter(values).items() if num > 1)
    assert duplicates.tobytes() == b"".join(expected)
    assert is_in(keys_of(values), duplicates).tolist() == [value in expected for value in values]


def test_more_keys_than_expected_are_handled() -> None:
    # All 5,000 keys are in the same pass of four, whose buffer has room for 1,002.
    keys = keys_of([b"a" * 16] * 2500)
    assert find_duplicates(lambda: iter([keys, keys]), 8, 2).tolist() == [b"a" * 16]


def test_keys_of_digests_are_their_first_bytes() -> None:
    digests = [hashlib.sha256(bytes([number])) for number in range(50)]
    column = pa.array(
        ["f" * 64, *(digest.hexdigest() for digest in digests)], type=pa.large_string()
    ).slice(1)
    assert keys_of_digests(column).tobytes() == b"".join(digest.digest()[:16] for digest in digests)
    assert len(keys_of_digests(column.slice(50))) == 0


def test_different_sources_and_paths_that_join_to_the_same_text_have_different_keys() -> None:
    keys = keys_of_paths(["a", "ab", "", None, "a"], ["bc", "c", "abc", "abc", "bc"])
    assert len(set(keys.tolist())) == 4
    assert keys[0] == keys[4]
