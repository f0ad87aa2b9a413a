"""Generation with a KV cache agrees with generation without a cache."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from fixtures.models import TINY, lively_model
from generation_helpers import (
    EOT,
    MAX_NEW_TOKENS,
    NUM_IDS,
    PARAMS,
    PROMPTS,
    WIDE,
    sample,
    sample_reusing_slots,
    sample_without_cache,
)
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
def test_any_batch_generates_the_same_as_without_a_cache(model: CodeGen, num_slots: int) -> None:
    """Prompts of different lengths, reused and moved slots, prompts shared by samples."""
    completions = sample(model, PROMPTS, range(7), num_slots=num_slots)
    expected = [sample_without_cache(model, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    assert completions == expected
    assert completions[0] != completions[2]  # The same prompt with different seeds.


def test_slots_of_finished_samples_are_reused() -> None:
    completions, expected = sample_reusing_slots()
    assert completions == expected
    # They end at different lengths.
    assert len({len(completion) for completion in completions}) > 3
    assert all(EOT not in completion for completion in completions)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 43), min_size=1, max_size=9),
    num_slots=st.integers(1, 6),
    slots_of_memory=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_order_batch_size_and_memory_do_not_change_a_completion(
    lengths: list[int], num_slots: int, slots_of_memory: int, order: Any
) -> None:
    model = _packed()
    prompts = [[(7 * length + index) % NUM_IDS for index in range(length)] for length in lengths]
    separate = [sample(model, [prompt], [seed])[0] for seed, prompt in enumerate(prompts)]
    seeds = list(range(len(prompts)))
    order.shuffle(seeds)
    options = {"num_slots": num_slots, "cache_bytes": slots_of_memory * SLOT_BYTES}
    completions = sample(model, [prompts[seed] for seed in seeds], seeds, **options)
    assert completions == [separate[seed] for seed in seeds]


def test_logits_are_bitwise_independent_of_the_batch() -> None:
    """Prompts around lengths at which kernels change, batch 0 to 40 other samples."""
    model = lively_model(WIDE).eval()
    pack(model)
    for length in (1, 16, 129, 187, 260, 517):
        prompt = PrefilledPrompt(model, [index % NUM_IDS for index in range(length)])
        expected = _logits(model, prompt, [])
        mixed = [PrefilledPrompt(model, [n % NUM_IDS] * (1 + 41 * n)) for n in range(17)]
        for batch in ([prompt], [PrefilledPrompt(model, [3] * 400)] * 40, mixed):
            assert torch.equal(_logits(model, prompt, batch), expected), (length, len(batch))


def _logits(
    model: CodeGen, prompt: PrefilledPrompt, batch: Sequence[PrefilledPrompt]
) -> torch.Tensor:
    """Logits after each of 20 tokens; half of the batch is added first and removed halfway."""
    with torch.inference_mode():
        cache = BatchedKVCache(model, 64, MAX_NEW_TOKENS, 1 << 30)
        for item in (*batch[::2], prompt, *batch[1::2]):
            cache.add(item)
        row = len(batch[::2])
        rows = []
        for token in range(MAX_NEW_TOKENS):
            if token == MAX_NEW_TOKENS // 2:
                for slot in reversed(range(row)):
                    cache.remove(slot)
                    row = slot if row == len(cache) else row  # The last slot moves.
            logits = cache.decode_step([token + 1] * len(cache))
            rows.append(logits[row].clone())
    return torch.stack(rows)


@cache
def _packed() -> CodeGen:
    model = lively_model().eval()
    pack(model)
    return model


def test_a_completion_depends_only_on_its_own_seed(model: CodeGen) -> None:
    together = sample(model, PROMPTS, range(7))
    assert sample(model, [PROMPTS[3]], [3]) == [together[3]]
    assert sample(model, [PROMPTS[3]], [3], max_new_tokens=6) == [together[3][:6]]


def test_without_temperature_the_most_probable_token_is_taken(model: CodeGen) -> None:
    tokens = [5, 6, 7]
    for _ in range(MAX_NEW_TOKENS):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1, :NUM_IDS].argmax()))
    assert EOT not in tokens
    for temperature in (0.0, 1e-4):
        assert sample(model, [[5, 6, 7]], [1], params=PARAMS._replace(temperature=temperature)) == [
            tokens[3:]
        ]


def test_padding_rows_are_never_sampled() -> None:
    model = lively_model()
    with torch.no_grad():
        model.head.bias[NUM_IDS:] += 1000.0
    completions = sample(model, PROMPTS, range(7))
    assert max(token for completion in completions for token in completion) < NUM_IDS


def test_should_stop_ends_a_sample_and_is_called_every_few_tokens(model: CodeGen) -> None:
    free = sample(model, [[5, 6, 7], [9]], [0, 1])
    calls: list[tuple[int, ...]] = []

    def stop(new_tokens: Sequence[int]) -> bool:
        calls.append(tuple(new_tokens))
        return list(new_tokens[:8]) == free[1][:8]

    completions = sample(model, [[5, 6, 7], [9]], [0, 1], params=PARAMS._replace(should_stop=stop))
    assert completions == [free[0], free[1][:8]]
    assert CHECK_EVERY == 8
    assert sorted(calls) == sorted([tuple(free[0][:8]), tuple(free[0][:16]), tuple(free[1][:8])])


def test_generation_ends_before_the_next_token_once_it_is_cancelled(model: CodeGen) -> None:
    answers = iter([False, False, True])
    requests = deque([Request(0, (5, 6), 1, 3), Request(1, (9,), 2, 2)])
    completions = generate(
        model, requests, PARAMS, max_new_tokens=3, is_cancelled=lambda: next(answers)
    )
    assert [completion.key for completion in completions] == [1]
    assert not list(answers)


def test_requests_can_be_appended_while_consuming_completions(model: CodeGen) -> None:
    """A conversation of three turns, batch another sample."""
    requests: deque[Request[str]] = deque(
        [Request("turn 0", (5, 6), 1, 6), Request("other", (9,), 2, MAX_NEW_TOKENS)]
    )
    by_key: dict[str, Completion[str]] = {}
    prompt = (5, 6)
    for completion in generate(model, requests, PARAMS, max_new_tokens=MAX_NEW_TOKENS):
        by_key[completion.key] = completion
        if completion.key in ("turn 0", "turn 1"):
            prompt = (*prompt, *completion.tokens, 77)
            turn = int(completion.key[-1]) + 1
            requests.append(Request(f"turn {turn}", prompt, 3, 6))
    assert sorted(by_key) == ["other", "turn 0", "turn 1", "turn 2"]
    assert by_key["other"].tokens == sample(model, [[9]], [2])[0]
    assert by_key["turn 2"].tokens == sample(model, [list(prompt)], [3], max_new_tokens=6)[0]


@pytest.mark.parametrize("scored_from", [0, 1, 7, 19, 20])
def test_prompt_nats_are_the_sum_over_the_scored_tokens(model: CodeGen, scored_from: int) -> None:
    prompt = tuple(range(40, 60))
    request = Request("key", prompt, 1, 4, scored_from)
    (completion,) = generate(model, deque([request]), PARAMS, max_new_tokens=4)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([prompt]))[0].double(), -1)
    expected = [
        -math.log(p[index - 1, prompt[index]]) for index in range(max(1, scored_from), len(prompt))
    ]
    assert completion.num_scored == len(expected)
    assert completion.prompt_nats == pytest.approx(sum(expected), rel=1e-5)


def test_of_a_long_prompt_only_tokens_in_the_context_are_scored(model: CodeGen) -> None:
    prompt = tuple(index % NUM_IDS for index in range(100))
    limit = TINY.context_length - 4
    (truncated,) = generate(
        model, deque([Request("key", prompt, 1, 4, 90)]), PARAMS, max_new_tokens=4
    )
    (expected,) = generate(
        model, deque([Request("key", prompt[-limit:], 1, 4, limit - 10)]), PARAMS, max_new_tokens=4
    )
    assert truncated == expected
    assert truncated.num_scored == 10


def test_a_long_prompt_is_truncated_at_its_beginning(model: CodeGen) -> None:
    prompt = [token % NUM_IDS for token in range(300)]
    limit = TINY.context_length - MAX_NEW_TOKENS
    assert sample(model, [prompt], [1]) == sample(model, [prompt[-limit:]], [1])


def test_without_requests_there_are_no_completions(model: CodeGen) -> None:
    assert sample(model, [], []) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: sample(model, [[]], [1]), "an empty prompt"),
        (lambda model: sample(model, [[1]], [1], max_new_tokens=64), "max_new_tokens 64"),
        (lambda model: sample(model, [[1]], [1], max_new_tokens=0), "max_new_tokens 0"),
        (
            lambda model: sample(model, [[1]], [1], params=PARAMS._replace(temperature=-0.1)),
            "temperature -0.1",
        ),
        (lambda model: sample(model, [[1]], [1], params=PARAMS._replace(top_p=0.0)), "top_p 0.0"),
        (lambda model: sample(model, [[1]], [1], params=PARAMS._replace(top_p=1.1)), "top_p 1.1"),
        (
            lambda model: sample(model, [[1]], [1], params=PARAMS._replace(num_ids=513)),
            "num_ids 513",
        ),
        (
            lambda model: list(
                generate(model, deque([Request(0, (1,), 1, 9)]), PARAMS, max_new_tokens=8)
            ),
            "max_new_tokens 9",
        ),
    ],
)
def test_invalid_settings_are_an_error(
    model: CodeGen, call: Callable[[CodeGen], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(model)


def test_a_diverged_model_is_an_error() -> None:
    model = lively_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(torch.nan)
    with pytest.raises(EvaluationError, match="not finite"):
        sample(model, [[1, 2]], [1])
