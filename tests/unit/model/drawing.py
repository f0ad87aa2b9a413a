"""Drawing from tiny models, and generation without a cache: the whole sequence through the model for every token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from fixtures.models import TINY

from components.model.generation import Request, SamplingParams, generate, sample_top_p
from components.model.transformer import CodeGen

NUM_IDS, EOT, MOST = 495, 456, 20
PROMPTS = [[5, 6, 7], [9], [5, 6, 7], list(range(40, 60)), [9], [9], [100, 101]]
RULES = SamplingParams(temperature=0.8, top_p=0.95, num_ids=NUM_IDS, eot_id=EOT)
WIDE = TINY.replace(num_heads=4, head_dim=32, rotary_dim=16, context_length=1024)


def sample(
    model: CodeGen,
    prompts: Iterable[Sequence[int]],
    seeds: Iterable[int],
    *,
    rules: SamplingParams = RULES,
    most: int = MOST,
    **place: Any,
) -> list[list[int]]:
    """The completions in the order of their prompts."""
    waiting = deque(
        Request(number, tuple(prompt), seed, most)
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    )
    drawn = {
        one.key: one.tokens for one in generate(model, waiting, rules, max_new_tokens=most, **place)
    }
    return [drawn[number] for number in range(len(drawn))]


def without_cache(model: CodeGen, prompt: Sequence[int], seed: int) -> list[int]:
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(MOST)
    tokens = list(prompt)
    for uniform in uniforms:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1, :NUM_IDS]
        token = sample_top_p(
            logits, torch.tensor([uniform]), temperature=RULES.temperature, top_p=RULES.top_p
        ).item()
        if token == EOT:
            break
        tokens.append(int(token))
    return tokens[len(prompt) :]
