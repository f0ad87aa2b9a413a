"""Which document each token belongs to: by hand, and against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from components.tokenizer.masking import document_numbers

EOT = 9


@pytest.mark.parametrize(
    ("tokens", "numbers"),
    [
        pytest.param(
            [1, 2, 9, 3, 9, 4], [0, 0, 0, 1, 1, 2], id="a separator belongs to what it ends"
        ),
        pytest.param(
            [9, 1, 2, 3, 4, 9],
            [0, 1, 1, 1, 1, 1],
            id="the end of an earlier sequence's document comes first",
        ),
        pytest.param([1, 9, 9, 9, 2, 2], [0, 0, 1, 2, 3, 3], id="documents without a token"),
        pytest.param([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0], id="a part of one document"),
    ],
)
def test_by_hand(tokens: list[int], numbers: list[int]) -> None:
    found = document_numbers(np.array([tokens], dtype=np.uint16), EOT)
    assert found.dtype == np.int32
    assert found.tolist() == [numbers]


@given(
    arrays.arrays(
        np.uint16, st.tuples(st.integers(0, 4), st.integers(0, 12)), elements=st.integers(7, EOT)
    )
)
def test_against_a_loop_each_sequence_by_itself(sequences: np.ndarray) -> None:
    expected = []
    for row in sequences.tolist():
        number, numbers = 0, []
        for token in row:
            numbers.append(number)
            number += token == EOT
        expected.append(numbers)
    found = document_numbers(sequences, EOT)
    assert found.shape == sequences.shape
    assert found.tolist() == expected


def test_one_sequence_has_to_be_a_batch_of_one() -> None:
    with pytest.raises(ValueError, match=r"got \[6\]"):
        document_numbers(np.zeros(6, dtype=np.uint16), EOT)
