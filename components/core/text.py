"""Names from outside: a form of names that are not UTF-8, and suggestions for unknown names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable_name(name: str) -> str:
    """Return a name as valid UTF-8.

    Bytes that are not UTF-8, which Python represents as surrogates, are escaped as in
    `donn\\xe9es.txt`.
    """
    return name if name.isascii() else _SURROGATE.sub(_escape, name)


def suggest_name(name: object, known_names: Collection[str]) -> str:
    """Return the closest known name as a question, or an empty string if none is close."""
    matches = difflib.get_close_matches(str(name), known_names, n=1)
    return f"did you mean {matches[0]!r}?" if matches else ""


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    is_byte = 0xDC80 <= code <= 0xDCFF  # "surrogateescape" of Python.
    return f"\\x{code - 0xDC00:02x}" if is_byte else f"\\u{code:04x}"
