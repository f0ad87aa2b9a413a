"""Benchmark files: JSONL in three formats, with a parser and the text to search for of each.

HumanEval  task_id, prompt, entry_point, test            also HumanEval+
MBPP       task_id, text (or prompt), test_list          Austin et al. 2021, arXiv 2108.07732
MTPB       id, prompts, inputs, outputs
"""

from __future__ import annotations

import builtins
import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import EvaluationError
from components.core.files import parse_json
from components.evaluation.benchmarks.mtpb import parse_conversation
from components.evaluation.benchmarks.problem import Benchmark, Problem, UnitTests
from components.evaluation.config import HUMANEVAL_SHA256, official_name_like

Record = Mapping[str, Any]


def _parse_humaneval(record: Record) -> list[Problem]:
    prompt, test, entry_point = record["prompt"], record["test"], record["entry_point"]
    for text in (prompt, test, entry_point):
        if not isinstance(text, str) or not text.strip():
            raise TypeError("prompt, test and entry_point must be non-empty texts")
    return [Problem(str(record["task_id"]), (prompt,), UnitTests(test, entry_point))]


def parse_mbpp(record: Record) -> list[Problem]:
    """Parse a record with `task_id`, `text` or `prompt`, `test_list`, and optional setup code.

    The prompt is a docstring with the description and the assertions, as in the MBPP paper; the
    completion is the complete function. Zero-shot: no examples precede it. The setup is in
    `test_setup_code`, in the sanitized version in `test_imports`.
    """
    tests = [str(test) for test in record["test_list"]]
    description = record.get("text") or record["prompt"]
    assertions = "\n".join(tests)
    prompt = f'"""\n{description}\n{assertions}\n"""\n'
    entry_point = _entry_point(tests, record)
    imports = [str(line) for line in record.get("test_imports") or ()]
    setup = "\n".join([*imports, record.get("test_setup_code") or ""])
    check = "\n".join(f"    {line}" for test in tests for line in test.splitlines())
    test_source = f"{setup}\ndef check({entry_point}):\n{check}\n"
    unit_tests = UnitTests(test_source, entry_point)
    return [Problem(f"MBPP/{record['task_id']}", (prompt,), unit_tests)]


def _entry_point(tests: list[str], record: Record) -> str:
    """Return the tested function: the name that the solution defines, else an unknown name."""
    called: list[str] = [name for test in tests for name in re.findall(r"(?<![\w.])(\w+)\(", test)]
    defined: list[str] = re.findall(r"^def (\w+)", str(record.get("code", "")), re.MULTILINE)
    tested = [name for name in defined if name in called]
    unknown = [name for name in called if not hasattr(builtins, name)]
    names = tested or unknown
    if not names:
        raise ValueError(f"no function is called in {tests}")
    return names[0]


class SearchText(NamedTuple):
    """The text of a problem that training documents must not contain."""

    problem: str
    text: str


def _humaneval_text(record: Record) -> SearchText:
    text = f"{record['prompt']}{record.get('canonical_solution') or ''}"
    return SearchText(str(record["task_id"]), text)


def _mbpp_text(record: Record) -> SearchText:
    description = record.get("text") or record["prompt"]
    lines = [description, *record["test_list"], record.get("code") or ""]
    return SearchText(f"MBPP/{record['task_id']}", "\n".join(map(str, lines)))


def _conversation_text(record: Record) -> SearchText:
    return SearchText(str(int(record["id"])), "\n".join(record["prompts"]))


class Format(NamedTuple):
    """A format of records."""

    fields: frozenset[str]
    """The fields that identify it."""
    parse: Callable[[Record], list[Problem]]
    search_text: Callable[[Record], SearchText]
    """Returns prompt and reference solution, as far as the record has them."""


FORMATS = {
    "HumanEval": Format(
        frozenset({"task_id", "prompt", "entry_point", "test"}), _parse_humaneval, _humaneval_text
    ),
    "MBPP": Format(frozenset({"task_id", "test_list"}), parse_mbpp, _mbpp_text),
    "MTPB": Format(
        frozenset({"id", "prompts", "inputs", "outputs"}), parse_conversation, _conversation_text
    ),
}
"""The formats by name. The first match counts."""


def read_benchmark(path: Path, name: str = "") -> Benchmark:
    """Read the problems of a `.jsonl` or `.jsonl.gz` file.

    Args:
        path: the file.
        name: of the benchmark; empty: the name of the file, other than HumanEval and MTPB.

    Raises:
        EvaluationError: the file does not exist or has a reserved name, or a line is invalid
            (names it).
    """
    if not path.is_file():
        raise EvaluationError(
            f"{path} does not exist",
            expected="humaneval, mtpb, or a JSONL file of problems",
            fix="correct --benchmark",
        )
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if not name:
        name = path.name.removesuffix(".gz").removesuffix(".jsonl").lower()
        _refuse_reserved_name(path, name, sha256)
    problems = [problem for parsed, _ in _parse_lines(path, content) for problem in parsed]
    _require_unique(path, [problem.task_id for problem in problems])
    return Benchmark(name, sha256, tuple(problems))


def read_search_texts(path: Path) -> list[SearchText]:
    """Read the texts of the problems that decontamination searches for.

    Raises:
        EvaluationError: a line is invalid (names it), or two problems have the same name.
    """
    texts = [text for _, text in _parse_lines(path, path.read_bytes())]
    _require_unique(path, [text.problem for text in texts])
    return texts


def _require_unique(path: Path, task_ids: list[str]) -> None:
    repeated = [task_id for task_id, count in Counter(task_ids).items() if count > 1]
    if repeated or not task_ids:
        defect = f"the task_id {min(repeated)!r} more than once" if repeated else "no problem"
        raise EvaluationError(
            f"{path} has {defect}",
            expected="problems, each with a task_id of its own",
            fix="correct the file",
        )


def _refuse_reserved_name(path: Path, name: str, sha256: str) -> None:
    """Scores of custom problems must not look like scores of HumanEval or MTPB."""
    official = official_name_like(name)
    if official and sha256 != HUMANEVAL_SHA256:
        raise EvaluationError(
            f"{path} has the reserved name of {official}",
            expected="another name for custom problems",
            fix=f"rename the file, or run the pinned problems: --benchmark {official}; "
            "omit --problems for samples of HumanEval",
        )


def read_lines(path: Path, content: bytes) -> list[bytes]:
    """Return the lines of a file that may be compressed.

    Raises:
        EvaluationError: the file is named `.gz` and is not a complete gzip file.
    """
    try:
        return (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(
            f"{path} is not a complete gzip file ({error})",
            expected="JSONL",
            fix="download it again",
        ) from error


def _parse_lines(path: Path, content: bytes) -> Iterator[tuple[list[Problem], SearchText]]:
    for number, line in enumerate(read_lines(path, content), 1):
        if line.strip():
            yield _parse_line(path, number, line)


def _parse_line(path: Path, number: int, line: bytes) -> tuple[list[Problem], SearchText]:
    try:
        record = parse_json(line)
        for record_format in FORMATS.values():
            if isinstance(record, dict) and record_format.fields <= record.keys():
                return record_format.parse(record), record_format.search_text(record)
        if isinstance(record, dict):
            got = f"has the fields {', '.join(sorted(record))}"
        else:
            got = "is not a JSON object"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        got = f"is not a valid problem ({type(error).__name__}: {error})"
    formats = "; ".join(
        f"{', '.join(sorted(record_format.fields))} ({name})"
        for name, record_format in FORMATS.items()
    )
    raise EvaluationError(
        f"{path}:{number} {got}", expected=f"a JSON object with {formats}", fix="correct the line"
    )
