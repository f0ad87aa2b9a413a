"""The rules of a validation as a section: failed rules first, warnings separate from critical
failures."""

from __future__ import annotations

from typing import Any

from components.report.corpus import rules_section
from components.report.rendering import sections_markdown


def rule(
    name: str, success: bool | None, severity: str = "critical", **result: Any
) -> dict[str, Any]:
    """As `Outcome.record` writes it."""
    nothing = {"observed": None, "num_rows": None, "num_unexpected": None, "examples": []}
    return {
        "suite": "raw",
        "subject": "mono",
        "rule": name,
        "severity": severity,
        "success": success,
        **nothing,
        **result,
    }


def test_failed_rules_come_first_with_examples() -> None:
    broken = rule(
        "no control characters",
        False,
        num_rows=1200,
        num_unexpected=2,
        examples=["a/b.py", "c/d.py"],
    )
    visible = rule("sizes as before", False, "warning", observed=0.25)
    holds, unjudged = (
        rule("no NUL", True, num_rows=1200, num_unexpected=0),
        rule("drift", None, "info", observed="first"),
    )
    rules = [holds, broken, visible, unjudged]
    text = sections_markdown([rules_section("raw corpora", rules)])
    assert "✗ 1 of 2 critical rules hold; 1 other rules fail" in text.replace("\\", "")
    rows = [line.replace("\\", "") for line in text.splitlines() if line.startswith("| mono")]
    assert rows == [
        "| mono | no control characters | **no** | 2 of 1,200 fail: a/b.py; c/d.py |",
        "| mono | sizes as before | **no: a warning** | 0.25 |",
        "| mono | no NUL | yes | 0 of 1,200 fail |",
        "| mono | drift | not evaluated | first |",
    ]


def test_a_validation_without_failures_is_confirmed() -> None:
    text = sections_markdown([rules_section("raw corpora", [rule("no NUL", True)])])
    assert "✓ 1 of 1 critical rules hold; 0 other rules fail" in text.replace("\\", "")
