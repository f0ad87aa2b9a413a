"""The DeepSpeed configuration, and batches that do not divide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.training.config import Precision, StageConfig, TrainingExecution
from components.training.deepspeed_config import accumulation_steps, deepspeed_config

GOLDEN = Path(__file__).parents[2] / "golden" / "deepspeed_350m_nl.json"
NL_350M = StageConfig(
    steps=350_000,
    warmup_steps=3_000,
    decay_steps=300_000,
    learning_rate=3.0e-4,
    min_learning_rate=3.0e-5,
    global_batch_tokens=524_288,
)


def test_the_350m_recipe_of_the_paper_equals_the_golden_file() -> None:
    execution = TrainingExecution(world_size=8, threads_per_process=4, micro_batch=4)
    config = deepspeed_config(
        NL_350M, execution, context_length=2048, on_gpu=True, precision="bf16"
    )
    assert config == json.loads(GOLDEN.read_text())


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_every_sequence_is_in_exactly_one_micro_batch(
    processes: int, micro_batch: int, accumulation: int
) -> None:
    sequences = processes * micro_batch * accumulation
    stage = NL_350M.replace(global_batch_tokens=sequences * 2048)
    execution = TrainingExecution(world_size=processes, micro_batch=micro_batch)
    config = deepspeed_config(stage, execution, 2048, on_gpu=False, precision="fp32")
    assert accumulation_steps(stage, execution, 2048) == accumulation
    assert config["train_batch_size"] == sequences


@pytest.mark.parametrize(
    ("tokens", "execution", "fix"),
    [
        (2048 * 3 + 1, TrainingExecution(), "set global_batch_tokens to 6,144"),
        (100, TrainingExecution(), "set global_batch_tokens to 2,048"),
        # The search is fast.
        (
            2048 * 9,
            TrainingExecution(world_size=10**12),
            "set world_size to 9, or global_batch_tokens",
        ),
        (
            2048 * 9,
            TrainingExecution(world_size=4),
            "set world_size to 3, or global_batch_tokens to a multiple of 8,192",
        ),
        (2048 * 12, TrainingExecution(world_size=2, micro_batch=4), "set micro_batch to 3"),
        (2048 * 2, TrainingExecution(world_size=1, micro_batch=64), "set micro_batch to 2"),
    ],
)
def test_the_error_for_a_batch_that_does_not_divide_names_a_valid_value(
    tokens: int, execution: TrainingExecution, fix: str
) -> None:
    stage = NL_350M.replace(global_batch_tokens=tokens)
    with pytest.raises(ConfigError, match=fix):
        deepspeed_config(stage, execution, 2048, on_gpu=False, precision="fp32")


def test_a_batch_divides_over_replicas_of_several_ranks() -> None:
    stage = NL_350M.replace(global_batch_tokens=12 * 2048)
    execution = TrainingExecution(world_size=8, tensor_parallel=4, micro_batch=2)
    config = deepspeed_config(stage, execution, 2048, on_gpu=False, precision="fp32")
    assert config["gradient_accumulation_steps"] == 12 // (8 // 4) // 2
    assert config["tensor_parallel"]["autotp_size"] == 4
    assert "train_batch_size" not in config
    with pytest.raises(ConfigError, match="set world_size to 16"):
        deepspeed_config(
            stage, execution.replace(world_size=20), 2048, on_gpu=False, precision="fp32"
        )


def test_offloading_sets_the_device_of_optimizer_and_parameters() -> None:
    execution = TrainingExecution(
        zero_stage=3,
        offload_optimizer="nvme",
        offload_parameters="cpu",
        nvme_folder="/fast",
        micro_batch=16,
    )
    zero = deepspeed_config(NL_350M, execution, 2048, on_gpu=True, precision="bf16")[
        "zero_optimization"
    ]
    assert zero["stage"] == 3
    assert zero["offload_optimizer"] == {"device": "nvme", "pin_memory": True, "nvme_path": "/fast"}
    assert zero["offload_param"] == {"device": "cpu", "pin_memory": True}


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("bf16", 1), ("fp16", 1)])
def test_half_precision_uses_zero_1_for_the_fp32_copy_of_the_weights(
    precision: Precision, stage: int
) -> None:
    execution = TrainingExecution(zero_stage=0, micro_batch=16)
    config = deepspeed_config(NL_350M, execution, 2048, on_gpu=False, precision=precision)
    assert config["zero_optimization"]["stage"] == stage
    assert config["bf16"]["enabled"] == (precision == "bf16")
    assert ("fp16" in config) == (precision == "fp16")


@pytest.mark.parametrize(
    "values",
    [
        {"zero_stage": 2, "offload_parameters": "cpu"},
        {"zero_stage": 0, "offload_optimizer": "cpu"},
        {"zero_stage": 3, "offload_optimizer": "nvme"},
        {"zero_stage": 2, "offload_optimizer": "nvme", "nvme_folder": "/fast"},
    ],
    ids=[
        "parameters without ZeRO 3",
        "optimizer without ZeRO",
        "nvme without a folder",
        "nvme without ZeRO 3",
    ],
)
def test_unsupported_offloading_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"zero_stage|nvme_folder"):
        TrainingExecution.parse(values)
