"""The static KV cache agrees with generation without a cache and with the batched KV cache."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fixtures.models import lively_model
from generation_helpers import (
    MAX_NEW_TOKENS,
    NUM_IDS,
    PARAMS,
    PROMPTS,
    WIDE,
    sample,
    sample_reusing_slots,
    sample_without_cache,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.model.config import DecodeMode
from components.model.cuda_graphs import LENGTH_MULTIPLE, CudaGraphStep, StaticKVCache, decode
from components.model.kv_cache import BatchedKVCache, PrefilledPrompt
from components.model.transformer import CodeGen

GREEDY = PARAMS._replace(temperature=0)
LONG = WIDE.replace(head_dim=8, rotary_dim=4)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="recording needs a GPU")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)


def prompts(*lengths: int) -> list[list[int]]:
    return [[(7 * length + index) % NUM_IDS for index in range(length)] for length in lengths]


@pytest.mark.parametrize("decode_mode", ["eager", "graphs"])
@pytest.mark.parametrize("num_slots", [1, 2, 3, 7])
def test_any_batch_generates_the_same_as_without_a_cache(
    num_slots: int, decode_mode: DecodeMode
) -> None:
    model = lively_model()
    completions = sample(model, PROMPTS, range(7), num_slots=num_slots, decode_mode=decode_mode)
    assert completions == [
        sample_without_cache(model, prompt, seed) for seed, prompt in enumerate(PROMPTS)
    ]


def test_slots_of_finished_samples_are_reused() -> None:
    completions, expected = sample_reusing_slots("graphs")
    assert completions == expected
    # They end at different lengths.
    assert len({len(completion) for completion in completions}) > 3


def test_slots_are_reallocated_for_longer_prompts() -> None:
    """The memory fits two slots of the shortest length, or a single longer slot."""
    model = lively_model(LONG)
    requested = prompts(3, 230, 250, 5, 700, 9)
    cache_bytes = 2 * LENGTH_MULTIPLE * 2 * 2 * 32 * 4
    completions = sample(
        model, requested, range(6), num_slots=4, cache_bytes=cache_bytes, decode_mode="graphs"
    )
    assert completions == sample(model, requested, range(6))


def fill(
    cache: BatchedKVCache | StaticKVCache, model: CodeGen, requested: Sequence[Sequence[int]]
) -> None:
    for prompt in requested:
        cache.add(PrefilledPrompt(model, prompt))


@torch.inference_mode()
def test_logits_equal_those_of_the_batched_cache() -> None:
    """Also after slots were freed and reused, and past a recorded length."""
    model = lively_model(LONG).eval()
    batched = BatchedKVCache(model, 8, 40, 1 << 30)
    static = StaticKVCache(model, 8, 40, 1 << 30, "graphs")
    for cache in (batched, static):
        fill(cache, model, prompts(490, 1, 300, 490, 17))
    assert static.decode_step([]).shape == batched.decode_step([]).shape
    for step in range(36):
        if step == 12:
            for cache in (batched, static):
                cache.remove(1)
                cache.remove(3)
                fill(cache, model, prompts(5, 300))
        torch.testing.assert_close(
            static.decode_step([step] * 5), batched.decode_step([step] * 5), rtol=1e-5, atol=1e-5
        )
    assert isinstance(static._step, CudaGraphStep)
    assert static._step.lengths == [512, 768]


@torch.inference_mode()
def test_a_repeated_step_has_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up steps before recording must not change the cache."""
    model = lively_model().eval()
    once, thrice = (StaticKVCache(model, 3, MAX_NEW_TOKENS, 1 << 30, "eager") for _ in range(2))
    for cache in (once, thrice):
        fill(cache, model, PROMPTS[2:5])
    step = thrice._step
    monkeypatch.setattr(thrice, "_step", lambda length: [step(length) for _ in range(3)][-1])
    for token in range(MAX_NEW_TOKENS):
        assert torch.equal(once.decode_step([token] * 3), thrice.decode_step([token] * 3))


class Devices(TorchDispatchMode):
    """Records the devices of the tensors of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.counts.update(
            leaf.device.type
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, torch.Tensor)
        )
        return result


def test_a_step_does_not_synchronize_with_the_host() -> None:
    """Otherwise it could not be recorded. Tensors on the meta device have no values to read."""
    with torch.device("meta"):
        model = CodeGen(LONG).eval()
        layers = [
            (torch.zeros(3, 4, LENGTH_MULTIPLE, 8), torch.zeros(3, 4, LENGTH_MULTIPLE, 8))
            for _ in range(2)
        ]
        inputs = torch.zeros(2, 3, dtype=torch.long)
    with torch.no_grad(), Devices() as devices:
        logits = decode(model, layers, inputs, LENGTH_MULTIPLE)
    assert logits.shape == (3, LONG.padded_vocab_size)
    assert set(devices.counts) == {"meta"}


def test_each_length_is_recorded_once_and_then_replayed() -> None:
    """On a CPU the step itself is called."""
    counter = torch.zeros(1)
    lengths: list[int] = []

    def step(length: int) -> torch.Tensor:
        lengths.append(length)
        return counter.add_(length)

    recorded = CudaGraphStep(step, torch.device("cpu"))
    assert [float(recorded(length)) for length in (256, 512, 256)] == [256, 768, 1024]
    assert (recorded.lengths, lengths) == ([256, 512], [256, 512, 256])


def test_the_number_of_slots_is_limited_by_memory() -> None:
    model = lively_model(LONG)
    slot_bytes = LENGTH_MULTIPLE * 2 * 2 * 32 * 4
    with torch.inference_mode():
        cache = StaticKVCache(model, 8, MAX_NEW_TOKENS, 3 * slot_bytes, "eager")
        short, long = (PrefilledPrompt(model, prompt) for prompt in prompts(9, 500))
        for used in range(3):
            assert (cache.has_room(short), cache.has_room(long)) == (True, used == 0)
            cache.add(short)
        assert (cache.capacity, cache.has_room(short)) == (3, False)
        for used in (2, 1, 0):
            cache.remove(used)
        cache.add(long)  # 768 positions, as many as three short slots.
        assert (cache.capacity, cache.has_room(short), len(cache)) == (1, False, 1)


@needs_compiler
@pytest.mark.process_heavy
@pytest.mark.filterwarnings(
    "ignore:Torchinductor does not support code generation for complex operators:UserWarning"
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_steps_generate_the_same_greedy_tokens() -> None:
    """Some positions are past the first length, so two shapes are compiled."""
    model = lively_model(LONG.replace(num_layers=1)).eval()
    requested = prompts(3, 250, 9)
    expected, compiled = (
        sample(model, requested, range(3), params=GREEDY, num_slots=2, decode_mode=mode)
        for mode in ("eager", "compiled")
    )
    assert compiled == expected == sample(model, requested, range(3), params=GREEDY)


@needs_gpu
@pytest.mark.parametrize("decode_mode", ["graphs", "compiled"])
def test_a_replayed_graph_generates_the_same_as_eager_steps(decode_mode: DecodeMode) -> None:
    """In fp32, greedy; slots are reused, and two lengths are recorded. Never run so far."""
    model = lively_model(LONG).eval().to("cuda")
    requested = prompts(3, 230, 250, 9, 9, 700)
    eager, recorded = (
        sample(model, requested, range(6), params=GREEDY, num_slots=2, decode_mode=mode)
        for mode in ("eager", decode_mode)
    )
    assert recorded == eager
