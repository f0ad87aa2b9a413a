"""Candidates for micro_batch auto, and the first choice. Real runs: tests/integration."""

from __future__ import annotations

import math

import pytest
import torch
from fixtures.training import STAGE
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.training.auto_micro_batch import largest_fitting_micro_batch, micro_batch_candidates
from components.training.config import TrainingExecution
from components.training.deepspeed_config import accumulation_steps
from components.training.hardware import Hardware
from components.training.run_file import ArtifactInput, RunFile, StageRun

H100 = Hardware(torch.device("cuda"), "bf16", 1.0)
CPU = Hardware(torch.device("cpu"), "fp32", 1.0)
SMALL = ModelConfig(
    num_layers=20,
    num_heads=16,
    head_dim=64,
    rotary_dim=32,
    context_length=2048,
    padded_vocab_size=51_200,
)


def run_file(
    sequences: int, world_size: int = 1, model: ModelConfig = SMALL, **fields: object
) -> RunFile:
    stage = STAGE.replace(global_batch_tokens=sequences * model.context_length)
    source = ArtifactInput(folder="/absent", digest="d")
    run = StageRun(stage="nl", config=stage, model=model, seed=0, data=source, tokenizer=source)
    values = {"world_size": world_size, "micro_batch": "auto", **fields}
    return RunFile(run=run, execution=TrainingExecution.parse(values))


@given(st.integers(1, 300), st.integers(1, 8))
def test_every_candidate_keeps_the_global_batch(num_sequences: int, world_size: int) -> None:
    sizes = micro_batch_candidates(run_file(num_sequences * world_size, world_size), "cuda")
    assert sizes == sorted(sizes)
    assert sizes[-1] == num_sequences
    assert [num_sequences % size for size in sizes] == [0] * len(sizes)
    for size in sizes:
        resolved = run_file(num_sequences * world_size, world_size, micro_batch=size)
        accumulation = accumulation_steps(resolved.run.config, resolved.execution, 2048)
        assert accumulation * size * world_size == num_sequences * world_size


def test_on_a_cpu_micro_batches_are_limited_to_two_thousand_tokens() -> None:
    for context_length, sizes in ((512, [1, 2, 3, 4]), (2048, [1]), (4096, [1])):
        file = run_file(24, model=SMALL.replace(context_length=context_length))
        assert micro_batch_candidates(file, "cpu") == sizes


def test_the_largest_micro_batch_whose_activations_fit_is_chosen() -> None:
    """Per token a layer keeps 16 values of 2 bytes a dimension, and 4 bytes for each of 16 heads
    and 2 statistics."""
    activations = 2048 * 20 * (16 * 1024 * 2 + 4 * (16 + 2))
    states = 16 * 355e6  # ZeRO section 3: 2 + 2 + 12 bytes for each of 355M parameters.
    sizes = [
        largest_fitting_micro_batch(run_file(64), H100, states + number * activations)
        for number in (10, 20, 40)
    ]
    assert all(size <= limit for size, limit in zip(sizes, (10, 20, 40), strict=True))
    assert sizes == sorted(sizes)
    assert sizes[0] >= 4
    assert sizes[-1] == 32
    assert largest_fitting_micro_batch(run_file(64), H100, math.inf) == 64
    assert largest_fitting_micro_batch(run_file(64), H100, math.inf, upper_bound=64) == 32


def test_one_sequence_is_tried_if_no_micro_batch_fits() -> None:
    assert largest_fitting_micro_batch(run_file(8), CPU, free_bytes=1) == 1


def test_micro_batch_auto_has_no_number() -> None:
    assert TrainingExecution(micro_batch=3).resolved_micro_batch == 3
    with pytest.raises(ConfigError, match="micro_batch is auto"):
        _ = TrainingExecution(micro_batch="auto").resolved_micro_batch
    with pytest.raises(ConfigError, match="micro_batch"):
        TrainingExecution.parse({"micro_batch": 0})
