"""What a benchmark is made of: one small interface that HumanEval, MTPB and any third benchmark fill in.

A problem is a text that grows: every turn appends a prompt, the model completes it, and the completion, cut by the rules of
`truncate`, stays there for the next turn. At the end the program is judged, by tests or by what it prints. How to add a
benchmark: docs/adding-a-benchmark.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from components.core.fingerprint import fingerprint
from components.evaluation.benchmarks.mtpb_equivalence import equivalent
from components.evaluation.sandbox import NOTHING_PRINTED, FunctionTest, PrintedValue, Verdict


class UnitTests(NamedTuple):
    """Judged by tests: `test` defines `check(candidate)`, which raises where the function `entry_point` is wrong."""

    test: str
    entry_point: str


class ExpectedPrint(NamedTuple):
    """Judged by the first argument of the last print of the whole text, by MTPB's rules of equivalence."""

    expected: Any


class Problem(NamedTuple):
    """One thing to write, and how it is judged."""

    task_id: str
    turns: tuple[str, ...]
    """What is appended before each completion. White space at its end belongs to it: stripping it changes scores."""
    checker: UnitTests | ExpectedPrint
    max_new_tokens: int | None = None
    """The most tokens of a completion; none: as many as the run allows."""
    suffix: str = ""
    """What is appended after each completion."""
    unscored_prefix: str = ""
    """What the first turn begins with that does not count in the perplexity of prompts."""
    group: str = ""
    """Problems of one group are resampled together for confidence intervals (the cases of one MTPB problem); else alone."""

    def text(self, completions: Sequence[str]) -> str:
        """What there is after some completions: where there are fewer than turns, the next prompt is at its end."""
        parts = [
            f"{turn}{completion}{self.suffix}"
            for turn, completion in zip(self.turns, completions, strict=False)
        ]
        return "".join([*parts, *self.turns[len(completions) : len(completions) + 1]])

    def program(self, completions: Sequence[str]) -> FunctionTest | str:
        """What is executed: a trial for tests, or the whole text for its last print."""
        if isinstance(self.checker, UnitTests):
            return FunctionTest(
                self.turns[0], completions[0], self.checker.test, self.checker.entry_point
            )
        return self.text(completions)

    def verdict(self, outcome: Verdict | PrintedValue) -> Verdict:
        """The verdict on what came of `program`."""
        if isinstance(outcome, PrintedValue) and isinstance(self.checker, ExpectedPrint):
            return grade_printed(outcome, self.checker.expected)
        return outcome if isinstance(outcome, Verdict) else outcome.end


def grade_printed(printed: PrintedValue, expected: object) -> Verdict:
    """The verdict on a printing program. How it ended counts only where it printed nothing to compare, as upstream."""
    if printed.value is not NOTHING_PRINTED:
        return Verdict("passed" if equivalent(printed, expected) else "wrong_answer")
    return Verdict("no_print") if printed.end.passed else printed.end


class Benchmark(NamedTuple):
    """Problems, and from which bytes they come."""

    name: str
    sha256: str
    """Of the file that they were read from."""
    problems: tuple[Problem, ...]

    @property
    def digest(self) -> str:
        """Of all that a model is asked: another prompt is another benchmark."""
        asked = [
            [one.task_id, list(one.turns), one.max_new_tokens, one.suffix] for one in self.problems
        ]
        return fingerprint({"file": self.sha256, "asked": asked})
