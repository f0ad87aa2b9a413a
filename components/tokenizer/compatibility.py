"""Do two tokenizers give the same ids? Asked of a model that training is to start from: its embedding knows its own ids.

One decision: what is compared is what decides ids, not the files: every token's id, the merges in their order, and the ids
of a text that goes through all rules of cutting text into words. `transformers` writes the same tokenizer in several ways.
Not covered: texts that two tokenizers of equal tables and merges, and of equal ids for that text, cut differently.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from components.core.errors import ArtifactError
from components.tokenizer.vocabulary import TOKENIZER_JSON

_PROBE = (
    "def f(x):\n    return x+1  # it's 3,141.59 of \u00e9t\u00e9's caf\u00e9s\r\n\t\tif a != b:\n"
    "\n\n   \u4f60\u597d  THEY'LL we've I'd \U0001f600 e\u0301 <tag>\u00a0__init__ \t mixed   runs"
    + " " * 40
    + "end  "
)
"""Contractions, digits, signs, other scripts, characters composed in two ways, runs of white space inside and at the end."""


class TokenizerSignature(NamedTuple):
    """What decides the ids that a tokenizer gives."""

    ids: dict[str, int]
    """By token, added ones included."""
    merges: list[tuple[str, str]]
    """The first is applied first."""
    probe: list[int]
    """The ids of a text."""


def read_id_table(folder: Path) -> TokenizerSignature:
    """The table of a folder that `build_tokenizer` or `transformers` wrote.

    Raises:
        ArtifactError: there is no `tokenizer.json`, or it describes no byte-pair encoding.
    """
    path = folder / TOKENIZER_JSON
    if not path.is_file():
        raise _no_tokenizer(f"{path} does not exist")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        document: dict[str, Any] = json.loads(text)
        model = document["model"]
        ids = model["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}
        merges = [_pair(one) for one in model["merges"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _no_tokenizer(f"{path} has no vocabulary and merges ({error!r})") from error
    try:
        reference = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # The library raises this very class, whatever it finds wrong.
        raise _no_tokenizer(f"{path} cannot be read ({error})") from error
    return TokenizerSignature(ids, merges, reference.encode(_PROBE, add_special_tokens=False).ids)


def first_mismatch(theirs: TokenizerSignature, ours: TokenizerSignature) -> str | None:
    """The first thing in which two tables differ, as words about the first of them; None where they give the same ids."""
    for token, id_ in theirs.ids.items():
        if ours.ids.get(token) != id_:
            return f"{token!r} has the id {id_:,}, not {_said(ours.ids.get(token))}"
    if missing := next((token for token in ours.ids if token not in theirs.ids), None):
        return f"{missing!r} has no id, not {ours.ids[missing]:,}"
    if theirs.merges != ours.merges:
        return "the same tokens come of other merges"
    if theirs.probe != ours.probe:
        return "text is cut into words by other rules, or changed before"
    return None


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Before tokenizers 0.20 a pair was written as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _said(id_: int | None) -> str:
    return "none" if id_ is None else f"{id_:,}"


def _no_tokenizer(got: str) -> ArtifactError:
    return ArtifactError(
        got,
        expected="a byte-pair encoding in Hugging Face's format",
        fix="restore the folder, or fetch it again",
    )
