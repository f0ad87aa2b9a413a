"""Checks that two tokenizers are id-compatible, so an init checkpoint can use an existing corpus.

The check compares token ids, merges in order, and the ids of a probe text that exercises every
pre-tokenization rule. It does not compare files, because `transformers` writes the same tokenizer
in several ways. Limit: it misses pre-tokenizers that differ only on texts unlike the probe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from components.core.errors import ArtifactError
from components.core.files import parse_json
from components.tokenizer.vocabulary import TOKENIZER_JSON

_PROBE_TEXT = (
    "def f(x):\n    return x+1  # it's 3,141.59 of \u00e9t\u00e9's caf\u00e9s\r\n\t\tif a != b:\n"
    "\n\n   \u4f60\u597d  THEY'LL we've I'd \U0001f600 e\u0301 <tag>\u00a0__init__ \t mixed   runs"
    + " " * 40
    + "end  "
)
"""Contractions, digits, signs, several scripts, composed and decomposed characters, and runs of
white space inside and at the end."""


class TokenizerSignature(NamedTuple):
    """Everything that decides the ids of a tokenizer."""

    ids: dict[str, int]
    """Id by token, added tokens included."""
    merges: list[tuple[str, str]]
    """In order of application."""
    probe_ids: list[int]
    """Ids of the probe text."""


def read_signature(folder: Path) -> TokenizerSignature:
    """Read the signature of a folder that `build_tokenizer` or `transformers` wrote.

    Raises:
        ArtifactError: there is no `tokenizer.json`, or it describes no byte-pair encoding.
    """
    path = folder / TOKENIZER_JSON
    if not path.is_file():
        raise _not_a_tokenizer(f"{path} does not exist")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        document: dict[str, Any] = parse_json(text)
        model = document["model"]
        ids = model["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}
        merges = [_token_pair(merge) for merge in model["merges"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_tokenizer(f"{path} has no vocabulary and merges ({error!r})") from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # The library raises plain Exception for every invalid file.
        raise _not_a_tokenizer(f"{path} cannot be read ({error})") from error
    probe_ids = tokenizer.encode(_PROBE_TEXT, add_special_tokens=False).ids
    return TokenizerSignature(ids, merges, probe_ids)


def first_mismatch(actual: TokenizerSignature, expected: TokenizerSignature) -> str | None:
    """Describe the first difference of `actual` from `expected`; None if both give the same ids."""
    for token, actual_id in actual.ids.items():
        expected_id = expected.ids.get(token)
        if expected_id != actual_id:
            expected_text = "none" if expected_id is None else f"{expected_id:,}"
            return f"{token!r} has the id {actual_id:,}, not {expected_text}"
    for token, expected_id in expected.ids.items():
        if token not in actual.ids:
            return f"{token!r} has no id, not {expected_id:,}"
    if actual.merges != expected.merges:
        return "the tokens are equal, the merges differ"
    if actual.probe_ids != expected.probe_ids:
        return "the normalizer or the pre-tokenizer differs"
    return None


def _token_pair(merge: str | list[str]) -> tuple[str, str]:
    """The two tokens of a merge. tokenizers before 0.20 wrote them as a string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _not_a_tokenizer(got: str) -> ArtifactError:
    return ArtifactError(
        got,
        expected="a byte-pair encoding in Hugging Face's format",
        fix="restore the folder, or fetch it again",
    )
