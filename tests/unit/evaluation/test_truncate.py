"""The truncation rules on examples worked out by hand, and against a second way to say them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.benchmarks.protocol import is_complete, truncate


@pytest.mark.parametrize(
    ("completion", "kept"),
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
        ("print(1)\nprinter = 2\n", "print(1)\n"),  # the rule is about a line's first letters
        ("default = 1\ndef f(): pass\n", "default = 1\n"),
        ("print(1)\n# x\nprint(2)", "print(1)\n"),
    ],
)
def test_examples(completion: str, kept: str) -> None:
    assert truncate(completion) == kept
    assert is_complete(completion) == (kept != completion)


def line_by_line(completion: str) -> str:
    """The rules once more, without regular expressions: cut at the first place where any of them applies."""
    seen = {"print": 0, "def": 0}
    for place in range(len(completion)):
        rest = completion[place:]
        if rest.startswith(("<|endoftext|>", "\n\n\n")):
            return completion[:place]
        if place and completion[place - 1] != "\n":
            continue
        if rest.startswith(("#", "'''", '"""')):
            return completion[:place]
        for word in seen:
            seen[word] += rest.startswith(word)
        if max(seen.values()) == 2:
            return completion[:place]
    return completion


PIECES = st.sampled_from(
    ["\n", "\n\n", "print", "def", " f", "#", "'''", '"""', "<|endoftext|>", "x", "    ", "'", "<|"]
)
texts = st.lists(PIECES, max_size=30).map("".join)


@given(texts)
def test_the_same_as_line_by_line(completion: str) -> None:
    assert truncate(completion) == line_by_line(completion)


@given(texts, texts)
def test_once_complete_nothing_that_follows_matters(completion: str, more: str) -> None:
    if is_complete(completion):
        assert truncate(completion + more) == truncate(completion)
