"""Where a completion ends: what follows the first complete answer is not part of it.

The rules are those of CodeGen's released sampling code (docs/paper.md, section 4), used for HumanEval and for every turn of
MTPB. One decision: a rule that has once fired on a text fires at the same place on every longer text, so sampling may stop
as soon as `is_complete` says so, without changing a result.
"""

from __future__ import annotations

import re

_SECOND = tuple(re.compile(pattern, re.MULTILINE) for pattern in (r"^print", r"^def"))
"""Cut before the second of these at the start of a line."""
_FIRST = re.compile(r"^#|<\|endoftext\|>|^'''|^\"\"\"|\n\n\n", re.MULTILINE)
"""Cut before the first of these."""

RULES = tuple(pattern.pattern for pattern in (*_SECOND, _FIRST))
"""The rules as text, for the fingerprint of a protocol."""


def truncate(completion: str) -> str:
    """`completion` up to where the rules cut it."""
    ends = [
        match.start() for pattern in _SECOND for match in list(pattern.finditer(completion))[1:2]
    ]
    if first := _FIRST.search(completion):
        ends.append(first.start())
    return completion[: min(ends, default=len(completion))]


def is_complete(completion: str) -> bool:
    """Whether a rule has cut `completion`, so that nothing drawn after it can matter."""
    return len(truncate(completion)) < len(completion)
