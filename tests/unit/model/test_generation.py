"""Against generation without a cache: the whole sequence through the model for every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.models import TINY, lively_model

from components.core.errors import ConfigError, EvaluationError
from components.model.generation import CHECK_EVERY, generate
from components.model.nucleus import draw
from components.model.transformer import CodeGen

NUM_IDS, EOT = 495, 456
PROMPTS = [[5, 6, 7], [9], [5, 6, 7], list(range(40, 60)), [9], [9], [100, 101]]
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 20,
    "temperature": 0.8,
    "top_p": 0.95,
    "num_ids": NUM_IDS,
    "eot_id": EOT,
}
SLOT_BYTES = 2 * 2 * 32 * 40 * 4
"""Keys and values, two layers, d 32, at most 20 + 20 positions, fp32."""


@pytest.fixture(scope="module")
def model() -> CodeGen:
    return lively_model()


def without_cache(model: CodeGen, prompt: Sequence[int], seed: int, **changes: Any) -> list[int]:
    settings = {**SETTINGS, **changes}
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(settings["max_new_tokens"])
    tokens = list(prompt)
    for uniform in uniforms:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1, : settings["num_ids"]]
        uniform_1 = torch.tensor([uniform])
        token = draw(logits, uniform_1, temperature=settings["temperature"], top_p=settings["top_p"]).item()
        if token == EOT:
            break
        tokens.append(int(token))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("num_slots", [1, 2, 3, 7])
def test_any_batch_draws_what_generation_without_a_cache_draws(model: CodeGen, num_slots: int) -> None:
    """Prompts of different lengths, slots that are refilled and moved, prompts shared between samples."""
    drawn = generate(model, PROMPTS, seeds=range(7), cache_bytes=num_slots * SLOT_BYTES, **SETTINGS)
    expected = [without_cache(model, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    assert drawn == expected
    assert drawn[0] != drawn[2]  # The same prompt, another seed.


def test_samples_that_end_early_hand_their_slots_on(model: CodeGen) -> None:
    eager = lively_model()
    with torch.no_grad():
        eager.head.bias[EOT] += 8.0
    prompts, seeds = [[5, 6, 7]] * 12 + [[9, 8]] * 12, range(100, 124)
    drawn = generate(eager, prompts, seeds=seeds, cache_bytes=4 * SLOT_BYTES, **SETTINGS)
    assert drawn == [without_cache(eager, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert len({len(completion) for completion in drawn}) > 3  # They do end at different times.
    assert all(EOT not in completion for completion in drawn)


def test_a_sample_depends_on_its_own_seed_alone(model: CodeGen) -> None:
    together = generate(model, PROMPTS, seeds=range(7), **SETTINGS)
    alone = generate(model, [PROMPTS[3]], seeds=[3], **SETTINGS)
    assert alone[0] == together[3]
    shorter = generate(model, [PROMPTS[3]], seeds=[3], **{**SETTINGS, "max_new_tokens": 6})
    assert shorter[0] == together[3][:6]


def test_almost_no_temperature_is_the_most_probable_token(model: CodeGen) -> None:
    settings = {**SETTINGS, "temperature": 1e-4}
    tokens = [5, 6, 7]
    for _ in range(settings["max_new_tokens"]):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1, :NUM_IDS].argmax()))
    assert EOT not in tokens
    assert generate(model, [[5, 6, 7]], seeds=[1], **settings)[0] == tokens[3:]


def test_padding_rows_are_never_drawn() -> None:
    model = lively_model()
    with torch.no_grad():
        model.head.bias[NUM_IDS:] += 1000.0
    drawn = generate(model, PROMPTS, seeds=range(7), **SETTINGS)
    assert max(token for completion in drawn for token in completion) < NUM_IDS


def test_a_sample_stops_when_the_caller_says_so_and_is_asked_now_and_then(model: CodeGen) -> None:
    asked: list[tuple[int, int]] = []

    def stop(index: int, new_tokens: Sequence[int]) -> bool:
        asked.append((index, len(new_tokens)))
        return index == 1 and len(new_tokens) >= 8

    free = generate(model, [[5, 6, 7], [9]], seeds=[0, 1], **SETTINGS)
    drawn = generate(model, [[5, 6, 7], [9]], seeds=[0, 1], should_stop=stop, **SETTINGS)
    assert drawn == [free[0], free[1][:8]]
    assert CHECK_EVERY == 8
    assert sorted(asked) == [(0, 8), (0, 16), (1, 8)]


def test_a_prompt_too_long_is_read_from_where_it_fits(model: CodeGen) -> None:
    prompt = [token % NUM_IDS for token in range(300)]
    most = TINY.context_length - SETTINGS["max_new_tokens"]
    assert generate(model, [prompt], seeds=[1], **SETTINGS) == generate(model, [prompt[-most:]], seeds=[1], **SETTINGS)


def test_nothing_asked_nothing_drawn(model: CodeGen) -> None:
    assert generate(model, [], seeds=[], **SETTINGS) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 2]}, "2 seeds"),
        ({"prompts": [[]]}, "an empty prompt, the one at index 0"),
        ({"max_new_tokens": 64}, "max_new_tokens 64"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"num_ids": 513}, "num_ids 513"),
    ],
)
def test_settings_that_cannot_be_are_refused(model: CodeGen, changes: dict[str, Any], message: str) -> None:
    arguments = {"prompts": [[1]], "seeds": [1], **SETTINGS, **changes}
    with pytest.raises(ConfigError, match=message):
        generate(model, **arguments)


def test_a_diverged_model_is_an_error() -> None:
    model = lively_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(torch.nan)
    with pytest.raises(EvaluationError, match="not finite"):
        generate(model, [[1, 2]], seeds=[1], **SETTINGS)
