"""Completions of a prompt for a user or an editor, truncated by the rules of the benchmarks.

The sampler and the rules are those of an evaluation, so a user sees the text that is scored there.
Nothing is executed. Streaming and chats are not supported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from components.core.config import Config, ListOrTuple, Seed
from components.core.errors import ConfigError
from components.evaluation.benchmarks.protocol import is_complete, truncate
from components.evaluation.sampling.sampler import SamplerProtocol, TextRequest
from components.model.config import Temperature

MAX_SAMPLES = 128
"""Completions per prompt. Assumption: more than a user reads or an editor shows."""
MAX_STOPS = 16
"""Stop texts. Assumption: four times the limit of OpenAI's API."""


class CompletionParams(Config):
    """Sampling parameters.

    The defaults are those of the paper's HumanEval, section 2.3, at its lowest temperature.
    """

    num_samples: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    """Completions of the prompt."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens of a completion."""
    temperature: Temperature = 0.2
    """0 is greedy decoding."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Probability mass of the nucleus."""
    seed: Seed = 0
    """The n-th completion of a seed is always the same."""
    stop: Annotated[ListOrTuple[str], Field(max_length=MAX_STOPS)] = ()
    """A completion ends before the first of these texts."""
    truncated: bool = True
    """Whether a completion also ends by HumanEval's rules, for example after a function."""


class PromptCompletion(NamedTuple):
    """The text after the prompt."""

    text: str
    num_tokens: int
    """Generated tokens, before truncation."""
    is_finished: bool
    """Whether it ended by itself or by a rule, before its token limit."""


def complete(
    sampler: SamplerProtocol,
    prompt: str,
    params: CompletionParams,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[PromptCompletion]:
    """Return the completions of a prompt, in the order of their seeds.

    Args:
        sampler: the sampler of the model.
        prompt: the text to complete.
        params: sampling parameters.
        is_cancelled: called before each token; once true, unfinished completions are dropped.

    Raises:
        ConfigError: the prompt is empty or invalid text, or the context has no space for a token of
            it.
        EvaluationError: the model's logits are not finite.
    """
    _check(prompt, params, sampler.context_length)
    requests = deque(
        TextRequest(number, prompt, params.seed + number, params.max_new_tokens)
        for number in range(params.num_samples)
    )
    completions = sampler.generate(
        requests,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        should_stop=is_complete if params.truncated else None,  # Other processes may call it.
        is_cancelled=is_cancelled,
    )
    return [
        _cut(completion.text, completion.num_tokens, completion.is_finished, params)
        for completion in sorted(completions, key=lambda completion: int(completion.key))
    ]


def _check(prompt: str, params: CompletionParams, context_length: int) -> None:
    if not prompt:
        raise ConfigError(
            "the prompt is empty", expected="text to complete", fix='write, for example, "def fib("'
        )
    if any("\ud800" <= character <= "\udfff" for character in prompt):  # undecodable bytes
        raise ConfigError(
            "the prompt is not UTF-8", expected="text to complete", fix="convert it to UTF-8"
        )
    if params.max_new_tokens >= context_length:
        raise ConfigError(
            f"max_new_tokens is {params.max_new_tokens:,}",
            expected=f"less than the model's context of {context_length:,} tokens, so that a "
            "prompt fits",
            fix="request fewer tokens",
        )


def _cut(
    text: str, num_tokens: int, is_finished: bool, params: CompletionParams
) -> PromptCompletion:
    truncated_text = truncate(text) if params.truncated else text
    end = len(truncated_text)
    for stop in params.stop:
        position = truncated_text.find(stop) if stop else -1
        if position >= 0:
            end = min(end, position)
    return PromptCompletion(text[:end], num_tokens, is_finished or end < len(text))
