"""What is told of prompts' perplexity, on conversations of our own: no official file is needed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, run_plan

from components.core.files import read_json
from components.evaluation.benchmarks.mtpb import conversation_protocol, parse_mtpb_problem
from components.evaluation.benchmarks.protocol import BenchmarkProtocol, ProblemCounts
from components.evaluation.config import MtpbConfig
from components.evaluation.sampling.sampler import TextCompletion, TextRequest

TALK = parse_mtpb_problem(
    {"id": 1, "prompts": ["Print {x}."], "inputs": [{"x": 1}] * 5, "outputs": [1] * 5}
)


def one_case() -> BenchmarkProtocol:
    return conversation_protocol([TALK], MtpbConfig(cases=(0,), num_samples=2, single_turn=False))


class FirstUnread(Scripted):
    """Of the first sample no token of the prompt was scored."""

    def draw(
        self, waiting: deque[TextRequest[Any]], **settings: Any
    ) -> Iterator[TextCompletion[Any]]:
        for one in super().draw(waiting, **settings):
            yield one if one.key.number else one._replace(prompt_nats=0.0, num_scored=0)


@pytest.mark.usefixtures("sandbox")
def test_a_sample_without_scored_tokens_does_not_give_its_verdict_to_another(
    tmp_path: Path,
) -> None:
    sampler = FirstUnread(
        lambda request: f"print({request.key.number})"
    )  # The second one is right.
    run_plan(tmp_path, one_case(), sampler)
    perplexity = read_json(tmp_path / "evaluation" / "results.json")["perplexity"]["multi"]
    assert perplexity == {
        "all": pytest.approx(math.e),
        "passed": pytest.approx(math.e),
        "failed": None,
    }


def test_a_perplexity_too_large_for_a_number_is_none_and_no_crash() -> None:
    """A model that diverged, and whose logits are finite still."""
    plan = one_case()
    assert plan.extra_metrics is not None
    counted = ProblemCounts("1/0", "1", 2, 1, (2.0, 9e5), (2, 3), (True, False))
    told = plan.extra_metrics({"multi": [counted]}).details["perplexity"]
    assert told == {"multi": {"all": None, "passed": pytest.approx(math.e), "failed": None}}
