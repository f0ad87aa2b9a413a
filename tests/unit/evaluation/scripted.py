"""A sampler that answers by a rule instead of a model, and a run of a protocol with it."""

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

Rule = Callable[[TextRequest[Any]], str]


class ScriptedSampler:
    """Answers the last request first, so that no test depends on the order. Records requests."""

    context_length = 10_000

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.requests: list[TextRequest[Any]] = []

    def generate(
        self, requests: deque[TextRequest[Any]], **_: Any
    ) -> Iterator[TextCompletion[Any]]:
        while requests:
            request = requests.pop()
            self.requests.append(request)
            text = self.rule(request)
            scored = 0 if request.scored_from is None else len(request.prompt) - request.scored_from
            # Every character of a prompt has the probability 1/e; every word of a completion is a
            # token.
            yield TextCompletion(request.key, text, len(text.split()), True, float(scored), scored)


def run_protocol(
    folder: Path,
    protocol: BenchmarkProtocol,
    sampler: ScriptedSampler,
    *,
    seed: int = 7,
    kind: SandboxKind | None = None,
    unsafe: bool = False,
) -> dict[str, Any]:
    """Sample, execute and score into `folder`; returns the statistics of the evaluation."""
    with ProgramExecutor(workers=2, kind=kind, unsafe=unsafe) as executor:
        samples = {}
        for sample_set in protocol.sample_sets:
            set_folder = folder / sample_set.label
            set_folder.mkdir(parents=True, exist_ok=True)
            generate_samples(
                set_folder,
                sample_set,
                sampler,
                seed,
                lambda sample: executor.submit(build_program(sample, protocol)),
            )
            samples[sample_set.label] = set_folder / "samples.jsonl"
        (folder / "evaluation").mkdir(exist_ok=True)
        return score(
            folder / "evaluation", protocol, samples, executor, precision="fp32", seed=seed
        )
