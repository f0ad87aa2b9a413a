"""Problems of a benchmark and how they are checked, and the files that they are read from.

The text of a problem grows by turns: each turn appends a prompt, the model completes it, and the
truncated completion stays in the text for the next turn. The final program is checked by unit tests
or by its last print. How to add a benchmark: docs/adding-a-benchmark.md.

The equivalence rules for printed values are those of MTPB's official checker (docs/paper.md,
section 5), oddities included, since a faithful score needs them. The comparison runs outside the
jail on plain data, so no method of the program takes part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.core.errors import EvaluationError
from components.core.files import parse_json
from components.core.fingerprint import fingerprint
from components.evaluation.sandbox import NOTHING_PRINTED, FunctionTest, PrintedValue, Verdict
from components.evaluation.sandbox.jailed.values import ForeignObject, PandasSeries

FLOAT_TOLERANCE = 1e-6
"""Absolute tolerance of the official MTPB checker."""

RELATIVE_TOLERANCE = 1e-5
"""Relative tolerance of the official MTPB checker for the numbers of a pandas Series."""

_INTEGERS = (np.uint8, np.int16, np.int32, np.int64)
_FLOATS = (np.float16, np.float32, np.float64)


class UnitTests(NamedTuple):
    """Tests that define `check(candidate)`, which raises if the function `entry_point` is wrong."""

    test: str
    entry_point: str


class ExpectedPrint(NamedTuple):
    """The expected first argument of the program's last print, by MTPB's rules of equivalence."""

    expected: Any


class Problem(NamedTuple):
    """A programming task and its check."""

    task_id: str
    turns: tuple[str, ...]
    """The prompt of each turn. Trailing white space belongs to it: stripping it changes scores."""
    checker: UnitTests | ExpectedPrint
    max_new_tokens: int | None = None
    """Most tokens of a completion; none: the limit of the sample set."""
    suffix: str = ""
    """Appended after each completion."""
    unscored_prefix: str = ""
    """Beginning of the first prompt that does not count in the prompt perplexity."""
    group: str = ""
    """Problems of a group (the cases of an MTPB problem) are resampled together for confidence
    intervals."""

    def text(self, completions: Sequence[str]) -> str:
        """Return the text after these completions, with the next prompt if turns remain."""
        turns = zip(self.turns, completions, strict=False)
        history = "".join(f"{prompt}{completion}{self.suffix}" for prompt, completion in turns)
        next_turn = len(completions)
        return history + "".join(self.turns[next_turn : next_turn + 1])

    def program(self, completions: Sequence[str]) -> FunctionTest | str:
        """Return the function test to execute, or the complete text for its last print."""
        if isinstance(self.checker, UnitTests):
            test, entry_point = self.checker
            return FunctionTest(self.turns[0], completions[0], test, entry_point)
        return self.text(completions)

    def verdict(self, outcome: Verdict | PrintedValue) -> Verdict:
        """Return the verdict on the outcome of `program`."""
        if isinstance(outcome, PrintedValue) and isinstance(self.checker, ExpectedPrint):
            return grade_printed(outcome, self.checker.expected)
        return outcome if isinstance(outcome, Verdict) else outcome.exit_verdict

    def is_strict_pass(self, outcome: Verdict | PrintedValue) -> bool:
        """Whether an outcome of `program` passes by the strict rule (`is_strictly_equivalent`)."""
        if isinstance(outcome, PrintedValue) and isinstance(self.checker, ExpectedPrint):
            return is_strictly_equivalent(outcome, self.checker.expected)
        return self.verdict(outcome).passed


class Benchmark(NamedTuple):
    """A set of problems."""

    name: str
    sha256: str
    """Of the file that the problems were read from."""
    problems: tuple[Problem, ...]

    @property
    def digest(self) -> str:
        """Fingerprint of the file and of all prompts: another prompt is another benchmark."""
        prompts = [
            [problem.task_id, list(problem.turns), problem.max_new_tokens, problem.suffix]
            for problem in self.problems
        ]
        return fingerprint({"file": self.sha256, "prompts": prompts})


def grade_printed(printed: PrintedValue, expected: object) -> Verdict:
    """Return the verdict on a printing program.

    Its exit counts only if it printed nothing to compare, as upstream.
    """
    if printed.value is not NOTHING_PRINTED:
        return Verdict("passed" if is_equivalent(printed, expected) else "wrong_answer")
    return Verdict("no_print") if printed.exit_verdict.passed else printed.exit_verdict


def is_equivalent(printed: PrintedValue, expected: Any) -> bool:
    """Whether a printed value counts as `expected`.

    If the comparison raises, it does not, as upstream.
    """
    value = printed.value
    if isinstance(value, ForeignObject):
        value = ForeignObject(value.type_name, printed.text, value.items, value.numbers)
    try:
        with np.errstate(all="ignore"):
            return _compare(value, expected)
    except Exception:
        return False


def is_strictly_equivalent(printed: PrintedValue, expected: Any) -> bool:
    """Whether a printed value counts as `expected` and also has its kind.

    The official rules convert the value to the expected type, and compare a pandas Series with
    `np.allclose`, by which an empty Series equals any number. By the strict rule a number counts
    for a number, a text for a text, a truth value for a truth value, and a list, tuple, array or
    Series of the same length for a list, item by item. An empty Series counts for nothing.
    """
    return is_equivalent(printed, expected) and _has_kind_of(printed.value, expected)


def _has_kind_of(value: Any, expected: Any) -> bool:
    if isinstance(value, PandasSeries):
        value = value.array
        if value.size == 0:
            return False
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if type(expected) is list:
        return (
            type(value) in (list, tuple)
            and len(value) == len(expected)
            and all(map(_has_kind_of, value, expected))
        )
    if type(expected) in (int, float):
        tolerance = FLOAT_TOLERANCE + RELATIVE_TOLERANCE * abs(expected)
        return type(value) in (int, float) and abs(value - expected) < tolerance
    return type(value) is type(expected)


def _compare(value: Any, expected: Any) -> bool:
    # pandas 3 renamed the class `Series`, which the official checker no longer recognizes; this one
    # does.
    if isinstance(value, PandasSeries):
        return bool(np.allclose(value.array, np.array(expected)))
    value = _to_python(value)
    if type(value) is not type(expected):
        if type(expected) is bool:
            value, expected = str(value), str(expected)
        else:
            value = type(expected)(value)
    if type(value) is float:
        return bool(abs(value - expected) < FLOAT_TOLERANCE)
    if type(value) in (str, int, list, bool):
        return bool(value == expected)
    return False  # as upstream: a dictionary or None never counts


def _to_python(value: Any) -> Any:
    """Convert NumPy values to Python's, and a list of tuples to a list of lists."""
    if type(value) is list and value and type(value[0]) is tuple:
        return [list(item) for item in value]
    if type(value) in _INTEGERS:
        return int(value)
    if type(value) in _FLOATS:
        return float(value)
    if type(value) is np.bool_:
        return bool(value)
    return value.tolist() if type(value) is np.ndarray else value


def read_pinned(path: Path, sha256: str) -> bytes:
    """Read a benchmark's file and check its SHA-256.

    Raises:
        EvaluationError: another file.
    """
    content = path.read_bytes()
    require_sha256(str(path), content, sha256)
    return content


def require_sha256(name: str, content: bytes, sha256: str) -> None:
    """Check the content of a benchmark's file.

    Raises:
        EvaluationError: another file.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise EvaluationError(
            f"{name} has the SHA-256 {digest}",
            expected=f"the pinned file, {sha256}",
            fix="correct the path, or get the file with that SHA-256; for a file of your own, set "
            "benchmarks.NAME.sha256 of the recipe",
        )


def parse_jsonl(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file."""
    yield from (parse_json(line) for line in content.splitlines() if line.strip())
