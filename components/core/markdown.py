"""Text that is safe to show: escaping for Markdown, code spans and tables, and visible control
characters.

Text from a model, a file name or a recipe is never markup. A control character is replaced by a
visible character instead of being removed, so it can neither steer a terminal nor hide text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 (except tab and newline), DEL, C1: terminals act on them.
    # Zero-width and bidirectional controls hide and reorder text.
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff]"  # Lone surrogates: no encoding has them.
)
_BETWEEN_ALPHANUMERICS = r"(?<=[^\W_])_(?=[^\W_])"
"""An underscore that CommonMark never reads as emphasis."""
_SPECIAL = re.compile(rf"{_BETWEEN_ALPHANUMERICS}|([\\`*_\[\]|~])")
_BLOCK_START = re.compile(r"([-+](?=[\s-]|$)|=|#)|(\d+)([.)])(?=\s|$)")
"""Text that begins a list, a rule, a heading or its underline."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": "&#58;//"}


def printable(text: str) -> str:
    """Replace each control character by a visible character; tabs and newlines stay."""
    return _UNPRINTABLE.sub(_visible_character, text)


def _visible_character(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures.
    return "\u2421" if code == 0x7F else "\ufffd"


def escape(text: str) -> str:
    """Plain text as a single line of Markdown without markup: no emphasis, link, HTML or block."""
    line = escape_inline(text)
    if block := _BLOCK_START.match(line):
        head = f"\\{block[1]}" if block[1] else f"{block[2]}\\{block[3]}"
        line = head + line[block.end() :]
    return line


def escape_inline(text: str) -> str:
    """`escape` for text inside a line, such as a table cell."""
    line = " ".join(printable(text).split())
    for character, entity in _ENTITIES.items():  # "://": renderers turn addresses into links.
        line = line.replace(character, entity)
    return _SPECIAL.sub(
        lambda match: f"\\{match.group(1)}" if match.group(1) else match.group(), line
    )


def code(text: str) -> Markup:
    """A code span; its fence is longer than every run of backticks in the text."""
    line = " ".join(printable(text).split())
    fence = _fence(line, 1)
    padding = " " if "`" in line else ""
    return Markup(f"{fence}{padding}{line}{padding}{fence}")  # noqa: S704 - Markdown, fenced above


def code_block(text: str) -> Markup:
    """A fenced code block; its fence is longer than every run of backticks in the text."""
    fence = _fence(text, 3)
    return Markup(f"{fence}text\n{printable(text)}\n{fence}")  # noqa: S704 - Markdown, fenced above


def _fence(text: str, at_least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(at_least, longest + 1)


def table(head: Sequence[str], rows: Iterable[Iterable[str]], numeric: Iterable[int] = ()) -> str:
    """A table without a final line break; cells are Markdown, `numeric` columns are
    right-aligned."""
    right_aligned = set(numeric)
    alignments = ("---:" if index in right_aligned else "---" for index in range(len(head)))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, alignments, *rows))


def cell(text: str) -> str:
    """Markdown that does not end its table cell."""
    return re.sub(r"(?<!\\)\|", r"\|", text)


def escaped_table(
    head: Sequence[str], rows: Iterable[Iterable[object]], numeric: Iterable[int] = ()
) -> Markup:
    """`table` of plain values, which are escaped; `Markup`, such as a code span, is inserted
    unchanged."""
    escaped_rows = [[_escaped_cell(value) for value in row] for row in rows]
    return Markup(table([_escaped_cell(title) for title in head], escaped_rows, numeric))  # noqa: S704 - escaped


def _escaped_cell(value: object) -> str:
    return cell(str(value)) if isinstance(value, Markup) else escape_inline(str(value))
