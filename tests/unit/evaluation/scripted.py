"""A sampler that answers by a rule instead of a model, and what runs a plan with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.evaluation.benchmarks.protocol import BenchmarkProtocol
from components.evaluation.config import SandboxKind
from components.evaluation.sampling.sampler import TextCompletion, TextRequest
from components.evaluation.sampling.samples import generate_samples
from components.evaluation.scoring.grading import build_program, score
from components.evaluation.scoring.program_executor import ProgramExecutor

Answer = Callable[[TextRequest[Any]], str]


class Scripted:
    """Answers the last request first, so that nothing can lean on an order; keeps what it was asked."""

    context_length = 10_000

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[TextRequest[Any]] = []

    def draw(self, waiting: deque[TextRequest[Any]], **_: Any) -> Iterator[TextCompletion[Any]]:
        while waiting:
            request = waiting.pop()
            self.asked.append(request)
            text = self.answer(request)
            scored = 0 if request.scored_from is None else len(request.prompt) - request.scored_from
            # As if every character of a prompt had the probability 1/e, and every word of a completion were a token.
            yield TextCompletion(request.key, text, len(text.split()), True, float(scored), scored)


def run_plan(
    folder: Path,
    plan: BenchmarkProtocol,
    sampler: Scripted,
    *,
    seed: int = 7,
    kind: SandboxKind | None = None,
    unsafe: bool = False,
) -> dict[str, Any]:
    """Sample, execute and score: the statistics of the evaluation, whose files lie in `folder` then."""
    with ProgramExecutor(workers=2, kind=kind, unsafe=unsafe) as judge:
        samples = {}
        for draw in plan.sample_sets:
            place = folder / draw.label
            place.mkdir(parents=True, exist_ok=True)
            generate_samples(
                place, draw, sampler, seed, lambda sample: judge.submit(build_program(sample, plan))
            )
            samples[draw.label] = place / "samples.jsonl"
        (folder / "evaluation").mkdir(exist_ok=True)
        return score(folder / "evaluation", plan, samples, judge, precision="fp32", seed=seed)
