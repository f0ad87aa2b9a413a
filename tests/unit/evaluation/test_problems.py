"""The benchmarks' files: pinned, found, or visibly absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.core.errors import EvaluationError
from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.benchmarks.mtpb import find_mtpb, load_mtpb


def mtpb_path() -> Path:
    if not os.environ.get("CODEGEN_MTPB"):
        pytest.skip("MTPB's file is not there: set CODEGEN_MTPB")
    return Path(os.environ["CODEGEN_MTPB"])


def test_humaneval_is_whole_and_unstripped() -> None:
    problems = load_humaneval()
    assert [problem.task_id for problem in problems] == [
        f"HumanEval/{number}" for number in range(164)
    ]
    assert all(problem.prompt.rstrip() != problem.prompt for problem in problems)
    assert all(f"def {problem.entry_point}(" in problem.prompt for problem in problems)


def test_mtpb_is_whole() -> None:
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


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mtpb.jsonl").write_text("{}\n")
    for find in (
        lambda: load_mtpb(tmp_path / "mtpb.jsonl"),
        lambda: find_mtpb(tmp_path / "mtpb.jsonl", tmp_path),
        lambda: find_mtpb(None, tmp_path),
    ):
        with pytest.raises(EvaluationError, match="expected: the pinned file, 3ab79ddb"):
            find()


def test_a_given_path_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no file at"):
        find_mtpb(tmp_path / "absent.jsonl", tmp_path)


def test_a_given_file_is_found(tmp_path: Path) -> None:
    assert find_mtpb(str(mtpb_path()), tmp_path) == (mtpb_path(), "")


def test_without_a_network_it_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    path, missing = find_mtpb(None, tmp_path / "cache")
    assert path is None
    assert "CODEGEN_MTPB" in missing
    assert not (tmp_path / "cache").exists()
