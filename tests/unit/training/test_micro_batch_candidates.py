"""Which micro-batches are possible, and which one is begun with. That a real one is found: tests/integration."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.training.auto_micro_batch import largest_fitting_micro_batch, micro_batch_candidates
from components.training.config import StageConfig, TrainingExecution
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


def file(
    sequences: int, world_size: int = 1, model: ModelConfig = SMALL, **place: object
) -> RunFile:
    stage = StageConfig(
        steps=2,
        warmup_steps=1,
        decay_steps=1,
        learning_rate=1e-3,
        min_learning_rate=0.0,
        global_batch_tokens=sequences * model.context_length,
    )
    given = ArtifactInput(folder="/absent", digest="d")
    run = StageRun(stage="nl", config=stage, model=model, seed=0, data=given, tokenizer=given)
    values = {"world_size": world_size, "micro_batch": "auto", **place}
    return RunFile(run=run, execution=TrainingExecution.parse(values))


@given(st.integers(1, 300), st.integers(1, 8))
def test_every_candidate_keeps_the_global_batch(part: int, world_size: int) -> None:
    found = micro_batch_candidates(file(part * world_size, world_size), "cuda")
    assert found == sorted(found)
    assert found[-1] == part
    assert [part % one for one in found] == [0] * len(found)
    for one in found:
        settled = file(part * world_size, world_size, micro_batch=one)
        assert (
            accumulation_steps(settled.run.config, settled.execution, 2048) * one * world_size
            == part * world_size
        )


def test_on_a_cpu_a_micro_batch_of_more_than_two_thousand_tokens_is_no_faster() -> None:
    assert micro_batch_candidates(file(24, model=SMALL.replace(context_length=512)), "cpu") == [
        1,
        2,
        3,
        4,
    ]
    assert micro_batch_candidates(file(24, model=SMALL.replace(context_length=2048)), "cpu") == [1]
    assert micro_batch_candidates(file(24, model=SMALL.replace(context_length=4096)), "cpu") == [1]


def test_the_largest_whose_activations_fit_beside_the_rest() -> None:
    """Per token a layer keeps 16 values of 2 bytes a dimension, and 4 bytes for each of 16 heads and 2 statistics."""
    activations = 2048 * 20 * (16 * 1024 * 2 + 4 * (16 + 2))
    states = 16 * 355e6  # ZeRO section 3: 2 + 2 + 12 bytes for each of 355M parameters.
    found = [
        largest_fitting_micro_batch(file(64), H100, states + number * activations)
        for number in (10, 20, 40)
    ]
    assert all(chosen <= room for chosen, room in zip(found, (10, 20, 40), strict=True))
    assert found == sorted(found)
    assert found[0] >= 4
    assert found[-1] == 32
    assert largest_fitting_micro_batch(file(64), H100, math.inf) == 64
    assert largest_fitting_micro_batch(file(64), H100, math.inf, below=64) == 32


def test_where_nothing_fits_by_plan_one_sequence_is_tried() -> None:
    assert largest_fitting_micro_batch(file(8), CPU, bytes_free=1) == 1


def test_a_place_that_is_not_settled_has_no_number_of_sequences() -> None:
    assert TrainingExecution(micro_batch=3).resolved_micro_batch == 3
    with pytest.raises(ConfigError, match="micro_batch is auto"):
        _ = TrainingExecution(micro_batch="auto").resolved_micro_batch
    with pytest.raises(ConfigError, match="micro_batch"):
        TrainingExecution.parse({"micro_batch": 0})
