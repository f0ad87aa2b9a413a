"""Tables and sizes as Markdown shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from components.core import markdown

NOTHING = "-"


def size(size_bytes: int | None) -> str:
    """Bytes in a unit that suits them."""
    if size_bytes is None:
        return NOTHING
    value, units = float(size_bytes), ["kB", "MB", "GB", "TB"]
    unit = "B"
    while value >= 1000 and units:
        value, unit = value / 1000, units.pop(0)
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()
) -> str:
    """Rows of plain text under their heads, each with its line break; `numeric` columns stand to the right."""
    return markdown.table(columns, (map(markdown.cell, row) for row in rows), numeric) + "\n"
