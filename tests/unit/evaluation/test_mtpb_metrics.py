"""Prompt perplexity on a problem of our own; the official file is not needed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted import ScriptedSampler, run_protocol

from components.core.files import read_json, read_jsonl
from components.evaluation.benchmarks.mtpb import conversation_protocol, parse_mtpb_problem
from components.evaluation.benchmarks.protocol import BenchmarkProtocol, ProblemCounts
from components.evaluation.config import MtpbConfig
from components.evaluation.sampling.sampler import TextCompletion, TextRequest
from components.evaluation.scoring.program_executor import ProgramExecutor

PROBLEM = parse_mtpb_problem(
    {"id": 1, "prompts": ["Print {x}."], "inputs": [{"x": 1}] * 5, "outputs": [1] * 5}
)


def single_case_protocol() -> BenchmarkProtocol:
    return conversation_protocol(
        [PROBLEM], MtpbConfig(cases=(0,), num_samples=2, single_turn=False)
    )


class FirstPromptUnscored(ScriptedSampler):
    """Reports no scored token for the first sample."""

    def generate(
        self, requests: deque[TextRequest[Any]], **settings: Any
    ) -> Iterator[TextCompletion[Any]]:
        for completion in super().generate(requests, **settings):
            is_first = completion.key.number == 0
            yield completion._replace(prompt_nats=0.0, num_scored=0) if is_first else completion


def test_a_sample_without_scored_tokens_does_not_shift_the_verdicts_of_others(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    # The second sample is correct.
    sampler = FirstPromptUnscored(lambda request: f"print({request.key.number})")
    run_protocol(tmp_path, single_case_protocol(), sampler, executor)
    perplexity = read_json(tmp_path / "evaluation" / "results.json")["perplexity"]["multi"]
    assert perplexity == {
        "all": pytest.approx(math.e),
        "passed": pytest.approx(math.e),
        "failed": None,
    }


def test_an_answer_of_another_kind_counts_in_the_official_rate_only(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    answers = ["print(1)", "print('1')"]
    sampler = ScriptedSampler(lambda request: answers[request.key.number])
    statistics = run_protocol(tmp_path, single_case_protocol(), sampler, executor)
    assert statistics["pass_rate_multi"] == 1.0
    assert statistics["pass_rate_strict_multi"] == 0.5
    records = read_jsonl(tmp_path / "evaluation" / "samples.jsonl")
    assert [record["strict_pass"] for record in records] == [True, False]
    rates = read_json(tmp_path / "evaluation" / "results.json")["rates"]["multi"]
    assert (rates["problem"], rates["problem_strict"]) == ({"1": 1.0}, {"1": 0.5})


def test_a_perplexity_above_the_largest_float_is_none() -> None:
    """For example of a model that diverged with finite logits."""
    protocol = single_case_protocol()
    assert protocol.extra_metrics is not None
    counts = ProblemCounts("1/0", "1", 2, (2.0, 9e5), (2, 3), (True, False))
    perplexity = protocol.extra_metrics({"multi": [counts]}).details["perplexity"]
    assert perplexity == {"multi": {"all": None, "passed": pytest.approx(math.e), "failed": None}}
