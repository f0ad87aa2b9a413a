"""MBPP (Austin et al. 2021, arXiv 2108.07732) as a third benchmark: an example of how one joins in a single file.

A record has a sentence, and assertions that call the function by its name. The prompt is a docstring with both, as in that
paper's description of its prompts; the completion is the whole function. Zero-shot: no examples come before it.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from typing import Any

from components.evaluation.benchmarks.problem import Problem, UnitTests


def mbpp_problem(record: Mapping[str, Any]) -> list[Problem]:
    """The problem of a record with `task_id`, `text` or `prompt`, `test_list`, and maybe `test_setup_code` or `test_imports`
    (its sanitized version has the latter)."""
    tests = [str(one) for one in record["test_list"]]
    asked = record.get("text") or record["prompt"]
    lines = "\n".join(tests)
    prompt = f'"""\n{asked}\n{lines}\n"""\n'
    entry_point = _entry_point(tests, record)
    setup = "\n".join(
        [*map(str, record.get("test_imports") or ()), record.get("test_setup_code") or ""]
    )
    check = "\n".join(f"    {line}" for one in tests for line in one.splitlines())
    test = f"{setup}\ndef check({entry_point}):\n{check}\n"
    return [Problem(f"MBPP/{record['task_id']}", (prompt,), UnitTests(test, entry_point))]


def _entry_point(tests: list[str], record: Mapping[str, Any]) -> str:
    """The function that a given solution defines and the assertions call; else the first that they call and nobody has."""
    called: list[str] = [name for test in tests for name in re.findall(r"(?<![\w.])(\w+)\(", test)]
    defined: list[str] = re.findall(r"^def (\w+)", str(record.get("code", "")), re.MULTILINE)
    unknown = [name for name in called if not hasattr(builtins, name)]
    found = next((name for name in defined if name in called), unknown[0] if unknown else None)
    if found is None:
        raise ValueError(f"no function is called in {tests}")
    return found
