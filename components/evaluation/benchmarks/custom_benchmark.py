"""A benchmark of one's own: a JSONL file in HumanEval's, MBPP's or MTPB's form. One reader a form; a further one joins here.

HumanEval's  task_id, prompt, entry_point, test            also HumanEval+, whose file has this form
MBPP's       task_id, text (or prompt), test_list          `mbpp`
MTPB's       id, prompts, inputs, outputs
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.core.errors import EvaluationError
from components.evaluation.benchmarks.mbpp import mbpp_problem
from components.evaluation.benchmarks.mtpb import conversations
from components.evaluation.benchmarks.problem import Benchmark, Problem, UnitTests
from components.evaluation.benchmarks.problems import HUMANEVAL_SHA256

Record = Mapping[str, Any]


def _humaneval(record: Record) -> list[Problem]:
    prompt, test, entry_point = (record[name] for name in ("prompt", "test", "entry_point"))
    if not all(isinstance(one, str) and one.strip() for one in (prompt, test, entry_point)):
        raise TypeError("prompt, test and entry_point are to be texts, and not empty")
    return [Problem(str(record["task_id"]), (prompt,), UnitTests(test, entry_point))]


FORMATS: dict[str, tuple[frozenset[str], Callable[[Record], list[Problem]]]] = {
    "HumanEval": (frozenset({"task_id", "prompt", "entry_point", "test"}), _humaneval),
    "MBPP": (frozenset({"task_id", "test_list"}), mbpp_problem),
    "MTPB": (frozenset({"id", "prompts", "inputs", "outputs"}), conversations),
}
"""By name: the fields that tell a form, and what makes problems of a record."""


def read_benchmark(path: Path) -> Benchmark:
    """The problems of a file, `.jsonl` or `.jsonl.gz`; the benchmark is named for the file.

    Raises:
        EvaluationError: there is no such file, it has the name of HumanEval or MTPB, or a line is no problem of a known
            form; names the line.
    """
    if not path.is_file():
        raise EvaluationError(
            f"{path} is no file",
            expected="humaneval, mtpb, or a JSONL file of problems",
            fix="mend --benchmark",
        )
    content = path.read_bytes()
    name, sha256 = (
        path.name.removesuffix(".gz").removesuffix(".jsonl").lower(),
        hashlib.sha256(content).hexdigest(),
    )
    _refuse_a_known_name(path, name, sha256)
    problems: list[Problem] = []
    for number, line in enumerate(lines_of(path, content), 1):
        if line.strip():
            problems += _problems(path, number, line)
    repeated = {
        one.task_id
        for one in problems
        if sum(other.task_id == one.task_id for other in problems) > 1
    }
    if repeated or not problems:
        raise EvaluationError(
            f"{path} has "
            + (f"the task_id {min(repeated)!r} more than once" if repeated else "no problem"),
            expected="problems, each with a task_id of its own",
            fix="mend the file",
        )
    return Benchmark(name, sha256, tuple(problems))


def _refuse_a_known_name(path: Path, name: str, sha256: str) -> None:
    """Figures of one's own problems are not to be taken for HumanEval's or MTPB's, nor MTPB's by another protocol."""
    known = re.sub("[^a-z0-9]", "", name)
    if known in ("humaneval", "mtpb") and sha256 != HUMANEVAL_SHA256:
        raise EvaluationError(
            f"{path} is named as {known} is, and figures of it would be taken for those",
            expected="another name for problems of one's own",
            fix=f"rename the file, or run the pinned problems: --benchmark {known}; no --problems for samples of HumanEval",
        )


def lines_of(path: Path, content: bytes) -> list[bytes]:
    """The lines of a file that may be compressed.

    Raises:
        EvaluationError: it is named `.gz` and is no whole gzip file.
    """
    try:
        return (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(
            f"{path} is no whole gzip file ({error})", expected="JSONL", fix="fetch it again"
        ) from error


def _problems(path: Path, number: int, line: bytes) -> list[Problem]:
    try:
        record = json.loads(line)
        for fields, problems_of in FORMATS.values():
            if isinstance(record, dict) and fields <= record.keys():
                return problems_of(record)
        got = (
            f"has the fields {', '.join(sorted(record))}"
            if isinstance(record, dict)
            else "is no object"
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        got = f"is no problem ({type(error).__name__}: {error})"
    forms = "; ".join(
        f"{', '.join(sorted(fields))} ({name})" for name, (fields, _) in FORMATS.items()
    )
    raise EvaluationError(
        f"{path}:{number} {got}", expected=f"a JSON object with {forms}", fix="mend the line"
    )
