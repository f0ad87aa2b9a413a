"""Slots of one shape against generation without a cache and against the slots that share their prompts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from drawing import EOT, MOST, NUM_IDS, PROMPTS, RULES, WIDE, sample, without_cache
from fixtures.models import lively_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.model.config import DecodeMode
from components.model.cuda_graphs import LENGTH_MULTIPLE, CudaGraphStep, StaticKVCache, decode
from components.model.kv_cache import BatchedKVCache, PrefilledPrompt
from components.model.transformer import CodeGen

GREEDY = RULES._replace(temperature=0)
LONG = WIDE.replace(head_dim=8, rotary_dim=4)
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU to record a step on"
)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)


def prompts(*lengths: int) -> list[list[int]]:
    return [[(7 * length + place) % NUM_IDS for place in range(length)] for length in lengths]


@pytest.mark.parametrize("steps", ["eager", "graphs"])
@pytest.mark.parametrize("num_slots", [1, 2, 3, 7])
def test_any_batch_draws_what_generation_without_a_cache_draws(
    num_slots: int, steps: DecodeMode
) -> None:
    model = lively_model()
    drawn = sample(model, PROMPTS, range(7), num_slots=num_slots, steps=steps)
    assert drawn == [without_cache(model, prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def test_samples_that_end_early_hand_their_slots_on() -> None:
    eager = lively_model()
    with torch.no_grad():
        eager.head.bias[EOT] += 8.0
    asked, seeds = [[5, 6, 7]] * 12 + [[9, 8]] * 12, range(100, 124)
    drawn = sample(eager, asked, seeds, num_slots=4, steps="graphs")
    assert drawn == [
        without_cache(eager, prompt, seed) for prompt, seed in zip(asked, seeds, strict=True)
    ]
    assert len({len(completion) for completion in drawn}) > 3  # They do end at different times.


def test_prompts_that_grow_too_long_for_the_slots_are_drawn_in_longer_ones() -> None:
    """In memory for two slots of the shortest length, and then for one that takes all of it."""
    model = lively_model(LONG)
    asked = prompts(3, 230, 250, 5, 700, 9)
    cache_bytes = 2 * LENGTH_MULTIPLE * 2 * 2 * 32 * 4
    drawn = sample(model, asked, range(6), num_slots=4, cache_bytes=cache_bytes, steps="graphs")
    assert drawn == sample(model, asked, range(6))


def fill(
    slots: BatchedKVCache | StaticKVCache, model: CodeGen, asked: Sequence[Sequence[int]]
) -> None:
    for prompt in asked:
        slots.add(PrefilledPrompt(model, prompt))


@torch.inference_mode()
def test_logits_are_those_of_slots_that_share_their_prompts() -> None:
    """Also after some were freed and others took their places, and past a length that is attended over."""
    model = lively_model(LONG).eval()
    shared, fixed = (
        BatchedKVCache(model, 8, 40, 1 << 30),
        StaticKVCache(model, 8, 40, 1 << 30, "graphs"),
    )
    for slots in (shared, fixed):
        fill(slots, model, prompts(490, 1, 300, 490, 17))
    assert fixed.decode_step([]).shape == shared.decode_step([]).shape
    for step in range(36):
        if step == 12:
            for slots in (shared, fixed):
                slots.remove(1)
                slots.remove(3)
                fill(slots, model, prompts(5, 300))
        torch.testing.assert_close(
            fixed.decode_step([step] * 5), shared.decode_step([step] * 5), rtol=1e-5, atol=1e-5
        )
    assert isinstance(fixed._step, CudaGraphStep)
    assert fixed._step.lengths == [512, 768]


@torch.inference_mode()
def test_a_step_that_is_done_again_leaves_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is recorded a step is done a few times, and those must not count."""
    model = lively_model().eval()
    once, thrice = (StaticKVCache(model, 3, MOST, 1 << 30, "eager") for _ in range(2))
    for slots in (once, thrice):
        fill(slots, model, PROMPTS[2:5])
    step = thrice._step
    monkeypatch.setattr(thrice, "_step", lambda length: [step(length) for _ in range(3)][-1])
    for token in range(MOST):
        assert torch.equal(once.decode_step([token] * 3), thrice.decode_step([token] * 3))


class Devices(TorchDispatchMode):
    """On which devices the tensors of all operations lie."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen.update(
            one.device.type
            for one in tree_leaves((args, kwargs, result))
            if isinstance(one, torch.Tensor)
        )
        return result


def test_a_step_neither_looks_at_a_value_nor_takes_one_from_the_host() -> None:
    """Else it could not be recorded. On the meta device there are no values, and what is not there lies on the host."""
    with torch.device("meta"):
        model = CodeGen(LONG).eval()
        layers = [
            (torch.zeros(3, 4, LENGTH_MULTIPLE, 8), torch.zeros(3, 4, LENGTH_MULTIPLE, 8))
            for _ in range(2)
        ]
        fed = torch.zeros(2, 3, dtype=torch.long)
    with torch.no_grad(), Devices() as devices:
        logits = decode(model, layers, fed, LENGTH_MULTIPLE)
    assert logits.shape == (3, LONG.padded_vocab_size)
    assert set(devices.seen) == {"meta"}


def test_a_length_is_recorded_once_and_replayed_from_then_on() -> None:
    """On a CPU what is replayed is the step itself."""
    counter, seen = torch.zeros(1), list[int]()

    def step(length: int) -> torch.Tensor:
        seen.append(length)
        return counter.add_(length)

    recorded = CudaGraphStep(step, torch.device("cpu"))
    assert [float(recorded(length)) for length in (256, 512, 256)] == [256, 768, 1024]
    assert (recorded.lengths, seen) == ([256, 512], [256, 512, 256])


def test_there_are_as_many_slots_as_there_is_memory_for() -> None:
    model, slot_bytes = lively_model(LONG), LENGTH_MULTIPLE * 2 * 2 * 32 * 4
    with torch.inference_mode():
        slots = StaticKVCache(model, 8, MOST, 3 * slot_bytes, "eager")
        short, long = (PrefilledPrompt(model, prompt) for prompt in prompts(9, 500))
        for used in range(3):
            assert (slots.has_room(short), slots.has_room(long)) == (True, used == 0)
            slots.add(short)
        assert (slots.capacity, slots.has_room(short)) == (3, False)
        for used in (2, 1, 0):
            slots.remove(used)
        slots.add(long)  # Of 768 positions, which is what three short ones had.
        assert (slots.capacity, slots.has_room(short), len(slots)) == (1, False, 1)


@needs_compiler
@pytest.mark.apart
@pytest.mark.filterwarnings(
    "ignore:Torchinductor does not support code generation for complex operators:UserWarning"
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_steps_draw_the_same_greedy_tokens() -> None:
    """Of which some are past the first length, so that two shapes are compiled."""
    model = lively_model(LONG.replace(num_layers=1)).eval()
    asked = prompts(3, 250, 9)
    expected, compiled = (
        sample(model, asked, range(3), rules=GREEDY, num_slots=2, steps=steps)
        for steps in ("eager", "compiled")
    )
    assert compiled == expected == sample(model, asked, range(3), rules=GREEDY)


@needs_gpu
@pytest.mark.parametrize("steps", ["graphs", "compiled"])
def test_a_replayed_graph_draws_what_its_kernels_draw(steps: DecodeMode) -> None:
    """In fp32 and without temperature; slots are refilled, and two lengths are attended over. Never run so far."""
    model = lively_model(LONG).eval().to("cuda")
    asked = prompts(3, 230, 250, 9, 9, 700)
    eager, recorded = (
        sample(model, asked, range(6), rules=GREEDY, num_slots=2, steps=one)
        for one in ("eager", steps)
    )
    assert recorded == eager
