"""Text from outside: file names that are not UTF-8, and JSON documents.

Both functions have the same reason: a value that a user or another program chose must not end a
command with an exception of Python.
"""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_JSON_DEPTH = 100
"""Deepest nesting of a document (assumption: no record needs more; Python's own functions on nested
values fail at about 1,000)."""
_BOM = "\ufeff"


def printable_name(name: str) -> str:
    """The text as valid UTF-8: bytes that are not UTF-8, which Python represents as surrogates, are
    escaped as in `donn\\xe9es.txt`."""
    return name if name.isascii() else _SURROGATE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    is_byte = 0xDC80 <= code <= 0xDCFF  # "surrogateescape" of Python.
    return f"\\x{code - 0xDC00:02x}" if is_byte else f"\\u{code:04x}"


def parse_json(document: str | bytes) -> Any:
    """The value of a JSON document, such as a line of a file; a byte order mark is ignored.

    Raises:
        ValueError: the document is not UTF-8 or not JSON, or is nested deeper than 100 levels.
    """
    text = document.decode("utf-8") if isinstance(document, bytes) else document
    try:
        value = json.loads(text.removeprefix(_BOM))
    except RecursionError:
        raise _too_deep() from None
    # A queue, because recursion has the limit that this function guards.
    level: list[Any] = [value]
    for _ in range(_MAX_JSON_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise _too_deep()


def _children(value: Any) -> list[Any]:
    """The containers directly inside a value."""
    if isinstance(value, dict):
        items: Any = value.values()
    elif isinstance(value, list):
        items = value
    else:
        return []
    return [item for item in items if isinstance(item, dict | list)]


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {_MAX_JSON_DEPTH} levels")
