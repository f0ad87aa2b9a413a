"""Generate from tiny models, with and without a KV cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from fixtures.models import TINY, lively_model

from components.model.config import DecodeMode
from components.model.generation import Request, SamplingParams, generate, sample_top_p
from components.model.transformer import CodeGen

NUM_IDS = 495
EOT = 456
MAX_NEW_TOKENS = 20
PROMPTS = [[5, 6, 7], [9], [5, 6, 7], list(range(40, 60)), [9], [9], [100, 101]]
PARAMS = SamplingParams(temperature=0.8, top_p=0.95, num_ids=NUM_IDS, eot_id=EOT)
WIDE = TINY.replace(num_heads=4, head_dim=32, rotary_dim=16, context_length=1024)


def sample(
    model: CodeGen,
    prompts: Iterable[Sequence[int]],
    seeds: Iterable[int],
    *,
    params: SamplingParams = PARAMS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    **options: Any,
) -> list[list[int]]:
    """Return the completions in the order of their prompts."""
    requests = deque(
        Request(number, tuple(prompt), seed, max_new_tokens)
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    )
    completions = generate(model, requests, params, max_new_tokens=max_new_tokens, **options)
    tokens = {completion.key: completion.tokens for completion in completions}
    return [tokens[number] for number in range(len(tokens))]


def sample_reusing_slots(
    decode_mode: DecodeMode | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Generate 24 completions, many of which end early, in four slots.

    Returns the completions, and those without a cache.
    """
    model = lively_model()
    with torch.no_grad():
        model.head.bias[EOT] += 8.0
    prompts = [[5, 6, 7]] * 12 + [[9, 8]] * 12
    seeds = range(100, 124)
    expected = [
        sample_without_cache(model, prompt, seed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return sample(model, prompts, seeds, num_slots=4, decode_mode=decode_mode), expected


def sample_without_cache(model: CodeGen, prompt: Sequence[int], seed: int) -> list[int]:
    """Generate with a forward pass over the whole sequence for each token."""
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(MAX_NEW_TOKENS)
    tokens = list(prompt)
    for uniform in uniforms:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1, :NUM_IDS]
        token = sample_top_p(
            logits, torch.tensor([uniform]), temperature=PARAMS.temperature, top_p=PARAMS.top_p
        ).item()
        if token == EOT:
            break
        tokens.append(int(token))
    return tokens[len(prompt) :]
