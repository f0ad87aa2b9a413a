"""What became of one rule, and how a person is told.

Design decision: an outcome keeps the rule in words, the count and three examples, so that the error, `results.json` and the
page of results all say the same. Full lists of offenders are in Data Docs.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from pydantic import JsonValue

from components.core.errors import ValidationFailed
from components.validation.config import ValidationConfig

MAX_EXAMPLES = 3
"""Offenders named in an error."""
_MAX_RULES = 5
"""Broken rules spelt out in an error; further ones are counted."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One rule, held against one table."""

    suite: str
    subject: str
    """What was checked, e.g. the corpus."""
    unit: str
    """What a row of the table is, in the plural."""
    rule: str
    success: bool
    observed: JsonValue
    """What was found, for rules about a whole table; None for rules about rows."""
    num_rows: int | None
    num_unexpected: int | None
    """Rows that break the rule; None for rules about a whole table."""
    examples: tuple[str, ...]
    settings: tuple[str, ...]
    """The parameters that the rule refers to."""

    def record(self) -> dict[str, JsonValue]:
        """For `results.json`."""
        return {
            "suite": self.suite,
            "subject": self.subject,
            "rule": self.rule,
            "success": self.success,
            "observed": self.observed,
            "num_rows": self.num_rows,
            "num_unexpected": self.num_unexpected,
            "examples": list(self.examples),
        }

    def sentence(self) -> str:
        """The broken rule, the count and examples, in one line."""
        if self.num_unexpected is None:
            found = f"found {self.observed}"
        else:
            found = f"broken by {self.num_unexpected:,} of {self.num_rows:,} {self.unit}"
        examples = f", such as {'; '.join(self.examples)}" if self.examples else ""
        return f"{self.subject}: {self.rule}: {found}{examples}"


def outcome_of(result: ExpectationValidationResult, *, suite: str, subject: str, unit: str, key: Sequence[str]) -> Outcome:
    """Read a result of Great Expectations; `key` names the columns by which a person finds a row."""
    document = _unescaped(result.to_json_dict())
    rule, found = document["expectation_config"], document["result"]
    rows = found.get("partial_unexpected_index_list") or []
    return Outcome(
        suite=suite,
        subject=subject,
        unit=unit,
        rule=rule["description"],
        success=bool(document["success"]),
        observed=_observed(found, document["exception_info"]),
        num_rows=found.get("element_count"),
        num_unexpected=found.get("unexpected_count") if "element_count" in found else None,
        examples=tuple(_example(row, key) for row in rows[:MAX_EXAMPLES]),
        settings=tuple(rule["meta"]["settings"]),
    )


def failure(what: str, outcomes: Sequence[Outcome], page: Path) -> ValidationFailed:
    """The error for outcomes of which at least one is a failure; `page` is where Data Docs show it."""
    broken = [outcome for outcome in outcomes if not outcome.success]
    more = [f"and {len(broken) - _MAX_RULES} more"] if len(broken) > _MAX_RULES else []
    lines = [*(outcome.sentence() for outcome in broken[:_MAX_RULES]), *more]
    limits = sorted({name for outcome in broken for name in outcome.settings} & set(ValidationConfig.model_fields))
    change = f"; if a limit is wrong, change {', '.join(f'validation.{name}' for name in limits)}" if limits else ""
    return ValidationFailed(
        f"{what}: {len(broken)} of {len(outcomes)} rules are broken" + "".join(f"\n    {line}" for line in lines),
        expected="every rule to hold before anything expensive starts",
        do=f"open {page} to see all offenders, then mend or leave them out{change}",
    )


def _observed(found: Mapping[str, Any], exception: Mapping[str, Any]) -> JsonValue:
    if not found:
        # The rule could not be evaluated: one entry for each metric that failed, or a single one.
        entries = [exception] if "exception_message" in exception else list(exception.values())
        return "; ".join(sorted({str(entry["exception_message"]) for entry in entries}))
    if differences := _differences(found):
        return ", ".join(f"{side} {', '.join(map(str, names))}" for side, names in sorted(differences.items()))
    observed: JsonValue = found.get("observed_value")
    return observed


def _differences(found: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What a set of columns or of values lacks and has too much, for rules about such a set."""
    if "element_count" in found:
        return {}
    of_columns = found.get("details", {}).get("mismatched", {})
    of_values = {"missing": found.get("partial_missing_list"), "unexpected": found.get("partial_unexpected_list")}
    return {side: names for side, names in {**of_values, **of_columns}.items() if names}


def _unescaped(value: Any) -> Any:
    """Undo what made the table harmless to a page."""
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    return html.unescape(value) if isinstance(value, str) else value


def _example(row: Mapping[str, Any], key: Sequence[str]) -> str:
    place = "/".join(str(row[name]) for name in key)
    values = [f"{name} = {_short(value)}" for name, value in row.items() if name not in key]
    return f"{place} ({', '.join(values)})" if values else place


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else repr(value)[:60]
