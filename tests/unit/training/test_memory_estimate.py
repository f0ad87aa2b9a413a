"""Planned memory: values computed by hand and of the ZeRO paper, and properties of every model.

Comparison with measurements: tests/integration/test_planned_memory.py.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.training.config import ParallelLayout, offload_fields
from components.training.planning.memory import checkpoint_bytes, peak_memory

CODEGEN_16B = ModelConfig(
    num_layers=34,
    num_heads=24,
    head_dim=256,
    rotary_dim=64,
    context_length=2048,
    padded_vocab_size=51_200,
)
PARAMETERS_16B = 16_032_155_648
"""34 (12 * 6144^2 + 7 * 6144) + 2 * 51,200 * 6144 + 51,200 + 2 * 6144."""
SMALL = ModelConfig(
    num_layers=2, num_heads=4, head_dim=16, rotary_dim=8, context_length=256, padded_vocab_size=256
)
PARAMETERS_SMALL = 132_352
"""2 (12 * 64^2 + 7 * 64) + 2 * 256 * 64 + 256 + 2 * 64."""
LIVE = 1_000_000_000
"""Weights that DeepSpeed keeps gathered in ZeRO 3."""
FP32 = ParallelLayout(precision="fp32")
BF16 = ParallelLayout(precision="bf16")


def test_mixed_precision_adam_is_16_bytes_a_parameter() -> None:
    memory = peak_memory(CODEGEN_16B, BF16.replace(zero_stage=0), accumulation=1)
    assert memory.weights_bytes == 2 * PARAMETERS_16B
    assert memory.gradients_bytes == 2 * PARAMETERS_16B
    assert memory.optimizer_bytes == 12 * PARAMETERS_16B
    assert memory.phase == "step"
    assert memory.buffers_bytes == 4 * PARAMETERS_16B, "gradients in fp32"


@pytest.mark.parametrize(
    ("zero_stage", "per_parameter", "gathered"),
    # ZeRO (arXiv 1910.02054) figure 1 at N = 64: 4 + 12/64, 2 + 14/64, 16/64 bytes a parameter;
    # 31.4, 16.6, 1.9 GB at 7.5B.
    [(1, 4.1875, 0), (2, 2.21875, 0), (3, 0.25, 2 * LIVE)],
)
def test_model_states_are_those_of_the_zero_paper(
    zero_stage: int, per_parameter: float, gathered: int
) -> None:
    memory = peak_memory(
        CODEGEN_16B,
        ParallelLayout(world_size=64, zero_stage=zero_stage, precision="bf16"),
        accumulation=16,
    )
    states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    assert memory.phase == "forward"
    assert states == per_parameter * PARAMETERS_16B + gathered


WIDTH = 256 * 64 * 4
"""Bytes of one value per token and model dimension: 65,536."""
BLOCK = 16 * WIDTH + 256 * 4 * (2 + 4)
"""1,054,720: sixteen of those, two statistics and four logarithms a token."""
HEAD = 256 * 65 * 4
"""66,560: the gradient of the head, with its bias."""


@pytest.mark.parametrize(
    ("interval", "saved"),
    [(0, 2 * BLOCK), (1, 2 * WIDTH + BLOCK)],
    ids=["saved", "recomputed"],
)
def test_activations_equal_values_computed_by_hand(interval: int, saved: int) -> None:
    """In the last block's backward pass.

    Saved activations, the final LayerNorm's input, five gradients and a matrix gradient.
    """
    memory = peak_memory(
        SMALL,
        FP32.replace(zero_stage=0, activation_checkpoint_interval=interval),
        accumulation=1,
    )
    assert memory.phase == "backward"
    assert memory.activations_bytes == saved + WIDTH + 5 * WIDTH + 4 * 64 * 64 * 4
    assert memory.gradients_bytes == HEAD
    assert memory.weights_bytes + memory.optimizer_bytes == 12 * PARAMETERS_SMALL
    assert memory.total_bytes == memory.activations_bytes + HEAD + 12 * PARAMETERS_SMALL


def test_tensor_parallel_memory_equals_values_computed_by_hand() -> None:
    """Eight ranks share a replica, so eight replicas share the optimizer state of each part."""
    partitioned = 34 * (12 * 6144**2 + 4 * 6144)
    replicated = 34 * 3 * 6144 + 2 * 51_200 * 6144 + 51_200 + 2 * 6144
    assert partitioned + replicated == PARAMETERS_16B
    per_process = partitioned // 8 + replicated
    layout = ParallelLayout(world_size=64, tensor_parallel=8, zero_stage=1, precision="bf16")
    memory = peak_memory(CODEGEN_16B, layout, accumulation=16)
    assert (memory.weights_bytes, memory.gradients_bytes) == (2 * per_process, 2 * per_process)
    assert memory.optimizer_bytes == 12 * per_process // 8
    assert checkpoint_bytes(CODEGEN_16B, layout) == 14 * (partitioned + 8 * replicated)


def test_activations_of_two_tensor_parallel_ranks_equal_values_computed_by_hand() -> None:
    """The block's input and LayerNorm are replicated; other values are divided by two."""
    memory = peak_memory(SMALL, FP32.replace(world_size=2, tensor_parallel=2), accumulation=1)
    assert memory.phase == "backward"
    block = (2 + 7) * WIDTH + 256 * 4 * (2 + 2)
    assert memory.activations_bytes == 2 * block + WIDTH + (1 + 2) * WIDTH + 4 * 64 * 64 * 4 // 2
    assert memory.gradients_bytes == HEAD, "replicated"


def test_activations_of_four_sequence_parallel_ranks_equal_values_computed_by_hand() -> None:
    """A quarter of the tokens each; weights are replicated, ZeRO partitions over all four."""
    memory = peak_memory(SMALL, FP32.replace(world_size=4, sequence_parallel=4), accumulation=1)
    assert memory.phase == "backward"
    assert memory.activations_bytes == (2 * BLOCK + 6 * WIDTH) // 4 + 4 * 64 * 64 * 4
    assert memory.weights_bytes == 4 * PARAMETERS_SMALL
    assert memory.optimizer_bytes == 12 * PARAMETERS_SMALL // 4


def test_activations_of_the_head_equal_values_computed_by_hand() -> None:
    """A large vocabulary: the head's gradient and a chunk of 32 rows of logits dominate."""
    model = SMALL.replace(context_length=64, num_layers=1, padded_vocab_size=8192)
    memory = peak_memory(model, FP32.replace(zero_stage=0), accumulation=2)
    width = 64 * 64 * 4
    assert memory.phase == "forward"
    block = 16 * width + 64 * 4 * 6
    assert memory.activations_bytes == block + 3 * width + 8192 * 65 * 4 + 12 * 32 * 8192


def test_offloading_moves_optimizer_and_gradients_to_the_host() -> None:
    layout = ParallelLayout(world_size=8, zero_stage=2, precision="bf16")
    on_device = peak_memory(CODEGEN_16B, layout, 4)
    offloaded = peak_memory(CODEGEN_16B, layout.replace(**offload_fields("optimizer")), 4)
    assert (on_device.host_bytes, offloaded.host_bytes) == (0, 16 * PARAMETERS_16B // 8)
    assert on_device.total_bytes - offloaded.total_bytes == 14 * PARAMETERS_16B // 8
    all_offloaded = peak_memory(
        CODEGEN_16B, layout.replace(zero_stage=3, **offload_fields("all")), 4
    )
    assert all_offloaded.weights_bytes == 2 * LIVE
    assert all_offloaded.host_bytes == 18 * PARAMETERS_16B // 8


@pytest.mark.parametrize(
    ("zero_stage", "precision", "per_parameter"),
    [(0, "fp32", 12), (1, "fp32", 16), (0, "bf16", 14), (3, "bf16", 12)],
)
def test_the_size_of_a_checkpoint(zero_stage: int, precision: str, per_parameter: int) -> None:
    layout = ParallelLayout.parse({"zero_stage": zero_stage, "precision": precision})
    assert checkpoint_bytes(SMALL, layout) == per_parameter * PARAMETERS_SMALL


def test_zero_needs_more_memory_for_a_small_model() -> None:
    """ZeRO's bucket is 200 MB in fp32 for any model."""
    without_zero = peak_memory(SMALL, FP32.replace(world_size=2, zero_stage=0), 2)
    with_zero = peak_memory(SMALL, FP32.replace(world_size=2, zero_stage=1), 2)
    assert with_zero.buffers_bytes == 200_000_000
    assert with_zero.total_bytes > without_zero.total_bytes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offload_optimizer": "cpu", "zero_stage": 0}, "set zero_stage to 1"),
        ({"offload_parameters": "cpu", "zero_stage": 2}, "set zero_stage to 3"),
        ({"zero_stage": 4}, "zero_stage is 4"),
        ({"world_size": 0}, "world_size is 0"),
        ({"micro_batch": 0}, r"micro_batch\S* is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        (
            {"world_size": 4, "tensor_parallel": 2, "sequence_parallel": 2},
            "at most one of the two above 1",
        ),
        ({"world_size": 6, "sequence_parallel": 4}, "a multiple of 4"),
        (
            {"world_size": 2, "tensor_parallel": 2, "zero_stage": 3},
            "zero_stage 1 or 2 and no offloading",
        ),
        (
            {"world_size": 2, "tensor_parallel": 2, "offload_optimizer": "cpu"},
            "zero_stage 1 or 2 and no offloading",
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_an_invalid_layout_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ParallelLayout.parse(values)


models = st.builds(
    ModelConfig,
    num_layers=st.integers(20, 48),
    num_heads=st.sampled_from([16, 24, 32]),
    head_dim=st.sampled_from([64, 128, 256]),
    rotary_dim=st.just(32),
    context_length=st.sampled_from([512, 2048]),
    padded_vocab_size=st.sampled_from([32_000, 51_200]),
)
"""From 0.3 to 40 billion parameters: larger than DeepSpeed's buffers."""
layouts_of_two_or_more = st.builds(
    ParallelLayout,
    world_size=st.sampled_from([2, 4, 6, 64]),
    micro_batch=st.sampled_from([1, 4]),
    zero_stage=st.integers(0, 3),
    precision=st.sampled_from(["fp32", "bf16"]),
    activation_checkpoint_interval=st.sampled_from([0, 1]),
)
accumulations = st.sampled_from([1, 2, 8])


def total_bytes(model: ModelConfig, layout: ParallelLayout, accumulation: int) -> int:
    return peak_memory(model, layout, accumulation).total_bytes


@given(models, layouts_of_two_or_more, accumulations, st.integers(2, 8))
def test_more_devices_never_need_more_memory_per_device(
    model: ModelConfig, layout: ParallelLayout, accumulation: int, times: int
) -> None:
    """The batch is the same, so each device has fewer micro-batches."""
    larger = layout.replace(world_size=layout.world_size * times)
    fewer_micro_batches = max(1, accumulation // times)
    total = total_bytes(model, layout, accumulation)
    assert total_bytes(model, larger, fewer_micro_batches) <= total


@given(models, layouts_of_two_or_more, accumulations)
def test_a_higher_zero_stage_never_needs_more_memory(
    model: ModelConfig, layout: ParallelLayout, accumulation: int
) -> None:
    assume(layout.zero_stage < 3)
    # ZeRO 3 keeps a billion weights gathered and reserves memory for gradients. It saves nothing
    # for a model that is hardly larger, nor for two processes without accumulated gradients.
    assume(layout.zero_stage < 2 or model.num_parameters > 3 * LIVE)
    assume(layout.zero_stage < 2 or accumulation > 1 or layout.world_size > 2)
    higher = layout.replace(zero_stage=layout.zero_stage + 1)
    assert total_bytes(model, higher, accumulation) <= total_bytes(model, layout, accumulation)


@given(models, layouts_of_two_or_more, accumulations)
def test_no_memory_saving_setting_needs_more_memory(
    model: ModelConfig, layout: ParallelLayout, accumulation: int
) -> None:
    settings = [{"activation_checkpoint_interval": 1}, {"micro_batch": 1}]
    if layout.zero_stage:
        settings.append({"offload_optimizer": "cpu"})
    total = total_bytes(model, layout, accumulation)
    for changes in settings:
        assert total_bytes(model, layout.replace(**changes), accumulation) <= total
