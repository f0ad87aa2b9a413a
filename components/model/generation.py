"""Drawing completions from a model: continuous batching over a static cache of keys and values.

Every sample in the batch sits in a slot of the cache with a length of its own, so prompts of different lengths need no
padding, and a sample that ends hands its slot to the next one waiting. A prompt is computed once for all its samples, which
wait side by side. What a sample draws is decided by its own seed: the uniform number of its n-th token is the n-th of a
Philox generator with that key, whatever else is in the batch. (The batch can still change the last bits of the logits.)
Not covered: sharing the cache of a common prompt, beam search, several devices.

Shapes: S samples in the batch, T time, H heads, K head dim, V token ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.core.errors import ConfigError
from components.model.cache import Prompt, Slots
from components.model.nucleus import draw
from components.model.transformer import CodeGen

CACHE_BYTES = 1 << 30
"""Room for keys and values; it decides how many samples are drawn at once, so it is a constant and not the free memory."""

CHECK_EVERY = 8
"""New tokens of a sample between two questions whether it should stop."""

ShouldStop = Callable[[int, Sequence[int]], bool]
"""Given the index of a prompt and its new tokens so far, whether further ones are of no use."""


@dataclass(frozen=True)
class _Sample:
    index: int
    prompt: tuple[int, ...]
    uniforms: np.ndarray
    """One per token that may be drawn, float64 in [0, 1)."""
    new_tokens: list[int]


@torch.inference_mode()
def generate(
    model: CodeGen,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    num_ids: int,
    eot_id: int,
    should_stop: ShouldStop | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> list[list[int]]:
    """One completion per prompt, in the order of the prompts: the new token ids, without the end-of-text that ended them.

    Args:
        prompts: token ids, at least one each; only the last `context_length - max_new_tokens` of them are read.
        seeds: one per prompt, from 0; equal prompts want different seeds.
        max_new_tokens: the most tokens of a completion.
        temperature: above 0, applied before the nucleus.
        top_p: mass of the nucleus, in (0, 1] (see `nucleus`).
        num_ids: ids below this may be drawn; the model's rows past them are padding.
        eot_id: the token that ends a completion.
        should_stop: asked every `CHECK_EVERY` tokens of a sample, so a completion may run past the point where it is true.
        cache_bytes: room for keys and values; at least one sample is drawn at a time.

    Raises:
        ConfigError: a prompt is empty, or a number is out of its range.
        EvaluationError: the model's logits are not finite.
    """
    _check(model, prompts, seeds, max_new_tokens, temperature, top_p, num_ids)
    most_prompt_tokens = model.config.context_length - max_new_tokens
    samples = [
        _Sample(index, tuple(prompt[-most_prompt_tokens:]), _uniforms(seed, max_new_tokens), [])
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    longest = max((len(sample.prompt) for sample in samples), default=0)
    slots = Slots(model, longest + max_new_tokens, most_slots=len(samples), cache_bytes=cache_bytes)

    def ends(sample: _Sample, token: int) -> bool:
        if token == eot_id:
            return True
        sample.new_tokens.append(token)
        num_new = len(sample.new_tokens)
        if num_new == max_new_tokens:
            return True
        return should_stop is not None and num_new % CHECK_EVERY == 0 and should_stop(sample.index, sample.new_tokens)

    _draw_all(model, samples, slots, ends, temperature=temperature, top_p=top_p, num_ids=num_ids)
    return [sample.new_tokens for sample in samples]


def _draw_all(
    model: CodeGen,
    samples: Sequence[_Sample],
    slots: Slots,
    ends: Callable[[_Sample, int], bool],
    *,
    temperature: float,
    top_p: float,
    num_ids: int,
) -> None:
    """Draw tokens into every sample until it ends; `batch[s]` is the sample in slot s."""
    waiting = deque(sorted(samples, key=lambda sample: (len(sample.prompt), sample.prompt)))
    batch: list[_Sample] = []
    prompt: Prompt | None = None
    logits_SV = torch.empty(0, model.config.vocab_rows, device=slots.device)
    while waiting or batch:
        fresh: list[torch.Tensor] = []
        while waiting and len(batch) < slots.capacity:
            sample = waiting.popleft()
            if prompt is None or prompt.tokens != sample.prompt:
                prompt = Prompt(model, sample.prompt)
            slots.add(prompt)
            batch.append(sample)
            fresh.append(prompt.logits_1V)
        if fresh:
            logits_SV = torch.cat((logits_SV, *fresh))
        uniforms_S = torch.tensor([sample.uniforms[len(sample.new_tokens)] for sample in batch], device=slots.device)
        drawn_S = draw(logits_SV[:, :num_ids], uniforms_S, temperature=temperature, top_p=top_p).tolist()
        for slot in reversed(range(len(batch))):
            if ends(batch[slot], drawn_S[slot]):
                slots.remove(slot)
                batch[slot] = batch[-1]
                batch.pop()
        logits_SV = slots.feed(model, [sample.new_tokens[-1] for sample in batch])


def _uniforms(seed: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _check(
    model: CodeGen,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    num_ids: int,
) -> None:
    context_length, vocab_rows = model.config.context_length, model.config.vocab_rows
    first_empty = next((index for index, prompt in enumerate(prompts) if not prompt), None)
    rules = [
        (len(seeds) == len(prompts), f"{len(seeds)} seeds", f"one per prompt, {len(prompts)}"),
        (first_empty is None, f"an empty prompt, the one at index {first_empty}", "at least one token each"),
        (0 < max_new_tokens < context_length, f"max_new_tokens {max_new_tokens}", f"1 to {context_length - 1}"),
        (temperature > 0, f"temperature {temperature}", "a number above 0"),
        (0 < top_p <= 1, f"top_p {top_p}", "a number above 0, at most 1"),
        (0 < num_ids <= vocab_rows, f"num_ids {num_ids}", f"1 to the model's {vocab_rows} rows"),
    ]
    for holds, got, expected in rules:
        if not holds:
            raise ConfigError(f"generation was given {got}", expected=expected, do="mend the sampling settings")
