"""What became of one rule, and how a person is told.

Design decision: an outcome keeps the rule in words, the count and three examples, so that the error, `results.json` and the
page of results all say the same. Where a table holds counts (of documents that break a rule, in each language), `Evidence`
says what was counted: people are told of the documents, not of the rows. Data Docs list all that are named.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from pydantic import JsonValue

from components.core.errors import ValidationFailedError
from components.validation.config import ValidationConfig
from components.validation.mergeable_stats import Example

CRITICAL = "critical"
"""The severity of a rule that stops a run. It is Great Expectations' word, and what a rule has that names none."""
MAX_EXAMPLES = 3
"""Offenders named in an error."""
MAX_OFFENDERS = 20
"""Offenders named on a page (Great Expectations' own default)."""
_MAX_RULES = 5
"""Broken rules spelt out in an error; further ones are counted."""


class ViolationCount(NamedTuple):
    """What a number in a table stands for."""

    num: int
    examples: tuple[str, ...]
    """Some of them, in words."""


@dataclass(frozen=True, kw_only=True)
class CountContext:
    """What the numbers of a table stand for, where they count things."""

    unit: str
    """What is counted, in the plural."""
    num_all: int
    """How many of them there are, in all rows together."""
    columns: Mapping[str, Mapping[str, ViolationCount]]
    """By column and row. A row is named by the values of the check's key, with "/" between them."""


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One rule, held against one table."""

    suite: str
    subject: str
    """What was checked, e.g. the corpus."""
    unit: str
    """What a row of the table is, in the plural."""
    rule: str
    severity: str
    """"critical" stops a run; "warning" and "info" are only shown."""
    success: bool | None
    """None where there was nothing to judge; `observed` then says why."""
    observed: JsonValue
    """What was found, for rules about a whole table; None for rules about rows."""
    num_rows: int | None
    num_unexpected: int | None
    """Rows, or things counted in them, that break the rule; None for rules about a whole table."""
    offenders: tuple[str, ...]
    """Some of them, in words."""
    settings: tuple[str, ...]
    """The parameters that the rule refers to."""

    @property
    def is_broken(self) -> bool:
        """Whether the rule was judged, and does not hold."""
        return self.success is False

    @property
    def is_blocking(self) -> bool:
        """Whether the run must not go on."""
        return self.is_broken and self.severity == CRITICAL

    @property
    def examples(self) -> tuple[str, ...]:
        """The offenders that an error names."""
        return self.offenders[:MAX_EXAMPLES]

    def record(self) -> dict[str, JsonValue]:
        """For `results.json`."""
        return {
            "suite": self.suite,
            "subject": self.subject,
            "rule": self.rule,
            "severity": self.severity,
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


def outcome_of(
    result: ExpectationValidationResult,
    *,
    suite: str,
    subject: str,
    unit: str,
    key: Sequence[str],
    evidence: CountContext | None = None,
) -> RuleResult:
    """Read a result of Great Expectations; `key` names the columns by which a person finds a row."""
    document = _unescaped(result.to_json_dict())
    rule, found = document["expectation_config"], document["result"]
    rows = found.get("unexpected_index_list") or []
    num_rows, num_unexpected = found.get("element_count"), found.get("unexpected_count")
    offenders = tuple(_example(row, key) for row in rows[:MAX_OFFENDERS])
    counted = evidence.columns.get(rule["kwargs"].get("column")) if evidence else None
    if evidence and counted is not None:
        whole_table = num_rows is None
        mine = [
            counted[name]
            for name in (counted if whole_table else [_place(row, key) for row in rows])
            if name in counted
        ]
        offenders = tuple(example for one in mine for example in one.examples)[:MAX_OFFENDERS]
        if not whole_table:
            unit, num_rows, num_unexpected = (
                evidence.unit,
                evidence.num_all,
                sum(one.num for one in mine),
            )
    return RuleResult(
        suite=suite,
        subject=subject,
        unit=unit,
        rule=rule["description"],
        severity=str(rule.get("severity") or CRITICAL),
        success=bool(document["success"]),
        observed=_observed(found),
        num_rows=num_rows,
        num_unexpected=num_unexpected if num_rows is not None else None,
        offenders=() if document["success"] else offenders,
        settings=tuple(rule["meta"]["settings"]),
    )


def not_judged(suite: str, subject: str, why: str) -> RuleResult:
    """The outcome of a suite for which there was nothing to look at: neither held nor broken."""
    return RuleResult(
        suite=suite,
        subject=subject,
        unit="",
        rule="(none of this suite's rules was judged)",
        severity="info",
        success=None,
        observed=why,
        num_rows=None,
        num_unexpected=None,
        offenders=(),
        settings=(),
    )


def failure(what: str, outcomes: Sequence[RuleResult], page: Path) -> ValidationFailedError:
    """The error for outcomes of which at least one stops the run; `page` is where Data Docs show it."""
    broken = [outcome for outcome in outcomes if outcome.is_blocking]
    more = [f"and {len(broken) - _MAX_RULES} more"] if len(broken) > _MAX_RULES else []
    lines = [*(outcome.sentence() for outcome in broken[:_MAX_RULES]), *more]
    limits = sorted(
        {name for outcome in broken for name in outcome.settings}
        & set(ValidationConfig.model_fields)
    )
    change = (
        f"; if a limit is wrong, change {', '.join(f'validation.{name}' for name in limits)}"
        if limits
        else ""
    )
    return ValidationFailedError(
        f"{what}: {len(broken)} of {num_judged(outcomes)} rules are broken"
        + "".join(f"\n    {line}" for line in lines),
        expected="every rule to hold before anything expensive starts",
        fix=f"open {page} to see more offenders, then mend or leave them out{change}",
    )


def num_judged(outcomes: Sequence[RuleResult]) -> int:
    """Rules that stop a run where they are broken."""
    return sum(outcome.severity == CRITICAL for outcome in outcomes)


def expectation_error(result: ExpectationValidationResult) -> str:
    """Why a rule could not be judged at all; nothing where it was."""
    exception = result.to_json_dict()["exception_info"]
    # One entry for each metric that failed, or a single one.
    entries = [exception] if "raised_exception" in exception else list(exception.values())
    return "; ".join(
        sorted({str(entry["exception_message"]) for entry in entries if entry["raised_exception"]})
    )


def _observed(found: Mapping[str, Any]) -> JsonValue:
    if differences := _differences(found):
        return ", ".join(
            f"{side} {', '.join(map(str, names))}" for side, names in sorted(differences.items())
        )
    observed: JsonValue = found.get("observed_value")
    return observed


def _differences(found: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What a set of columns or of values lacks and has too much, for rules about such a set."""
    if "element_count" in found:
        return {}
    of_columns = found.get("details", {}).get("mismatched", {})
    of_values = {
        "missing": found.get("partial_missing_list"),
        "unexpected": found.get("partial_unexpected_list"),
    }
    return {side: names for side, names in {**of_values, **of_columns}.items() if names}


def _unescaped(value: Any) -> Any:
    """Undo what made the table harmless to a page."""
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    return html.unescape(value) if isinstance(value, str) else value


def _example(row: Mapping[str, Any], key: Sequence[str]) -> str:
    place = _place(row, key)
    values = [f"{name} = {_short(value)}" for name, value in row.items() if name not in key]
    return f"{place} ({', '.join(values)})" if values else place


def _place(row: Mapping[str, Any], key: Sequence[str]) -> str:
    return "/".join(str(row[name]) for name in key)


def in_words(example: Example, name: str) -> str:
    """A document that breaks a rule, and the value that does, called `name`."""
    place = f"{example.source}/{example.path}"
    return f"{place} ({name} = {_short(example.value)})" if name else place


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else repr(value)[:60]
