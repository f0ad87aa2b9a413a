"""Greedy decoding generates the same tokens as `transformers` from the same folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fixtures.models import TINY, TOKENIZER, lively_model, write_tokenizer
from transformers import AutoModelForCausalLM

from components.model.config import DecodeMode
from components.model.generation import Request, SamplingParams, generate, pack
from components.model.huggingface import load_checkpoint, save_checkpoint

NUM_IDS = 495
MAX_NEW_TOKENS = 40
SHORT = TINY.replace(context_length=256)
SHAPES = {
    "tiny": (SHORT, 0),
    "tiny, other weights": (SHORT, 7),
    "all dimensions rotate": (SHORT.replace(rotary_dim=8), 1),
    "three layers of eight heads": (SHORT.replace(num_layers=3, num_heads=8, head_dim=16), 2),
    "350M's heads": (
        SHORT.replace(num_heads=16, head_dim=64, rotary_dim=32, padded_vocab_size=600),
        3,
    ),
}
"""With the seed of the weights."""
LENGTHS = (1, 5, 5, 127, 128, 129, 200)
"""On both sides of the lengths to which prompts are rounded; two lengths are equal."""


class Checkpoint(NamedTuple):
    """A folder, prompts, and the tokens that transformers generates after each."""

    folder: Path
    prompts: list[tuple[int, ...]]
    expected: list[list[int]]


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Returns the checkpoint of a shape; transformers generates once for all ways to decode."""

    @cache
    def write(shape: str) -> Checkpoint:
        folder = tmp_path_factory.mktemp("checkpoint")
        config, seed = SHAPES[shape]
        model = lively_model(config, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        prompts = [
            tuple(torch.randint(0, NUM_IDS, (length,), generator=generator).tolist())
            for length in LENGTHS
        ]
        with torch.no_grad():
            model.head.bias[NUM_IDS:] += 1000.0  # Padding rows: neither may choose them.
            likeliest = model(torch.tensor([prompts[3]]))[0, :, :NUM_IDS].max(-1).values
            model.head.bias[TOKENIZER.eot_id] += 0.5 * float(likeliest.mean())
        save_checkpoint(model, write_tokenizer(folder / "tokenizer"), folder)
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        expected = [_reference(reference, prompt, config.padded_vocab_size) for prompt in prompts]
        return Checkpoint(folder, prompts, expected)

    return write


@pytest.mark.parametrize(
    ("packed", "decode_mode"), [(False, None), (True, None), (False, "graphs")]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_are_those_of_transformers(
    checkpoint_of: Callable[[str], Checkpoint],
    shape: str,
    packed: bool,
    decode_mode: DecodeMode | None,
) -> None:
    """A batch of prompts of different lengths, some ending early, against single prompts."""
    folder, prompts, expected = checkpoint_of(shape)
    model = load_checkpoint(folder).eval()
    if packed:
        pack(model)
    requests = deque(
        Request(number, prompt, number, MAX_NEW_TOKENS) for number, prompt in enumerate(prompts)
    )
    params = SamplingParams(temperature=0, top_p=1.0, num_ids=NUM_IDS, eot_id=TOKENIZER.eot_id)
    completions = generate(
        model, requests, params, max_new_tokens=MAX_NEW_TOKENS, num_slots=3, decode_mode=decode_mode
    )
    tokens = {completion.key: completion.tokens for completion in completions}
    assert [tokens[number] for number in range(len(prompts))] == expected


def _reference(reference: Any, prompt: tuple[int, ...], padded_vocab_size: int) -> list[int]:
    ids = torch.tensor([prompt])
    generated: list[int] = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=TOKENIZER.eot_id,
        pad_token_id=TOKENIZER.eot_id,
        suppress_tokens=list(range(NUM_IDS, padded_vocab_size)),
    )[0, len(prompt) :].tolist()
    return generated[:-1] if generated[-1] == TOKENIZER.eot_id else generated
