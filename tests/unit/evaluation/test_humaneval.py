"""HumanEval end to end, with completions whose verdicts are known. Everything is executed in real jails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import EvaluationError
from components.core.files import read_json, read_jsonl
from components.evaluation.completions import sample_seed
from components.evaluation.config import HumanEvalConfig
from components.evaluation.humaneval import run_humaneval
from components.evaluation.problems import HumanEvalProblem, load_humaneval
from components.evaluation.sandbox import Limits, Sandbox, Trial

PROBLEMS = {problem.prompt: problem for problem in load_humaneval()}


class Script:
    """Answers prompts by a rule instead of a model; keeps what it was asked."""

    def __init__(self, answer: Callable[[HumanEvalProblem, int], str]) -> None:
        self.answer = answer
        self.prompts: list[str] = []
        self.seeds: list[int] = []

    def complete(self, prompts: Sequence[str], *, seeds: Sequence[int], **_: Any) -> list[str]:
        self.prompts += prompts
        self.seeds += seeds
        counts: dict[str, int] = {}
        completions = []
        for prompt in prompts:
            counts[prompt] = counts.get(prompt, -1) + 1
            completions.append(self.answer(PROBLEMS[prompt], counts[prompt]))
        return completions


def run(folder: Path, script: Script, *, unsafe: bool = False, **settings: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return run_humaneval(folder, sampler=script, config=HumanEvalConfig(**settings), workers=2, seed=7, unsafe=unsafe)


JUNK = "\n# a comment at the start of a line ends a completion\nraise SystemExit\n"


def nearly_all_right(problem: HumanEvalProblem, sample: int) -> str:
    """The canonical solution and what a model might write after it; but the second sample of the first problem is wrong."""
    wrong = (problem.task_id, sample) == ("HumanEval/0", 1)
    return "    return return" if wrong else problem.canonical_solution + JUNK


@pytest.mark.usefixtures("sandbox")
def test_all_canonical_solutions_pass_and_figures_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    script = Script(nearly_all_right)
    statistics = run(tmp_path, script, num_samples=2, k=(1, 2, 10))
    assert statistics["outcomes"] == {"passed": 327, "syntax_error": 1}
    assert statistics["pass@1"] == pytest.approx(163.5 / 164, abs=1e-12)
    assert statistics["pass@2"] == 1.0
    assert "pass@10" not in statistics
    assert statistics["num_programs"] == 165  # equal ones are executed once
    assert statistics["num_cut"] == 327
    results = read_json(tmp_path / "results.json")
    assert results["executed"] is True
    assert results["passes"] == {problem.task_id: 2 for problem in PROBLEMS.values()} | {"HumanEval/0": 1}
    assert results["self_test"]["read a file outside"] == "FileNotFoundError"
    assert (results["mode"], results["isolated"]) == ("split", True)
    timings = read_json(tmp_path / "observed" / "timings.json")
    assert timings["cpu_limit_s"] == max(3, round(3 * timings["slowest_canonical_solution_cpu_s"] / 0.16))
    records = list(read_jsonl(tmp_path / "samples.jsonl"))
    assert [record["task_id"] for record in records[::2]] == [problem.task_id for problem in PROBLEMS.values()]
    assert [record["outcome"] for record in records[:3]] == ["passed", "syntax_error", "passed"]
    assert not any("a comment at the start" in record["completion"] for record in records)
    assert len(set(script.seeds)) == len(script.seeds) == 328
    assert script.seeds[2:4] == [sample_seed(7, "HumanEval/1", 0), sample_seed(7, "HumanEval/1", 1)]


def test_where_nothing_isolates_there_is_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    statistics = run(tmp_path / "run", Script(lambda problem, _: problem.canonical_solution), num_samples=1)
    assert statistics["executed"] is False
    assert "bubblewrap" in statistics["reason"]
    assert statistics["pass@1"] is None
    assert statistics["outcomes"] is None
    results = read_json(tmp_path / "run" / "results.json")
    assert results["pass_at_k"] == {}
    assert results["passes"] is None
    records = list(read_jsonl(tmp_path / "run" / "samples.jsonl"))
    assert len(records) == 164
    assert {record["outcome"] for record in records} == {None}


def test_the_protocol_tells_what_changes_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    script = Script(lambda *_: "")
    seen = [
        run(tmp_path / str(number), script, **settings)["protocol"]
        for number, settings in enumerate(({}, {}, {"temperature": 0.6}, {"cpu_limit_s": 4}, {"mode": "fast"}), 1)
        for settings in ({"num_samples": 1, **settings},)
    ]
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4


def test_unsafe_execution_is_written_into_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    script = Script(lambda problem, _: problem.canonical_solution)
    statistics = run(tmp_path / "run", script, unsafe=True, num_samples=1, mode="fast")
    assert statistics["pass@1"] == 1.0
    assert statistics["isolated"] is False
    assert statistics["sandbox"] == "none (unsafe execution)"
    assert statistics["mode"] == "fast"


@pytest.mark.usefixtures("sandbox")
def test_where_what_is_right_does_not_pass_there_is_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = PROBLEMS.values()
    broken = [first._replace(canonical_solution="    return None\n"), *others]
    monkeypatch.setattr("components.evaluation.benchmark.load_humaneval", lambda: broken)
    with pytest.raises(EvaluationError, match="HumanEval/0 does not pass"):
        run(tmp_path, Script(lambda problem, _: problem.canonical_solution), num_samples=1)


def test_limits_grow_with_what_the_canonical_solutions_take_and_never_shrink() -> None:
    assert [Limits(3).times(slowness).cpu_s for slowness in (0.2, 1, 1.1, 1.2, 2.5)] == [3, 3, 3, 4, 8]  # 7.5 rounds to 8


def test_a_time_out_is_run_again_alone_and_counted(sandbox: Sandbox) -> None:
    before = sandbox.num_retried
    loops = [Trial("def one():\n    '1.'\n", "    while True: pass\n", "def check(candidate):\n    candidate()\n", "one")]
    assert [verdict.kind for verdict in sandbox.test(loops, Limits(1))] == ["time_out"]
    assert sandbox.num_retried == before + 1
