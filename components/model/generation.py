"""Drawing completions from a model: continuous batching over keys and values of which a prompt's are shared.

A sample that ends hands its slot to the next one waiting, and whoever takes what was drawn may append further requests,
the next turn of a conversation for example. A prompt is computed once for all its samples, which are to wait side by side.
What a sample draws is decided by its own seed: the uniform number of its n-th token is the n-th of a Philox generator with
that key; and on a CPU its logits are the same bits whatever else is in the batch (see `cache`), so neither order nor batch
size nor an interruption changes it. Not covered: beam search, several devices.

Shapes: S samples in the batch, V token ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from components.core.errors import ConfigError
from components.model.config import DecodeMode
from components.model.cuda_graphs import StaticKVCache
from components.model.kv_cache import BatchedKVCache, Prompt
from components.model.nucleus import sample_top_p
from components.model.transformer import CodeGen

MAX_BATCH_SLOTS = 128
"""Samples drawn at once at most. On two cores 256 were no faster (docs/decisions/0008-sampling.md)."""
CACHE_BYTES = 1 << 30
"""Room for keys and values where the caller does not say."""
CHECK_EVERY = 8
"""New tokens of a sample between two questions whether it should stop."""

Key = TypeVar("Key", bound=Hashable)


class Request(NamedTuple, Generic[Key]):
    """One completion to be drawn."""

    key: Key
    """What the caller knows it by."""
    prompt: tuple[int, ...]
    """Token ids, at least one; only the last `context_length - max_new_tokens` of them are read."""
    seed: int
    """From 0; requests of equal prompts want different seeds."""
    max_new_tokens: int
    """The most tokens of the completion."""
    scored_from: int | None = None
    """The index of the first token of the prompt whose probability is wanted; none: of no token."""


class Completion(NamedTuple, Generic[Key]):
    """A completion: its new token ids, without the end-of-text that ended them."""

    key: Key
    tokens: list[int]
    prompt_nats: float = 0.0
    """Sum of `-log p` over the scored tokens of the prompt, those that were read and have a token before them."""
    num_scored: int = 0


class SamplingParams(NamedTuple):
    """How tokens are chosen, and when a completion ends."""

    temperature: float
    """Applied before the nucleus; 0: the most probable token, always."""
    top_p: float
    """Mass of the nucleus, in (0, 1] (see `nucleus`)."""
    num_ids: int
    """Ids below this may be drawn; the model's rows past them are padding."""
    eot_id: int
    """The token that ends a completion."""
    should_stop: Callable[[Sequence[int]], bool] | None = None
    """Given the new tokens so far, whether further ones are of no use. Asked every `CHECK_EVERY` tokens of a sample, so a
    completion may run past the point where it is true."""


@dataclass
class _Sample(Generic[Key]):
    request: Request[Key]
    prompt_nats: float
    num_scored: int
    uniforms: np.ndarray
    """One per token that may be drawn, float64 in [0, 1)."""
    new_tokens: list[int] = field(default_factory=list)

    def ends(self, token: int, rules: SamplingParams) -> bool:
        """Whether the sample is complete with this token, which is taken unless it is the end-of-text."""
        if token == rules.eot_id:
            return True
        self.new_tokens.append(token)
        num_new = len(self.new_tokens)
        if num_new == self.request.max_new_tokens:
            return True
        return (
            rules.should_stop is not None
            and num_new % CHECK_EVERY == 0
            and rules.should_stop(self.new_tokens)
        )

    def drawn(self) -> Completion[Key]:
        return Completion(self.request.key, self.new_tokens, self.prompt_nats, self.num_scored)


@torch.inference_mode()
def generate(
    model: CodeGen,
    waiting: deque[Request[Key]],
    rules: SamplingParams,
    *,
    max_new_tokens: int,
    num_slots: int = MAX_BATCH_SLOTS,
    cache_bytes: int = CACHE_BYTES,
    steps: DecodeMode | None = None,
) -> Iterator[Completion[Key]]:
    """Draw all that waits, first come, first served; each completion is yielded as it ends.

    Args:
        model: in evaluation mode; see `packed` for the fastest on a CPU.
        waiting: taken from the left. More may be appended while this is iterated.
        rules: of all requests.
        max_new_tokens: the most of any request; decides the size of a slot.
        num_slots: samples drawn at once at most.
        cache_bytes: room for keys and values; at least one sample is drawn at a time.
        steps: how steps of a fixed shape are run, for a GPU (see `fixed`); None: steps as small as what is drawn, for a CPU.

    Raises:
        ConfigError: a prompt is empty, or a number is out of its range.
        EvaluationError: the model's logits are not finite.
    """
    _check(model, rules, max_new_tokens)
    room = (model, num_slots, max_new_tokens, cache_bytes)
    slots = BatchedKVCache(*room) if steps is None else StaticKVCache(*room, steps)
    batch: list[_Sample[Key]] = []
    prompt: Prompt | None = None
    logits_SV = slots.decode_step([])
    while waiting or batch:
        fresh: list[torch.Tensor] = []
        while waiting and len(batch) < slots.capacity:
            request = _checked(waiting[0], model, max_new_tokens)
            if prompt is None or prompt.tokens != request.prompt:
                prompt = Prompt(model, request.prompt)
            if not slots.has_room(prompt):
                break
            waiting.popleft()
            slots.add(prompt)
            batch.append(_sample(model, prompt, request))
            fresh.append(prompt.logits_1V)
        logits_SV = torch.cat((logits_SV, *fresh))
        drawn_S = _choose(logits_SV[:, : rules.num_ids], batch, rules)
        ended = []
        for slot in reversed(range(len(batch))):
            if batch[slot].ends(drawn_S[slot], rules):
                ended.append(batch[slot].drawn())
                slots.remove(slot)
                batch[slot] = batch[-1]
                batch.pop()
        yield from reversed(ended)
        logits_SV = slots.decode_step([sample.new_tokens[-1] for sample in batch])


def _choose(
    logits_SV: torch.Tensor, batch: Sequence[_Sample[Key]], rules: SamplingParams
) -> list[int]:
    uniforms = [sample.uniforms[len(sample.new_tokens)] for sample in batch]
    uniforms_S = torch.tensor(uniforms, device=logits_SV.device)
    chosen: list[int] = sample_top_p(
        logits_SV, uniforms_S, temperature=rules.temperature, top_p=rules.top_p
    ).tolist()
    return chosen


def _sample(model: CodeGen, prompt: Prompt, request: Request[Key]) -> _Sample[Key]:
    nats, num_scored = 0.0, 0
    if request.scored_from is not None:
        start = max(1, request.scored_from)
        num_scored = max(0, len(request.prompt) - start)
        nats = prompt.nats(model, start) if num_scored else 0.0
    uniforms = np.random.Generator(np.random.Philox(key=request.seed)).random(
        request.max_new_tokens
    )
    return _Sample(request, nats, num_scored, uniforms)


def _checked(request: Request[Key], model: CodeGen, max_new_tokens: int) -> Request[Key]:
    """The request with as much of its prompt as is read.

    Raises:
        ConfigError: there is no prompt, or the length is out of its range.
    """
    _require(bool(request.prompt), "an empty prompt", "at least one token")
    _require(
        0 < request.max_new_tokens <= max_new_tokens,
        f"max_new_tokens {request.max_new_tokens}",
        f"1 to {max_new_tokens}",
    )
    cut = max(0, len(request.prompt) - (model.config.context_length - request.max_new_tokens))
    start = None if request.scored_from is None else max(0, request.scored_from - cut)
    return request._replace(prompt=tuple(request.prompt[cut:]), scored_from=start)


def _check(model: CodeGen, rules: SamplingParams, max_new_tokens: int) -> None:
    context_length, padded_vocab_size = model.config.context_length, model.config.padded_vocab_size
    _require(
        0 < max_new_tokens < context_length,
        f"max_new_tokens {max_new_tokens}",
        f"1 to {context_length - 1}",
    )
    _require(
        rules.temperature >= 0,
        f"temperature {rules.temperature}",
        "a number above 0, or 0 for the likeliest tokens",
    )
    _require(0 < rules.top_p <= 1, f"top_p {rules.top_p}", "a number above 0, at most 1")
    _require(
        0 < rules.num_ids <= padded_vocab_size,
        f"num_ids {rules.num_ids}",
        f"1 to the model's {padded_vocab_size} rows",
    )


def _require(holds: bool, got: str, expected: str) -> None:
    if not holds:
        raise ConfigError(
            f"generation was given {got}", expected=expected, fix="mend the sampling settings"
        )
