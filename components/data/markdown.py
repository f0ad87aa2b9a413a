"""Tables and sizes as Markdown shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """Rows under their heads; `numeric` columns stand to the right."""
    right = set(numeric)
    rule = ["---:" if number in right else "---" for number in range(len(columns))]
    lines = [list(columns), rule, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
