"""The files of benchmarks: found by name, identified by SHA-256, or reported as missing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from components.core.errors import ConfigError, EvaluationError
from components.evaluation.benchmarks.benchmark_files import find_benchmark_files, load_protocol
from components.evaluation.benchmarks.custom_benchmark import read_search_texts
from components.evaluation.benchmarks.humaneval import HUMANEVAL_FILE, load_humaneval
from components.evaluation.benchmarks.mtpb import load_mtpb
from components.evaluation.config import BenchmarkConfig, EvaluationConfig, paper_benchmarks

MINE = {
    "task_id": "mine/1",
    "prompt": "def one():\n",
    "canonical_solution": "    return 1\n",
    "entry_point": "one",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}


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


def mine(path: Path, **values: str) -> BenchmarkConfig:
    """Write a benchmark of a single problem; return its config."""
    path.write_text(json.dumps({**MINE, **values}) + "\n")
    return BenchmarkConfig(sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no process listens on this port


def test_the_files_of_the_paper_and_a_file_at_a_path_are_found(tmp_path: Path) -> None:
    own = tmp_path / "any-name.jsonl"
    benchmarks = {**paper_benchmarks(), "mine": mine(own)}
    paths = {"mtpb": str(mtpb_path()), "mine": str(own), "of-another-recipe": "absent"}
    files = find_benchmark_files(benchmarks, paths, tmp_path / "cache")
    assert files.paths == {"humaneval": HUMANEVAL_FILE, "mine": own, "mtpb": mtpb_path()}
    assert not files.skipped
    assert not (tmp_path / "cache").exists()


def test_a_file_with_another_sha256_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mtpb.jsonl").write_text("{}\n")
    official = paper_benchmarks()["mtpb"]
    optional = official.replace(search=False, optional=True)
    for benchmark in (official, optional):
        for paths in ({"mtpb": str(tmp_path / "mtpb.jsonl")}, {}):  # {}: a damaged download
            with pytest.raises(EvaluationError, match="expected: the pinned file, 3ab79ddb"):
                find_benchmark_files({"mtpb": benchmark}, paths, tmp_path)
    with pytest.raises(EvaluationError, match="expected: the pinned file, 3ab79ddb"):
        load_mtpb(tmp_path / "mtpb.jsonl")


def test_a_missing_path_is_refused_even_if_the_benchmark_is_optional(tmp_path: Path) -> None:
    optional = paper_benchmarks()["mtpb"].replace(search=False, optional=True)
    with pytest.raises(EvaluationError, match=r"does not exist(?s:.*)unset CODEGEN_MTPB"):
        find_benchmark_files({"mtpb": optional}, {"mtpb": str(tmp_path / "absent")}, tmp_path)


@pytest.mark.usefixtures("offline")
def test_all_missing_files_are_in_a_single_error_that_names_how_to_get_them(
    tmp_path: Path,
) -> None:
    benchmarks = {**paper_benchmarks(), "mine": mine(tmp_path / "mine.jsonl")}
    with pytest.raises(EvaluationError) as caught:
        find_benchmark_files(benchmarks, {}, tmp_path / "cache")
    assert "the file of mine is missing" in caught.value.got
    assert "the file of mtpb is missing: https://" in caught.value.got
    assert benchmarks["mine"].sha256 in caught.value.expected
    assert "set --exec benchmark_files.mine=FILE" in caught.value.fix
    assert "codegen eval fetch" in caught.value.fix
    assert "CODEGEN_MTPB=FILE" in caught.value.fix
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("offline")
def test_an_optional_benchmark_without_a_file_is_skipped_with_a_reason(tmp_path: Path) -> None:
    optional = paper_benchmarks()["mtpb"].replace(search=False, optional=True)
    files = find_benchmark_files({"mtpb": optional}, {}, tmp_path)
    assert files.paths == {}
    assert "CODEGEN_MTPB" in files.skipped["mtpb"]


def test_a_benchmark_of_a_recipe_has_the_name_of_the_recipe_and_the_protocol_of_humaneval(
    tmp_path: Path,
) -> None:
    mine(tmp_path / "mtpb.jsonl")
    config = EvaluationConfig()
    protocol = load_protocol("mine", tmp_path / "mtpb.jsonl", config)
    assert (protocol.name, protocol.k) == ("mine", config.humaneval.k)
    with pytest.raises(ConfigError, match=r"MTPB has no problems \[999\]"):
        load_protocol("mtpb", mtpb_path(), config.override(["mtpb.problem_ids=[999]"]))


def test_the_texts_to_search_for_are_prompts_and_solutions(tmp_path: Path) -> None:
    """In the order and with the names of the files."""
    humaneval = [(one.task_id, one.prompt + one.canonical_solution) for one in load_humaneval()]
    assert read_search_texts(HUMANEVAL_FILE) == humaneval
    mtpb = [(str(one.number), "\n".join(one.prompts)) for one in load_mtpb(mtpb_path())]
    assert sorted(read_search_texts(mtpb_path())) == sorted(mtpb)
    mbpp = {
        "task_id": 8,
        "text": "Write a function to add.",
        "code": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    }
    (tmp_path / "mbpp.jsonl").write_text(f"{json.dumps(mbpp)}\n{json.dumps(MINE)}\n")
    assert read_search_texts(tmp_path / "mbpp.jsonl") == [
        (
            "MBPP/8",
            "Write a function to add.\nassert add(1, 2) == 3\nassert add(0, 0) == 0\n"
            "def add(a, b):\n    return a + b",
        ),
        ("mine/1", "def one():\n    return 1\n"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"task_id": 1, "text": "a"}'], "bad.jsonl:1 has the fields task_id, text"),
        ([json.dumps(MINE), "{"], "bad.jsonl:2 is not a valid problem"),
        ([json.dumps(MINE)] * 2, "the task_id 'mine/1' more than once"),
        ([], "no problem"),
    ],
)
def test_an_invalid_file_is_not_searched_for(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(EvaluationError, match=message):
        read_search_texts(tmp_path / "bad.jsonl")
