"""The rules of a validation as a section: the broken ones first, and what stops a run told from what is only shown."""

from __future__ import annotations

from typing import Any

from components.evaluation.report.markdown import markdown_of
from components.evaluation.report.rules import rules_section


def rule(
    name: str, success: bool | None, severity: str = "critical", **found: Any
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
        **found,
    }


def test_broken_rules_come_first_and_say_by_what() -> None:
    broken = rule(
        "no control characters",
        False,
        num_rows=1200,
        num_unexpected=2,
        examples=["a/b.py", "c/d.py"],
    )
    shown = rule("sizes as before", False, "warning", observed=0.25)
    holds, unjudged = (
        rule("no NUL", True, num_rows=1200, num_unexpected=0),
        rule("drift", None, "info", observed="first"),
    )
    rules = [holds, broken, shown, unjudged]
    text = markdown_of([rules_section("raw corpora", rules)])
    assert "✗ 1 of 2 rules that have to hold do; 1 of the others are broken" in text.replace(
        "\\", ""
    )
    rows = [line.replace("\\", "") for line in text.splitlines() if line.startswith("| mono")]
    assert rows == [
        "| mono | no control characters | **no** | 2 of 1,200 break it: a/b.py; c/d.py |",
        "| mono | sizes as before | **no: a warning** | 0.25 |",
        "| mono | no NUL | yes | 0 of 1,200 break it |",
        "| mono | drift | not judged | first |",
    ]


def test_where_all_hold_it_says_so() -> None:
    text = markdown_of([rules_section("raw corpora", [rule("no NUL", True)])])
    assert "✓ 1 of 1 rules that have to hold do; 0 of the others are broken" in text.replace(
        "\\", ""
    )
