"""The truncation rules on examples by hand, and against a second implementation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.benchmarks.protocol import is_complete, truncate


@pytest.mark.parametrize(
    ("completion", "truncated"),
    [
        ("    return 1\n", "    return 1\n"),
        ("x = 1\nprint(x)\ny = 2\nprint(y)\n", "x = 1\nprint(x)\ny = 2\n"),
        (
            "    return 1\ndef g():\n    pass\ndef h():\n    pass\n",
            "    return 1\ndef g():\n    pass\n",
        ),
        ("    return 1\n# next\n", "    return 1\n"),
        ("    # inside\n    return 1\n", "    # inside\n    return 1\n"),
        ("    return 1<|endoftext|>more", "    return 1"),
        ("a\n'''doc'''\n", "a\n"),
        ('a\n"""doc"""\n', "a\n"),
        ("    '''doc'''\n", "    '''doc'''\n"),
        ("a\n\nb\n\n\nc", "a\n\nb"),
        ("#", ""),
        ("", ""),
        ("print(1)\nprinter = 2\n", "print(1)\n"),  # the rule matches the first letters of a line
        ("default = 1\ndef f(): pass\n", "default = 1\n"),
        ("print(1)\n# x\nprint(2)", "print(1)\n"),
    ],
)
def test_a_completion_is_truncated_by_hand(completion: str, truncated: str) -> None:
    assert truncate(completion) == truncated
    assert is_complete(completion) == (truncated != completion)


def truncate_by_position(completion: str) -> str:
    """Apply the rules at every position without regular expressions."""
    counts = {"print": 0, "def": 0}
    for position in range(len(completion)):
        rest = completion[position:]
        if rest.startswith(("<|endoftext|>", "\n\n\n")):
            return completion[:position]
        if position and completion[position - 1] != "\n":
            continue
        if rest.startswith(("#", "'''", '"""')):
            return completion[:position]
        for word in counts:
            counts[word] += rest.startswith(word)
        if max(counts.values()) == 2:
            return completion[:position]
    return completion


PIECES = st.sampled_from(
    ["\n", "\n\n", "print", "def", " f", "#", "'''", '"""', "<|endoftext|>", "x", "    ", "'", "<|"]
)
texts = st.lists(PIECES, max_size=30).map("".join)


@given(texts)
def test_both_implementations_agree(completion: str) -> None:
    assert truncate(completion) == truncate_by_position(completion)


@given(texts, texts)
def test_text_after_a_complete_completion_changes_nothing(completion: str, more: str) -> None:
    if is_complete(completion):
        assert truncate(completion + more) == truncate(completion)
