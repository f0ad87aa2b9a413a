"""Tensor and sequence parallelism: bf16, resuming, metrics, and invalid layouts.

Comparison of losses and weights with a single rank: test_execution_configs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.training import (
    EXECUTION,
    MODEL,
    SHORT_STAGE,
    StageStopped,
    stop_after,
    toy_run,
    train_losses,
)

from components.core.errors import ConfigError, TrainingError
from components.model.huggingface import load_checkpoint
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import LOG_FILE, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

TENSOR_PARALLEL = EXECUTION.replace(tensor_parallel=2, checkpoint_every_steps=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return toy_run(tmp_path_factory.mktemp("inputs"), SHORT_STAGE)


@pytest.fixture(scope="module")
def uninterrupted(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, train_losses(folder, run, TENSOR_PARALLEL)


def test_a_stage_resumes_to_the_same_bits_and_only_with_the_same_execution_config(
    run: StageRun, uninterrupted: tuple[Path, list[float]], tmp_path: Path
) -> None:
    with pytest.raises(StageStopped):
        train_stage(tmp_path, run, TENSOR_PARALLEL, stop_after(tmp_path, 3))
    with pytest.raises(TrainingError, match="was written with tensor_parallel 2 on 2 ranks"):
        train_stage(tmp_path, run, EXECUTION, lambda _: None)
    folder, expected = uninterrupted
    assert train_losses(tmp_path, run, TENSOR_PARALLEL) == expected
    log = (tmp_path / LOG_FILE).read_text()
    assert "resumes after step 0;" not in log.rpartition("was written with tensor_parallel")[2]
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_bf16_learns_the_same_and_saves_fp32_weights(
    run: StageRun, uninterrupted: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = uninterrupted
    losses = train_losses(tmp_path, run, TENSOR_PARALLEL.replace(precision="bf16"))
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert losses != expected
    for bf16_trained, fp32 in zip(
        load_checkpoint(tmp_path).parameters(), load_checkpoint(folder).parameters(), strict=True
    ):
        assert bf16_trained.shape == fp32.shape
        assert np.corrcoef(bf16_trained.detach().flatten(), fp32.detach().flatten())[0, 1] > 0.99
        assert (bf16_trained != bf16_trained.bfloat16().float()).any(), "more digits than bf16 has"


def test_sequence_parallel_ranks_report_the_metrics_of_a_single_rank(
    run: StageRun, tmp_path: Path
) -> None:
    single: list[StepMetrics] = []
    train_stage(
        tmp_path / "single", run, TrainingExecution(micro_batch=4, precision="fp32"), single.append
    )
    parallel: list[StepMetrics] = []
    train_stage(tmp_path / "parallel", run, EXECUTION.replace(sequence_parallel=2), parallel.append)
    for name in ("loss", "bits_per_byte", "grad_norm"):
        np.testing.assert_allclose(
            [getattr(step, name) for step in parallel],
            [getattr(step, name) for step in single],
            rtol=1e-4,
        )
    assert single[-1].held_out
    assert parallel[-1].held_out == pytest.approx(single[-1].held_out, rel=1e-4)


def test_heads_that_do_not_divide_over_the_ranks_are_refused(run: StageRun, tmp_path: Path) -> None:
    eight = EXECUTION.replace(world_size=8, tensor_parallel=8)
    assert MODEL.num_heads == 4
    with pytest.raises(ConfigError, match="4 heads, and 8 ranks") as refused:
        train_stage(tmp_path, run, eight, lambda _: None)
    assert "sequence_parallel to 4" in refused.value.fix


@pytest.mark.parametrize(
    "values",
    [
        {"world_size": 3},
        {"sequence_parallel": 2},
        {"zero_stage": 0},
        {"zero_stage": 3},
        {"offload_optimizer": "cpu"},
    ],
)
def test_an_invalid_layout_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel"):
        TENSOR_PARALLEL.replace(**values)
