"""HumanEval end to end, with completions of known verdicts, executed in real jails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.function_tests import RETURNS_ONE
from fixtures.scripted import Rule, ScriptedSampler, run_protocol

from components.core.errors import EvaluationError
from components.core.files import read_json, read_jsonl
from components.evaluation.benchmarks.humaneval import build_protocol, load_humaneval
from components.evaluation.config import HumanEvalConfig
from components.evaluation.sampling.sampler import TextRequest
from components.evaluation.sampling.samples import sample_seed
from components.evaluation.sandbox import ResourceLimits, Sandbox
from components.evaluation.scoring.program_executor import ProgramExecutor

PROBLEMS = {problem.prompt: problem for problem in load_humaneval()}
EXTRA_TEXT = "\n# a comment at the start of a line ends a completion\nraise SystemExit\n"


def run(folder: Path, rule: Rule, executor: ProgramExecutor, **settings: Any) -> dict[str, Any]:
    protocol = build_protocol(HumanEvalConfig.parse(settings))
    return run_protocol(folder, protocol, ScriptedSampler(rule), executor)


def canonical(request: TextRequest[Any]) -> str:
    return PROBLEMS[request.prompt].canonical_solution


def canonical_but_one(request: TextRequest[Any]) -> str:
    """Canonical solutions with further text; the second sample of the first problem is wrong."""
    sample = request.key
    is_wrong = (sample.problem.task_id, sample.number) == ("HumanEval/0", 1)
    return "    return return" if is_wrong else canonical(request) + EXTRA_TEXT


def test_canonical_solutions_pass_and_metrics_equal_values_computed_by_hand(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    sampler = ScriptedSampler(canonical_but_one)
    statistics = run_protocol(
        tmp_path,
        build_protocol(HumanEvalConfig(num_samples=2, temperatures=(0.2,), k=(1, 2, 10))),
        sampler,
        executor,
    )
    assert statistics["outcomes"] == {"passed": 327, "syntax_error": 1}
    assert statistics["pass@1"] == pytest.approx(163.5 / 164, abs=1e-12)
    assert statistics["pass@2"] == 1.0
    assert "pass@10" not in statistics
    assert statistics["num_programs"] == 165  # equal programs are executed once
    assert statistics["num_truncated"] == 327
    results = read_json(tmp_path / "evaluation" / "results.json")
    assert results["executed"] is True
    assert results["sets"]["t0.2"]["passes"] == {
        problem.task_id: 2 for problem in PROBLEMS.values()
    } | {"HumanEval/0": 1}
    assert results["self_test"]["read a file outside"] == "FileNotFoundError"
    assert (results["mode"], results["isolated"]) == ("split", True)
    timings = read_json(tmp_path / "evaluation" / "observed" / "timings.json")
    assert timings["cpu_limit_s"] == max(
        3, round(3 * timings["slowest_canonical_solution_cpu_s"] / 0.16)
    )
    records = list(read_jsonl(tmp_path / "evaluation" / "samples.jsonl"))
    assert [record["task_id"] for record in records[::2]] == [
        problem.task_id for problem in PROBLEMS.values()
    ]
    assert [record["outcome"] for record in records[:3]] == ["passed", "syntax_error", "passed"]
    assert not any("a comment at the start" in record["completion"] for record in records)
    seeds = {
        (request.key.problem.task_id, request.key.number): request.seed
        for request in sampler.requests
    }
    assert len(set(seeds.values())) == 328
    assert seeds["HumanEval/1", 1] == sample_seed(7, "humaneval", "t0.2", "HumanEval/1", 1, 0)


def test_the_best_temperature_counts_for_every_k(tmp_path: Path, executor: ProgramExecutor) -> None:
    """At 0.2 both samples of half of the problems pass, at 0.8 one of two of every problem.

    Both have the same pass@1, so the first set counts; the second set has the better pass@2.
    """

    def rule(request: TextRequest[Any]) -> str:
        number, sample = int(request.key.problem.task_id.split("/")[1]), request.key.number
        is_hot = request.seed == sample_seed(
            7, "humaneval", "t0.8", f"HumanEval/{number}", sample, 0
        )
        return (
            canonical(request) if (sample == 0 if is_hot else number % 2 == 0) else "    return ]"
        )

    statistics = run(tmp_path, rule, executor, num_samples=2, temperatures=[0.2, 0.8], k=[1, 2])
    results = read_json(tmp_path / "evaluation" / "results.json")
    estimates = {
        label: {k: record["estimate"] for k, record in of_set["pass_at_k"].items()}
        for label, of_set in results["sets"].items()
    }
    assert estimates == {"t0.2": {"1": 0.5, "2": 0.5}, "t0.8": {"1": 0.5, "2": 1.0}}
    best_sets = {k: best["set"] for k, best in results["pass_at_k"].items()}
    assert best_sets == {"1": "t0.2", "2": "t0.8"}
    assert (statistics["pass@1"], statistics["pass@2"]) == (0.5, 1.0)
    # The mean of 164 coins has a standard deviation of 0.039; 1.96 of them are 0.077.
    assert statistics["pass@1_low"] == pytest.approx(0.5 - 0.077, abs=0.01)
    assert statistics["pass@1_high"] == pytest.approx(0.5 + 0.077, abs=0.01)
    assert (statistics["pass@2_low"], statistics["pass@2_high"]) == (1.0, 1.0)


def test_without_a_sandbox_there_is_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with ProgramExecutor(workers=1, kind="bubblewrap") as executor:
        statistics = run(tmp_path / "run", canonical, executor, num_samples=1, temperatures=[0.2])
    assert statistics["executed"] is False
    assert "bubblewrap" in statistics["reason"]
    assert "pass@1" not in statistics
    assert statistics["outcomes"] is None
    results = read_json(tmp_path / "run" / "evaluation" / "results.json")
    assert results["pass_at_k"] == {}
    assert results["sets"]["t0.2"]["passes"] is None
    records = list(read_jsonl(tmp_path / "run" / "evaluation" / "samples.jsonl"))
    assert len(records) == 164
    assert {record["outcome"] for record in records} == {None}


def test_the_protocol_differs_for_settings_that_change_a_score() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {},
        {"temperatures": [0.6]},
        {"cpu_limit_s": 4},
        {"mode": "fast"},
        {"num_samples": 9},
        {"k": [1]},
        {"max_new_tokens": 9},
        {"top_p": 0.9},
    ]
    settings = [
        str(build_protocol(HumanEvalConfig.parse(change)).settings("fp32")) for change in changes
    ]
    assert settings[0] == settings[1]
    assert len({*settings, str(build_protocol(HumanEvalConfig()).settings("bf16"))}) == len(changes)


def test_unsafe_execution_is_stored_with_the_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = {"num_samples": 1, "temperatures": [0.2], "mode": "fast"}
    with ProgramExecutor(workers=1, kind="bubblewrap", unsafe=True) as executor:
        statistics = run(tmp_path / "run", canonical, executor, **settings)
    assert statistics["pass@1"] == 1.0
    assert statistics["isolated"] is False
    assert statistics["sandbox"] == "none (unsafe execution)"
    assert statistics["mode"] == "fast"


@pytest.mark.usefixtures("sandbox")
def test_there_is_no_score_if_a_canonical_solution_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *remaining = PROBLEMS.values()
    broken = [first._replace(canonical_solution="    return None\n"), *remaining]
    monkeypatch.setattr(
        "components.evaluation.scoring.program_executor.load_humaneval", lambda: broken
    )
    with (
        ProgramExecutor(workers=1) as executor,
        pytest.raises(EvaluationError, match="HumanEval/0 does not pass"),
    ):
        run(tmp_path, canonical, executor, num_samples=1, temperatures=[0.2])


def test_limits_grow_with_the_slowness_of_the_machine_and_never_shrink() -> None:
    scaled = [ResourceLimits(3).scaled(slowness) for slowness in (0.2, 1, 1.1, 1.2, 2.5)]
    assert [limits.cpu_s for limits in scaled] == [3, 3, 3, 4, 8]  # 7.5 rounds to 8


def test_a_program_that_timed_out_runs_again_alone_and_is_counted(sandbox: Sandbox) -> None:
    num_retried_before = sandbox.num_retried
    loops = [RETURNS_ONE._replace(completion="    while True: pass\n")]
    assert [verdict.kind for verdict in sandbox.run_tests(loops, ResourceLimits(1))] == ["time_out"]
    assert sandbox.num_retried == num_retried_before + 1
