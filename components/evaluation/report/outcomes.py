"""What became of the samples: how many passed, how the others failed, how many were cut, and which exceptions there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from components.evaluation.report.cells import Cell, Column, Table
from components.evaluation.report.measured import (
    PASSED,
    Measured,
    Result,
    ordered_sets,
    set_name,
    spoken,
)
from components.evaluation.report.results import STAGE_NAMES
from components.evaluation.report.wording import count

_MAX_EXCEPTIONS = 8
"""Names of exceptions that are listed."""


def outcome_tables(ours: Measured) -> tuple[Table, ...]:
    """How the samples of every stage and set ended; nothing where nothing was executed."""
    if not ours.executed:
        return ()
    kinds = {kind for result in ours.executed.values() for kind in result["outcomes"]} | {PASSED}
    ordered = sorted(kinds, key=lambda kind: (kind != PASSED, kind))
    rows = [
        _row(stage, set_name(label, one) if len(result["sets"]) > 1 else "", one, ordered)
        for stage, result in ours.executed.items()
        for label, one in ordered_sets(result).items()
    ]
    titles = ("samples", *(spoken(kind) for kind in ordered), "cut", "unfinished", "tokens")
    table = Table(
        caption="What became of the samples",
        columns=(Column(title="after", numeric=False), *(Column(title=title) for title in titles)),
        rows=tuple(rows),
        sources=ours.sources,
        footnote="Cut: completions of which the paper's rules cut something off. Unfinished: those that had all the tokens "
        "that they could have, with nothing to cut. Tokens: as drawn.",
    )
    return (table, *_exceptions(ours))


def _row(stage: str, name: str, one: Result, kinds: Sequence[str]) -> tuple[Cell, ...]:
    outcomes = one["outcomes"]
    counts = (
        Cell(text=f"{outcomes.get(kind, 0):,}", tone="strong" if kind == PASSED else "plain")
        for kind in kinds
    )
    return (
        Cell(text=f"{STAGE_NAMES[stage]}, {name}" if name else STAGE_NAMES[stage], mark=stage),
        Cell(text=f"{sum(outcomes.values()):,}"),
        *counts,
        Cell(text=f"{one['num_truncated']:,}"),
        Cell(text=f"{one['num_unfinished']:,}"),
        Cell(text=count(one["num_tokens"]), title=f"{one['num_tokens']:,}"),
    )


def _exceptions(ours: Measured) -> tuple[Table, ...]:
    """The most frequent exceptions, as the programs named them."""
    raised = {
        stage: sum((Counter(one["exceptions"]) for one in result["sets"].values()), Counter[str]())
        for stage, result in ours.executed.items()
    }
    total = sum(raised.values(), Counter[str]())
    if not total:
        return ()
    frequent = [name for name, _ in sorted(total.items(), key=lambda one: (-one[1], one[0]))]
    named, others = frequent[:_MAX_EXCEPTIONS], frequent[_MAX_EXCEPTIONS:]
    rows = [
        (Cell(text=name), *(Cell(text=f"{some[name]:,}") for some in raised.values()))
        for name in named
    ]
    if others:
        rest = (Cell(text=f"{sum(some[name] for name in others):,}") for some in raised.values())
        rows.append((Cell(text=f"{len(others)} other types", tone="quiet"), *rest))
    return (
        Table(
            caption="Exceptions by their type",
            columns=(
                Column(title="type", numeric=False),
                *(Column(title=STAGE_NAMES[stage]) for stage in raised),
            ),
            rows=tuple(rows),
            sources=ours.sources,
        ),
    )
