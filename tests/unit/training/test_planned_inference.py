"""Planned time of evaluations: values computed by hand, and measurements on a CPU."""

from __future__ import annotations

import pytest

from components.evaluation.sampling import sampler, sampler_pool
from components.model import cuda_graphs, generation
from components.model.config import ModelConfig
from components.training.planning import inference, memory
from components.training.planning.devices import Device, find_device
from components.training.planning.inference import decoding_slots, sampling_s, scoring_s
from flows.settings.recipes import recipe

H100, L40S, CPU = (find_device(name) for name in ("h100", "l40s", "cpu"))
MODEL_350M, MODEL_16B = recipe("350m").model, recipe("16b").model
STARTER = recipe("starter").model
WEIGHTS_350M = 304_283_648
"""20 (12 * 1024^2 + 7 * 1024) + 51,200 * 1024 + 51,200 + 2 * 1024: without the embedding."""
WEIGHTS_16B = 15_717_582_848
"""34 (12 * 6144^2 + 7 * 6144) + 51,200 * 6144 + 51,200 + 2 * 6144."""


def test_the_constants_are_those_of_the_sampler() -> None:
    assert inference.MAX_SLOTS == generation.MAX_BATCH_SLOTS
    assert inference.CACHE_SHARE == sampler.CACHE_SHARE
    assert inference.SLOT_MULTIPLE == cuda_graphs.LENGTH_MULTIPLE
    assert memory.SMALL_PARAMETERS == sampler_pool.SMALL_PARAMETERS


@pytest.mark.parametrize(
    ("model", "num_weights", "num_slots", "kv_bytes"),
    # Keys and values of a token in bf16: 2 * 20 * 1024 * 2, and 2 * 34 * 6144 * 2 bytes. Slots of
    # 512 tokens of 16B in 40 % of 72 - 32.06 GB: 15.97 GB / 427.8 MB = 37.
    [(MODEL_350M, WEIGHTS_350M, 128, 81_920), (MODEL_16B, WEIGHTS_16B, 37, 835_584)],
    ids=["350m", "16b"],
)
def test_sampling_on_gpus_equals_values_computed_by_hand(
    model: ModelConfig, num_weights: int, num_slots: int, kv_bytes: int
) -> None:
    assert decoding_slots(model, H100, 390) == num_slots
    seconds = sampling_s(
        model,
        H100,
        4,
        num_new_tokens=num_slots * 1_000,
        num_prompt_tokens=5_000,
        num_attended_tokens=7_000_000,
        max_tokens=390,
    )
    reading_s = (1_000 * num_weights * 2 + 7_000_000 * kv_bytes) / (0.7 * 3.35e12)
    computing_s = 2 * num_weights * (num_slots * 1_000 + 5_000) / (0.4 * 989.5e12)
    launching_s = 1_000 * model.num_layers * 2e-4
    assert seconds == pytest.approx((reading_s + computing_s + launching_s) / 4, rel=1e-9)


def test_a_model_that_fills_the_device_still_decodes_a_sample_at_a_time() -> None:
    assert decoding_slots(MODEL_16B, L40S, 2048) == 2
    assert decoding_slots(MODEL_16B, L40S.replace(memory_bytes=33_000_000_000), 2048) == 1


@pytest.mark.parametrize(
    ("model", "num_prompts", "new_tokens", "prompt_tokens", "measured"),
    # docs/figures.md: both rounds of 350M, and the range of the starter, 20 samples a prompt.
    [(MODEL_350M, 6, 64, 134, 98.7), (STARTER, 32, 128, 200, 4_916)],
    ids=["350m", "starter"],
)
def test_sampling_on_two_cores_agrees_with_the_measurement_within_a_factor_of_two(
    model: ModelConfig, num_prompts: int, new_tokens: int, prompt_tokens: int, measured: float
) -> None:
    num_samples = 20 * num_prompts
    attended = sum(range(prompt_tokens, prompt_tokens + new_tokens))
    seconds = sampling_s(
        model,
        CPU,
        2,
        num_new_tokens=num_samples * new_tokens,
        num_prompt_tokens=num_prompts * prompt_tokens,
        num_attended_tokens=num_samples * attended,
        max_tokens=prompt_tokens + new_tokens,
    )
    assert 0.5 * measured < num_samples * new_tokens / seconds < 2 * measured


def test_scoring_is_a_third_of_the_flops_of_training() -> None:
    # 6 (20 * 12 * 1024^2 + 51,200 * 1024) + 6 * 20 * 1024 * 2048 FLOPs a token.
    expected = 1_000_000 * 2_076_180_480 / (8 * 0.4 * 989.5e12)
    assert scoring_s(MODEL_350M, H100, 8, 3_000_000) == pytest.approx(expected)


@pytest.mark.parametrize("device", [H100, L40S, find_device("a100-80")], ids=lambda d: d.name)
def test_more_devices_divide_the_time(device: Device) -> None:
    work = {"num_new_tokens": 10**6, "num_prompt_tokens": 10**5, "num_attended_tokens": 10**8}
    single, several = (sampling_s(MODEL_350M, device, n, max_tokens=390, **work) for n in (1, 8))
    assert several == pytest.approx(single / 8)
