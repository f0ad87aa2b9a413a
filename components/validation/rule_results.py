"""The result of a rule, and its text for users.

A result contains the rule's description, the count and three examples, so that the error,
`results.json` and the results report agree. For a table of counts (documents that violate a rule,
by language), `CountContext` names the counted things, so that results refer to documents and not to
rows of the table.
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
from components.data.config import MaxDroppedShare
from components.validation.config import ValidationConfig
from components.validation.dropped_text import limit_parameter
from components.validation.mergeable_stats import Example, RuleViolations

CRITICAL = "critical"
"""Great Expectations' severity of a rule that stops a run, and its default."""
_EXAMPLES_PER_ERROR = 3
"""Offenders that an error and `results.json` name for a rule."""
MAX_OFFENDERS = 20
"""Offenders on a page (Great Expectations' default)."""
_MAX_RULES = 5
"""Broken rules in an error; further rules are counted."""
_RECORD_FIELDS = (
    "suite", "subject", "rule", "severity", "success", "observed", "num_rows", "num_unexpected"
)  # fmt: skip
"""Fields of `RuleResult` in `results.json`, beside the examples."""


class ViolationCount(NamedTuple):
    """A number in a table of counts, and examples of the counted things."""

    num: int
    examples: tuple[str, ...]
    description: str = ""
    """If set, results show it instead of the number."""

    @classmethod
    def of(cls, violations: RuleViolations, value_name: str, prefix: str = "") -> ViolationCount:
        """Format violations; `value_name` is the name of the wrong value, or empty."""
        examples = [prefix + _format_example(item, value_name) for item in violations.examples]
        return cls(violations.num, tuple(examples))


@dataclass(frozen=True, kw_only=True)
class CountContext:
    """The things that a table counts."""

    unit: str
    """The counted things, in the plural."""
    num_all: int
    """Their number in all rows together."""
    columns: Mapping[str, Mapping[str, ViolationCount]]
    """By column, then by the value of the row's first column."""


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """The result of a rule for a table."""

    suite: str
    subject: str
    """The validated data, e.g. the corpus."""
    rule: str
    """The description of the rule."""
    severity: str
    """"critical" stops a run; "warning" and "info" are only reported."""
    success: bool | None
    """None if the rule was not evaluated; `observed` then has the reason."""
    observed: JsonValue
    """The observed value of a rule about a whole table; None for a rule about rows."""
    unit: str = ""
    """The rows of the table, or the things that it counts, in the plural."""
    num_rows: int | None = None
    num_unexpected: int | None = None
    """Rows, or things counted in them, that violate the rule; None for a rule about a table."""
    offenders: tuple[str, ...] = ()
    """Descriptions of some of them."""
    parameters: tuple[str, ...] = ()
    """The parameters that the rule refers to."""

    @property
    def is_broken(self) -> bool:
        """Whether the rule was evaluated and failed."""
        return self.success is False

    @property
    def is_blocking(self) -> bool:
        """Whether the rule stops the run."""
        return self.is_broken and self.severity == CRITICAL

    @property
    def examples(self) -> tuple[str, ...]:
        """The offenders for an error."""
        return self.offenders[:_EXAMPLES_PER_ERROR]

    def record(self) -> dict[str, JsonValue]:
        """Return the entry in `results.json`."""
        values = {name: getattr(self, name) for name in _RECORD_FIELDS}
        return {**values, "examples": list(self.examples)}

    @property
    def problem(self) -> str:
        """How the rule is broken."""
        if self.num_unexpected is None:
            return f"observed {self.observed}"
        return f"broken by {self.num_unexpected:,} of {self.num_rows:,} {self.unit}"

    def summary(self) -> str:
        """Return the broken rule with count and examples, in one line."""
        examples = f", such as {'; '.join(self.examples)}" if self.examples else ""
        return f"{self.subject}: {self.rule}: {self.problem}{examples}"


def to_rule_result(
    result: ExpectationValidationResult,
    *,
    suite: str,
    subject: str,
    unit: str,
    key: str,
    context: CountContext | None = None,
) -> RuleResult:
    """Convert a result of Great Expectations; the column `key` identifies a row."""
    document = _unescape_html(result.to_json_dict())
    rule = document["expectation_config"]
    details = document["result"]
    rows = details.get("unexpected_index_list") or []
    num_rows = details.get("element_count")
    num_unexpected = details.get("unexpected_count") if num_rows is not None else None
    observed = _observed_value(details)
    offenders = [_describe_row(row, key) for row in rows[:MAX_OFFENDERS]]
    counts = context.columns.get(rule["kwargs"].get("column")) if context else None
    if context and counts is not None:
        row_names = counts if num_rows is None else [row[key] for row in rows]
        violations = [counts[name] for name in row_names if name in counts]
        offenders = [example for item in violations for example in item.examples]
        if num_rows is not None:
            unit = context.unit
            num_rows = context.num_all
            num_unexpected = sum(item.num for item in violations)
            if descriptions := [item.description for item in violations if item.description]:
                num_rows = num_unexpected = None
                observed = "; ".join(descriptions)
    return RuleResult(
        suite=suite,
        subject=subject,
        unit=unit,
        rule=rule["description"],
        severity=str(rule.get("severity") or CRITICAL),
        success=bool(document["success"]),
        observed=observed,
        num_rows=num_rows,
        num_unexpected=num_unexpected,
        offenders=() if document["success"] else tuple(offenders[:MAX_OFFENDERS]),
        parameters=tuple(rule["meta"]["parameters"]),
    )


def skipped_suite(suite: str, subject: str, reason: str) -> RuleResult:
    """Return the result of a suite that was not evaluated."""
    return RuleResult(
        suite=suite,
        subject=subject,
        rule="(the rules of this suite were not evaluated)",
        severity="info",
        success=None,
        observed=reason,
    )


def validation_error(
    title: str, results: Sequence[RuleResult], page: Path
) -> ValidationFailedError:
    """Return the error for results with blocking rules; `page` has all offenders."""
    broken = [result for result in results if result.is_blocking]
    lines = [result.summary() for result in broken[:_MAX_RULES]]
    if len(broken) > _MAX_RULES:
        lines.append(f"and {len(broken) - _MAX_RULES} more")
    limits = {
        f"validation.corpora.{result.subject}.{name}"
        for result in broken
        for name in result.parameters
        if name in ValidationConfig.model_fields
    }
    settings = sorted(limits)
    settings += [f"{corpus}.max_dropped_share.{step}" for corpus, step in _broken_steps(broken)]
    rules = [f"{corpus}.{step}" for corpus, step in _broken_steps(broken)]
    change = f"; if a rule does not fit the text, change {', '.join(rules)}" if rules else ""
    change += f"; if a limit is wrong, change {', '.join(settings)}" if settings else ""
    return ValidationFailedError(
        f"{title}: {len(broken)} of {count_critical(results)} rules are broken"
        + "".join(f"\n    {line}" for line in lines),
        expected="no broken rule",
        fix=f"open {page} for more examples, then correct or remove these data{change}",
    )


def _broken_steps(broken: Sequence[RuleResult]) -> list[tuple[str, str]]:
    """Return the corpus and the step, both as in a recipe, of each limit of a step."""
    return [
        (f"data.corpora.{result.subject}", step)
        for result in broken
        for step in MaxDroppedShare.model_fields
        if limit_parameter(step) in result.parameters
    ]


def count_critical(results: Sequence[RuleResult]) -> int:
    """Return the number of rules that stop a run if they are broken."""
    return sum(result.severity == CRITICAL for result in results)


def expectation_error(result: ExpectationValidationResult) -> str:
    """Return why a rule could not be evaluated; empty if it was evaluated."""
    exception = result.to_json_dict()["exception_info"]
    # A single entry, or an entry for each metric that failed.
    entries = [exception] if "raised_exception" in exception else list(exception.values())
    messages = {str(entry["exception_message"]) for entry in entries if entry["raised_exception"]}
    return "; ".join(sorted(messages))


def _observed_value(details: Mapping[str, Any]) -> JsonValue:
    """Return the observed value; for a rule about a set, the missing and unexpected elements."""
    if "element_count" not in details:
        differences = {
            "missing": details.get("partial_missing_list"),
            "unexpected": details.get("partial_unexpected_list"),
            **details.get("details", {}).get("mismatched", {}),
        }
        texts = [
            f"{kind} {', '.join(map(str, names))}"
            for kind, names in sorted(differences.items())
            if names
        ]
        if texts:
            return ", ".join(texts)
    observed: JsonValue = details.get("observed_value")
    return observed


def _unescape_html(value: Any) -> Any:
    """Undo the escaping of the table for Great Expectations."""
    if isinstance(value, dict):
        return {key: _unescape_html(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescape_html(item) for item in value]
    return html.unescape(value) if isinstance(value, str) else value


def _describe_row(row: Mapping[str, Any], key: str) -> str:
    values = [f"{name} = {_format_value(value)}" for name, value in row.items() if name != key]
    return f"{row[key]} ({', '.join(values)})" if values else str(row[key])


def _format_example(example: Example, value_name: str) -> str:
    name = f"{example.source}/{example.path}"
    return f"{name} ({value_name} = {_format_value(example.value)})" if value_name else name


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else repr(value)[:60]
