"""Every rule of a validation, what was found, and whether it holds: also where a broken one ended the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.evaluation.report.cells import Cell, Column, Table
from components.evaluation.report.page import Section, Verdict

Rule = Mapping[str, Any]
"""One of `results.json`: see `components.validation.rule_results.RuleResult.record`."""

_COLUMNS = tuple(Column(title=title, numeric=False) for title in ("of", "rule", "holds", "found"))
_HOLDS: dict[bool | None, Cell] = {
    True: Cell(text="yes"),
    False: Cell(text="no", tone="strong"),
    None: Cell(text="not judged", tone="quiet"),
}
_SHOWN = Cell(text="no: a warning", tone="strong")


def rules_section(what: str, rules: Sequence[Rule]) -> Section:
    """The broken rules first.

    Args:
        what: what was judged, in words.
        rules: as `results.json` holds them.
    """
    critical = [one["success"] for one in rules if one["severity"] == "critical"]
    warnings = sum(one["success"] is False for one in rules) - critical.count(False)
    said = f"{critical.count(True)} of {len(critical)} rules that have to hold do; {warnings} of the others are broken."
    first = sorted(rules, key=lambda one: one["success"] is not False)
    table = Table(caption="Rules", columns=_COLUMNS, rows=tuple(_row(one) for one in first))
    return Section(
        anchor="rules",
        title=f"Rules for the {what}",
        lead="What Great Expectations found in all documents, not in a sample.",
        blocks=(Verdict(False not in critical, said), table),
    )


def _row(rule: Rule) -> tuple[Cell, ...]:
    only_shown = rule["success"] is False and rule["severity"] != "critical"
    holds = _SHOWN if only_shown else _HOLDS[rule["success"]]
    return (Cell(text=rule["subject"]), Cell(text=rule["rule"]), holds, Cell(text=_found(rule)))


def _found(rule: Rule) -> str:
    if rule["num_unexpected"] is None:
        return "" if rule["observed"] is None else str(rule["observed"])
    examples = f": {'; '.join(rule['examples'])}" if rule["examples"] else ""
    return f"{rule['num_unexpected']:,} of {rule['num_rows']:,} break it{examples}"
