"""Custom benchmarks: formats, names and damaged files."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted import ScriptedSampler, run_protocol

from components.core.errors import EvaluationError
from components.evaluation.benchmarks import humaneval
from components.evaluation.benchmarks.custom_benchmark import read_benchmark
from components.evaluation.benchmarks.humaneval import function_protocol, load_benchmark
from components.evaluation.config import HumanEvalConfig
from components.evaluation.scoring.program_executor import ProgramExecutor

FUNCTION = {
    "task_id": "mine/1",
    "prompt": "def one():\n",
    "entry_point": "one",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
MBPP = {
    "task_id": 8,
    "text": "Write a function to find squares of individual elements in a list.",
    "code": "def square_nums(nums):\n  return list(map(lambda x: x ** 2, nums))",
    "test_list": [
        "assert square_nums([1, 2, 3])==[1, 4, 9]",
        "assert sorted(square_nums([-5]))==([25])",
    ],
    "test_setup_code": "",
}
SANITIZED_MBPP = {
    "task_id": 9,
    "prompt": "Write a function to round a number up.",
    "code": "def up(x):\n  return -int(-x // 1)",
    "test_imports": ["import math"],
    "test_list": ["assert up(1.5) == math.ceil(1.5)"],
}
CONVERSATION = {
    "id": "3",
    "prompts": ["Assign {word} to x.", "Print x."],
    "inputs": [{"word": "'a'"}, {"word": "'b'"}],
    "outputs": ["a", "b"],
}


def write(path: Path, *records: Any) -> Path:
    path.write_text(
        "".join(
            record if isinstance(record, str) else json.dumps(record) + "\n" for record in records
        ),
        encoding="utf-8",
    )
    return path


def test_three_formats_in_a_file_are_sampled_and_scored(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    completions = {
        "mine/1": ["    return 1\n"],
        "MBPP/8": ["def square_nums(nums):\n    return [one * one for one in nums]\n"],
        "MBPP/9": ["def up(x):\n    return -int(-x // 1)\n"],
        "3/0": ["x = 'a'", "import pathlib\nprint(pathlib.Path(x))"],  # no text, so no strict pass
        "3/1": ["x = 'a'", "print(x)"],
    }
    benchmark = read_benchmark(
        write(tmp_path / "Mine.jsonl", FUNCTION, "\n", MBPP, SANITIZED_MBPP, CONVERSATION)
    )
    assert (benchmark.name, [problem.task_id for problem in benchmark.problems]) == (
        "mine",
        list(completions),
    )
    sampler = ScriptedSampler(
        lambda request: completions[request.key.problem.task_id][len(request.key.completions)]
    )
    config = HumanEvalConfig(num_samples=1, temperatures=(0.2,), k=(1,))
    statistics = run_protocol(tmp_path, function_protocol(benchmark, config), sampler, executor)
    assert statistics["outcomes"] == {"passed": 4, "wrong_answer": 1}
    # Four problems: the two cases of the conversation are a single problem, half passed.
    assert statistics["pass@1"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert statistics["strict_pass@1"] == pytest.approx((1 + 1 + 1 + 0) / 4)
    (prompt,) = (
        request.prompt for request in sampler.requests if request.key.problem.task_id == "MBPP/8"
    )
    assert prompt.startswith('"""\nWrite a function to find squares')
    assert "assert square_nums([1, 2, 3])==[1, 4, 9]\n" in prompt


def test_another_prompt_gives_another_digest(tmp_path: Path) -> None:
    first = read_benchmark(write(tmp_path / "one.jsonl", FUNCTION))
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(FUNCTION) + "\n").encode()))
    assert read_benchmark(packed).problems == first.problems
    assert (
        read_benchmark(
            write(tmp_path / "two.jsonl", {**FUNCTION, "prompt": "def one(): \n"})
        ).digest
        != first.digest
    )
    assert (
        read_benchmark(
            write(tmp_path / "three.jsonl", {**FUNCTION, "test": "def check(f): pass"})
        ).digest
        != first.digest
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([FUNCTION, "{\n"], r"bad\.jsonl:2 is not a valid problem \(JSONDecodeError"),
        ([{"task_id": 1}], r"bad\.jsonl:1 has the fields task_id"),
        (
            ["[" * 100_000 + "]" * 100_000 + "\n"],
            r"bad\.jsonl:1 is not a valid problem .*100 levels",
        ),
        (["[1]\n"], r"bad\.jsonl:1 is not a JSON object"),
        ([{**MBPP, "test_list": ["assert True"]}], r"no function is called"),
        ([{**MBPP, "test_list": []}], r"is not a valid problem"),
        ([{**CONVERSATION, "prompts": ["{other}"]}], r"is not a valid problem \(KeyError"),
        (
            [{**CONVERSATION, "outputs": []}],
            r"is not a valid problem \(ValueError: 2 inputs, 0 outputs",
        ),
        (
            [{**CONVERSATION, "prompts": "Print x."}],
            r"is not a valid problem \(TypeError: prompts must be a list",
        ),
        (
            [{**CONVERSATION, "max_gen_length": "128"}],
            r"is not a valid problem \(TypeError: max_gen_length is '128'",
        ),
        ([{**CONVERSATION, "max_gen_length": 0}], r"max_gen_length is 0"),
        (
            [{**FUNCTION, "prompt": 5}],
            r"bad\.jsonl:1 is not a valid problem \(TypeError: prompt, test and entry_point",
        ),
        (
            [{**FUNCTION, "prompt": ""}],
            r"bad\.jsonl:1 is not a valid problem \(TypeError: prompt, test and entry_point",
        ),
        (
            [{**FUNCTION, "test": None}],
            r"bad\.jsonl:1 is not a valid problem \(TypeError: prompt, test and entry_point",
        ),
        ([FUNCTION, FUNCTION], r"task_id 'mine/1' more than once"),
        (["\n"], r"has no problem"),
    ],
)
def test_an_invalid_line_is_refused_with_its_number(
    tmp_path: Path, lines: list[Any], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        read_benchmark(write(tmp_path / "bad.jsonl", *lines))


@pytest.mark.parametrize(
    "name", ["humaneval.jsonl", "HumanEval.jsonl", "human-eval.jsonl", "MTPB.jsonl"]
)
def test_a_file_with_a_reserved_name_is_refused(tmp_path: Path, name: str) -> None:
    """Its scores would look like scores of HumanEval."""
    with pytest.raises(
        EvaluationError, match=r"(?s)reserved name of (humaneval|mtpb).*rename the file"
    ):
        read_benchmark(write(tmp_path / name, FUNCTION))
    assert (
        read_benchmark(write(tmp_path / f"plus-{name}", FUNCTION)).name
        == f"plus-{name.lower()[:-6]}"
    )


def test_humanevals_file_gives_the_benchmark_humaneval(tmp_path: Path) -> None:
    shutil.copy(Path(humaneval.__file__).with_name("HumanEval.jsonl.gz"), tmp_path)
    assert read_benchmark(tmp_path / "HumanEval.jsonl.gz") == load_benchmark()


def test_a_missing_or_incomplete_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        read_benchmark(tmp_path / "absent.jsonl")
    half = tmp_path / "half.jsonl.gz"
    half.write_bytes(gzip.compress(b"{}\n" * 1000)[:30])
    with pytest.raises(EvaluationError, match="not a complete gzip file"):
        read_benchmark(half)
