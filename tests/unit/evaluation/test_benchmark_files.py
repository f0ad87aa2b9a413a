"""The files of HumanEval and MTPB: pinned, or reported as missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.core.errors import EvaluationError
from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.benchmarks.mtpb import find_mtpb, load_mtpb


def mtpb_path() -> Path:
    if not os.environ.get("CODEGEN_MTPB"):
        pytest.skip("MTPB's file is missing: set CODEGEN_MTPB")
    return Path(os.environ["CODEGEN_MTPB"])


def test_humaneval_is_complete_and_not_stripped() -> None:
    problems = load_humaneval()
    assert [problem.task_id for problem in problems] == [
        f"HumanEval/{number}" for number in range(164)
    ]
    assert all(problem.prompt.rstrip() != problem.prompt for problem in problems)
    assert all(f"def {problem.entry_point}(" in problem.prompt for problem in problems)


def test_mtpb_is_complete() -> None:
    problems = load_mtpb(mtpb_path())
    assert [problem.number for problem in problems] == list(range(1, 116))
    assert sum(len(problem.prompts) for problem in problems) == 514
    assert (
        problems[0].turns(1)[0]
        == 'Assign the string "abcdecadeCADE" to a variable named "my_string".'
    )
    assert all(
        "{" not in turn or "}" in turn
        for problem in problems
        for case in range(5)
        for turn in problem.turns(case)
    )


def test_a_file_with_another_sha256_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mtpb.jsonl").write_text("{}\n")
    for find in (
        lambda: load_mtpb(tmp_path / "mtpb.jsonl"),
        lambda: find_mtpb(tmp_path / "mtpb.jsonl", tmp_path),
        lambda: find_mtpb(None, tmp_path),
    ):
        with pytest.raises(EvaluationError, match="expected: the pinned file, 3ab79ddb"):
            find()


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        find_mtpb(tmp_path / "absent.jsonl", tmp_path)


def test_an_existing_path_is_used(tmp_path: Path) -> None:
    assert find_mtpb(str(mtpb_path()), tmp_path) == (mtpb_path(), "")


def test_mtpb_is_reported_as_missing_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no process listens on this port
    path, missing = find_mtpb(None, tmp_path / "cache")
    assert path is None
    assert "CODEGEN_MTPB" in missing
    assert not (tmp_path / "cache").exists()
