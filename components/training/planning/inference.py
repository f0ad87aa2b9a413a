"""Time to evaluate a checkpoint on planned devices: decoding of samples, and scoring of text.

A decoding step reads the weights once and the keys and values of every sample, computes 2 FLOPs per
weight and sample, and on a GPU launches its kernels one by one (`decode_mode` eager). The three
times are added, which assumes that they do not overlap. The shares of bandwidth and peak are
assumptions on GPUs. torch is not imported. Not covered: the time to load a checkpoint, and the
execution of programs.

Tests compare the formula with measured samples per second on a CPU (docs/figures.md).
"""

from __future__ import annotations

from components.model.config import ModelConfig
from components.training.planning.devices import Device

MAX_SLOTS = 128
"""Samples of a decoding step: `MAX_BATCH_SLOTS` of components/model/generation.py."""
CACHE_SHARE = 0.4
"""Share of the free memory for keys and values: components/evaluation/sampling/sampler.py."""
SLOT_MULTIPLE = 256
"""Slots are this long or a multiple: `LENGTH_MULTIPLE` of components/model/cuda_graphs.py."""
BANDWIDTH_SHARE = 0.7
"""Share of a GPU's bandwidth that decoding reaches. Assumption. The CPU's bandwidth is that of
attention as measured, so it is reached completely."""
LAUNCH_S = 2e-4
"""Time to launch the kernels of a layer on a GPU. Assumption: 25 kernels, 8 microseconds each."""


def sampling_s(
    model: ModelConfig,
    device: Device,
    num_devices: int,
    *,
    num_new_tokens: int,
    num_prompt_tokens: int,
    num_attended_tokens: int,
    max_tokens: int,
) -> float:
    """Return the seconds to generate samples, each device with a copy of the model.

    Args:
        model: the shape.
        device: the type of the devices.
        num_devices: devices that sample.
        num_new_tokens: of all samples.
        num_prompt_tokens: prompt tokens that are computed.
        num_attended_tokens: sum over the new tokens of the tokens before them.
        max_tokens: of a prompt and its completion together; the length of a slot.
    """
    is_gpu = device.name != "cpu"
    weight_bytes = 2 if is_gpu else 4  # bf16, or fp32 (`sampler.device_precision`).
    flops_per_s = _peak_flops(device) * device.mfu
    bytes_per_s = device.bytes_per_s * (BANDWIDTH_SHARE if is_gpu else 1.0)
    num_slots = decoding_slots(model, device, min(max_tokens, model.context_length))
    num_steps = num_new_tokens / num_slots
    # The embedding is a lookup: head and layers are read and multiplied.
    num_weights = model.num_parameters - model.padded_vocab_size * model.d_model
    read_bytes = num_steps * num_weights * weight_bytes
    read_bytes += num_attended_tokens * _kv_token_bytes(model, weight_bytes)
    flops = 2 * num_weights * (num_new_tokens + num_prompt_tokens)
    launch_s = num_steps * model.num_layers * LAUNCH_S if is_gpu else 0.0
    return (read_bytes / bytes_per_s + flops / flops_per_s + launch_s) / num_devices


def decoding_slots(model: ModelConfig, device: Device, max_tokens: int) -> int:
    """Return the samples of a decoding step: as many as fit beside the weights, at least 1."""
    weight_bytes = 4 if device.name == "cpu" else 2
    free_bytes = device.usable_bytes - model.num_parameters * weight_bytes
    slot_tokens = -(-max_tokens // SLOT_MULTIPLE) * SLOT_MULTIPLE
    slot_bytes = slot_tokens * _kv_token_bytes(model, weight_bytes)
    return max(1, min(MAX_SLOTS, int(CACHE_SHARE * free_bytes) // slot_bytes))


def scoring_s(model: ModelConfig, device: Device, num_devices: int, num_tokens: int) -> float:
    """Return the seconds to score text for bits per byte: a forward pass, a third of the FLOPs of
    training, at the model FLOPs utilization of training.

    Args:
        model: the shape.
        device: the type of the devices.
        num_devices: devices that score.
        num_tokens: tokens of full sequences.
    """
    flops_per_s = num_devices * _peak_flops(device) * device.mfu
    return num_tokens * model.flops_per_token / 3 / flops_per_s


def _peak_flops(device: Device) -> float:
    """In bf16 on a GPU, in fp32 on a CPU."""
    return device.peak_flops["fp32" if device.name == "cpu" else "bf16"]


def _kv_token_bytes(model: ModelConfig, weight_bytes: int) -> int:
    """Keys and values of a token, over all layers."""
    return 2 * model.num_layers * model.d_model * weight_bytes
