"""Against generation without a cache: the whole sequence through the model for every token."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from drawing import EOT, MOST, NUM_IDS, PROMPTS, RULES, WIDE, sample, without_cache
from fixtures.models import TINY, lively_model
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError, EvaluationError
from components.model.generation import CHECK_EVERY, Completion, Request, generate, pack
from components.model.kv_cache import BatchedKVCache, PrefilledPrompt
from components.model.transformer import CodeGen

SLOT_BYTES = 2 * 2 * 32 * 32 * 4
"""Keys and values of 20 new tokens: two layers, d 32, 32 positions, fp32."""


@pytest.fixture(scope="module")
def model() -> CodeGen:
    return lively_model()


@pytest.mark.parametrize("num_slots", [1, 2, 3, 7])
def test_any_batch_draws_what_generation_without_a_cache_draws(
    model: CodeGen, num_slots: int
) -> None:
    """Prompts of different lengths, slots that are refilled and moved, prompts shared between samples."""
    drawn = sample(model, PROMPTS, range(7), num_slots=num_slots)
    expected = [without_cache(model, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    assert drawn == expected
    assert drawn[0] != drawn[2]  # The same prompt, another seed.


def test_samples_that_end_early_hand_their_slots_on(model: CodeGen) -> None:
    eager = lively_model()
    with torch.no_grad():
        eager.head.bias[EOT] += 8.0
    prompts, seeds = [[5, 6, 7]] * 12 + [[9, 8]] * 12, range(100, 124)
    drawn = sample(eager, prompts, seeds, num_slots=4)
    assert drawn == [
        without_cache(eager, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert len({len(completion) for completion in drawn}) > 3  # They do end at different times.
    assert all(EOT not in completion for completion in drawn)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 43), min_size=1, max_size=9),
    num_slots=st.integers(1, 6),
    slots_of_memory=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_neither_order_nor_batch_nor_memory_changes_a_sample(
    lengths: list[int], num_slots: int, slots_of_memory: int, order: Any
) -> None:
    model = _packed()
    prompts = [[(7 * length + place) % NUM_IDS for place in range(length)] for length in lengths]
    alone = [sample(model, [prompt], [seed])[0] for seed, prompt in enumerate(prompts)]
    places = list(range(len(prompts)))
    order.shuffle(places)
    place = {"num_slots": num_slots, "cache_bytes": slots_of_memory * SLOT_BYTES}
    assert sample(model, [prompts[one] for one in places], places, **place) == [
        alone[one] for one in places
    ]


def test_logits_are_the_same_bits_in_every_batch() -> None:
    """Prompts around the lengths at which kernels change their ways, with 0 to 40 others beside them."""
    model = lively_model(WIDE).eval()
    pack(model)
    for length in (1, 16, 129, 187, 260, 517):
        prompt = PrefilledPrompt(model, [one % NUM_IDS for one in range(length)])
        expected = _logits(model, prompt, [])
        mixed = [PrefilledPrompt(model, [one % NUM_IDS] * (1 + 41 * one)) for one in range(17)]
        for beside in ([prompt], [PrefilledPrompt(model, [3] * 400)] * 40, mixed):
            assert torch.equal(_logits(model, prompt, beside), expected), (length, len(beside))


def _logits(
    model: CodeGen, prompt: PrefilledPrompt, beside: Sequence[PrefilledPrompt]
) -> torch.Tensor:
    """The logits after each of 20 new tokens; half of the others come first and go in the middle."""
    with torch.inference_mode():
        slots = BatchedKVCache(model, 64, MOST, 1 << 30)
        for one in (*beside[::2], prompt, *beside[1::2]):
            slots.add(one)
        own, rows = len(beside[::2]), []
        for token in range(MOST):
            if token == MOST // 2:
                for slot in reversed(range(own)):
                    slots.remove(slot)
                    own = slot if own == len(slots) else own  # The last one moves into the gap.
            logits = slots.decode_step([token + 1] * len(slots))
            rows.append(logits[own].clone())
    return torch.stack(rows)


@cache
def _packed() -> CodeGen:
    model = lively_model().eval()
    pack(model)
    return model


def test_a_sample_depends_on_its_own_seed_alone(model: CodeGen) -> None:
    together = sample(model, PROMPTS, range(7))
    assert sample(model, [PROMPTS[3]], [3]) == [together[3]]
    assert sample(model, [PROMPTS[3]], [3], most=6) == [together[3][:6]]


def test_without_temperature_it_is_the_most_probable_token(model: CodeGen) -> None:
    tokens = [5, 6, 7]
    for _ in range(MOST):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1, :NUM_IDS].argmax()))
    assert EOT not in tokens
    for temperature in (0.0, 1e-4):
        assert sample(model, [[5, 6, 7]], [1], rules=RULES._replace(temperature=temperature)) == [
            tokens[3:]
        ]


def test_padding_rows_are_never_drawn() -> None:
    model = lively_model()
    with torch.no_grad():
        model.head.bias[NUM_IDS:] += 1000.0
    drawn = sample(model, PROMPTS, range(7))
    assert max(token for completion in drawn for token in completion) < NUM_IDS


def test_a_sample_stops_when_the_caller_says_so_and_is_asked_now_and_then(model: CodeGen) -> None:
    free = sample(model, [[5, 6, 7], [9]], [0, 1])
    asked: list[tuple[int, ...]] = []

    def stop(new_tokens: Sequence[int]) -> bool:
        asked.append(tuple(new_tokens))
        return list(new_tokens[:8]) == free[1][:8]

    drawn = sample(model, [[5, 6, 7], [9]], [0, 1], rules=RULES._replace(should_stop=stop))
    assert drawn == [free[0], free[1][:8]]
    assert CHECK_EVERY == 8
    assert sorted(asked) == sorted([tuple(free[0][:8]), tuple(free[0][:16]), tuple(free[1][:8])])


def test_what_was_drawn_may_ask_for_more(model: CodeGen) -> None:
    """A conversation of three turns, beside another sample."""
    waiting: deque[Request[str]] = deque(
        [Request("turn 0", (5, 6), 1, 6), Request("other", (9,), 2, MOST)]
    )
    found: dict[str, Completion[str]] = {}
    prompt = (5, 6)
    for drawn in generate(model, waiting, RULES, max_new_tokens=MOST):
        found[drawn.key] = drawn
        if drawn.key in ("turn 0", "turn 1"):
            prompt = (*prompt, *drawn.tokens, 77)
            waiting.append(Request(f"turn {(drawn.key[-1] == '1' and 2) or 1}", prompt, 3, 6))
    assert sorted(found) == ["other", "turn 0", "turn 1", "turn 2"]
    assert found["other"].tokens == sample(model, [[9]], [2])[0]
    assert found["turn 2"].tokens == sample(model, [list(prompt)], [3], most=6)[0]


@pytest.mark.parametrize("scored_from", [0, 1, 7, 19, 20])
def test_the_probability_of_a_prompt_is_that_of_its_tokens(
    model: CodeGen, scored_from: int
) -> None:
    prompt = tuple(range(40, 60))
    request = Request("it", prompt, 1, 4, scored_from)
    (drawn,) = generate(model, deque([request]), RULES, max_new_tokens=4)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([prompt]))[0].double(), -1)
    expected = [
        -math.log(p[place - 1, prompt[place]]) for place in range(max(1, scored_from), len(prompt))
    ]
    assert drawn.num_scored == len(expected)
    assert drawn.prompt_nats == pytest.approx(sum(expected), rel=1e-5)


def test_of_a_prompt_too_long_only_what_was_read_is_scored(model: CodeGen) -> None:
    prompt, most = tuple(one % NUM_IDS for one in range(100)), TINY.context_length - 4
    (whole,) = generate(model, deque([Request("it", prompt, 1, 4, 90)]), RULES, max_new_tokens=4)
    (read,) = generate(
        model, deque([Request("it", prompt[-most:], 1, 4, most - 10)]), RULES, max_new_tokens=4
    )
    assert whole == read
    assert whole.num_scored == 10


def test_a_prompt_too_long_is_read_from_where_it_fits(model: CodeGen) -> None:
    prompt = [token % NUM_IDS for token in range(300)]
    most = TINY.context_length - MOST
    assert sample(model, [prompt], [1]) == sample(model, [prompt[-most:]], [1])


def test_nothing_asked_nothing_drawn(model: CodeGen) -> None:
    assert sample(model, [], []) == []


@pytest.mark.parametrize(
    ("draw_it", "message"),
    [
        (lambda model: sample(model, [[]], [1]), "an empty prompt"),
        (lambda model: sample(model, [[1]], [1], most=64), "max_new_tokens 64"),
        (lambda model: sample(model, [[1]], [1], most=0), "max_new_tokens 0"),
        (
            lambda model: sample(model, [[1]], [1], rules=RULES._replace(temperature=-0.1)),
            "temperature -0.1",
        ),
        (lambda model: sample(model, [[1]], [1], rules=RULES._replace(top_p=0.0)), "top_p 0.0"),
        (lambda model: sample(model, [[1]], [1], rules=RULES._replace(top_p=1.1)), "top_p 1.1"),
        (lambda model: sample(model, [[1]], [1], rules=RULES._replace(num_ids=513)), "num_ids 513"),
        (
            lambda model: list(
                generate(model, deque([Request(0, (1,), 1, 9)]), RULES, max_new_tokens=8)
            ),
            "max_new_tokens 9",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    model: CodeGen, draw_it: Callable[[CodeGen], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_it(model)


def test_a_diverged_model_is_an_error() -> None:
    model = lively_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(torch.nan)
    with pytest.raises(EvaluationError, match="not finite"):
        sample(model, [[1, 2]], [1])
