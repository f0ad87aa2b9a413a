"""Tables in Markdown, as MLflow's and Prefect's pages and the cards show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Iterable[str]], numeric: Iterable[int] = ()) -> str:
    """Rows under their heads, without a final line break; `numeric` columns stand to the right. Cells are Markdown."""
    right = set(numeric)
    rule = ("---:" if number in right else "---" for number in range(len(head)))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def cell(text: str) -> str:
    """A text that does not end its cell."""
    return text.replace("|", r"\|")
