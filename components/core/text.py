"""Names from outside that are not UTF-8, in a form that every output accepts."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable_name(name: str) -> str:
    """Return a name as valid UTF-8.

    Bytes that are not UTF-8, which Python represents as surrogates, are escaped as in
    `donn\\xe9es.txt`.
    """
    return name if name.isascii() else _SURROGATE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    is_byte = 0xDC80 <= code <= 0xDCFF  # "surrogateescape" of Python.
    return f"\\x{code - 0xDC00:02x}" if is_byte else f"\\u{code:04x}"
