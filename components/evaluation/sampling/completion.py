"""One prompt, some completions: what a person or an editor asks of a model, cut where the benchmarks cut.

One decision: the same sampler and the same rules as an evaluation, so that what is seen here is what is scored there.
Nothing that is written is executed. Not covered: tokens as they come (streaming), chats.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, NamedTuple

from pydantic import Field

from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError
from components.evaluation.sampling.sampler import TextRequest
from components.evaluation.sampling.samples import SamplerProtocol
from components.evaluation.sampling.truncate import is_complete, truncate

MOST_SAMPLES = 128
"""Completions of one prompt. Assumption: more than a person reads or an editor shows."""
MOST_STOPS = 16
"""Assumption: four times what OpenAI's clients may send."""


class CompletionParams(Config):
    """How to complete. The defaults are those of the paper's HumanEval, section 2.3, at its lowest temperature."""

    num_samples: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    """Completions of the prompt."""
    max_new_tokens: int = Field(default=128, ge=1)
    """The most tokens of a completion."""
    temperature: float = Field(default=0.2, ge=0)
    """0: the likeliest token, always."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Mass of the nucleus."""
    seed: int = Field(default=0, ge=0)
    """The n-th completion of a seed is always the same one."""
    stop: Annotated[ListOrTuple[str], Field(max_length=MOST_STOPS)] = ()
    """Texts before the first of which a completion ends, besides the rules of the benchmarks."""
    truncated: bool = True
    """Whether a completion ends where HumanEval's rules end it: after one function, say."""


class Completion(NamedTuple):
    """What followed the prompt."""

    text: str
    num_tokens: int
    """New tokens that were drawn for it."""
    ended: bool
    """Whether it ended by itself or by a rule, and not because it had all the tokens it could have."""


def complete(sampler: SamplerProtocol, prompt: str, asked: CompletionParams) -> list[Completion]:
    """The completions of a prompt, in the order of their numbers.

    Raises:
        ConfigError: the prompt is empty or no text, or there is no room for one token of it.
        EvaluationError: the model's logits are not finite.
    """
    if not prompt:
        raise ConfigError(
            "the prompt is empty", expected="text to be completed", fix='write, e.g., "def fib("'
        )
    if any(
        "\ud800" <= character <= "\udfff" for character in prompt
    ):  # How Python holds bytes that are no UTF-8.
        raise ConfigError(
            "the prompt is not UTF-8", expected="text to be completed", fix="convert it to UTF-8"
        )
    if asked.max_new_tokens >= sampler.context_length:
        raise ConfigError(
            f"{asked.max_new_tokens:,} tokens of a completion are asked for",
            expected=f"less than the model's context of {sampler.context_length:,} tokens, so that a prompt has room",
            fix="ask for fewer tokens",
        )
    seeds = [asked.seed + number for number in range(asked.num_samples)]
    drawn = sampler.draw(
        deque(
            TextRequest(number, prompt, seed, asked.max_new_tokens)
            for number, seed in enumerate(seeds)
        ),
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        should_stop=is_complete if asked.truncated else None,
    )
    return [
        _cut(one.text, one.num_tokens, one.ended, asked)
        for one in sorted(drawn, key=lambda one: int(one.key))
    ]


def _cut(text: str, num_tokens: int, ended: bool, asked: CompletionParams) -> Completion:
    kept = truncate(text) if asked.truncated else text
    ends = [place for stop in asked.stop if stop and (place := kept.find(stop)) >= 0]
    kept = kept[: min(ends, default=len(kept))]
    return Completion(kept, num_tokens, ended or len(kept) < len(text))
