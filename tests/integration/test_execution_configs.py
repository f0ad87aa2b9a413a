"""A stage with many execution configs: losses and weights agree to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures.training import (
    EXECUTION,
    SHORT_STAGE,
    StageStopped,
    checkpoint_steps,
    processes_of_rank,
    stop_after,
    toy_run,
    train_losses,
)

from components.core.errors import TrainingError
from components.model.huggingface import load_checkpoint
from components.training.checkpoint.retention import checkpoint_name
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import LOG_FILE, WORK_FOLDER, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

SINGLE_RANK = TrainingExecution(micro_batch=4, zero_stage=0, precision="fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A stage with steps of 64 sequences, long enough to stop it after a checkpoint."""
    stage = SHORT_STAGE.replace(global_batch_tokens=64 * 64)
    return toy_run(tmp_path_factory.mktemp("inputs"), stage)


@pytest.fixture(scope="module")
def single_rank(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("single-rank")
    return folder, train_losses(folder, run, SINGLE_RANK)


EXECUTIONS = {
    "two ranks, ZeRO 1": EXECUTION,
    "two ranks, ZeRO 2, optimizer offloaded": EXECUTION.replace(
        zero_stage=2, offload_optimizer="cpu"
    ),
    "tensor parallel, ZeRO 1": EXECUTION.replace(tensor_parallel=2),
    "tensor parallel, ZeRO 2, recomputed": EXECUTION.replace(
        tensor_parallel=2, zero_stage=2, activation_checkpoint_interval=1
    ),
    "two tensor parallel replicas": EXECUTION.replace(world_size=4, tensor_parallel=2),
    "sequence parallel, no ZeRO": EXECUTION.replace(sequence_parallel=2, zero_stage=0),
    "sequence parallel, ZeRO 3, recomputed": EXECUTION.replace(
        sequence_parallel=2, zero_stage=3, activation_checkpoint_interval=1
    ),
    "two sequence parallel replicas, ZeRO 1": EXECUTION.replace(
        world_size=4, sequence_parallel=2, micro_batch=4
    ),
    "two ranks, ZeRO 3, all offloaded": EXECUTION.replace(
        zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu"
    ),
}


@pytest.mark.parametrize("name", EXECUTIONS)
def test_another_execution_config_gives_the_same_losses_and_weights(
    name: str, run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = single_rank
    np.testing.assert_allclose(train_losses(tmp_path, run, EXECUTIONS[name]), expected, rtol=1e-5)
    assert_same_weights(folder, tmp_path)


def assert_same_weights(folder: Path, other: Path) -> None:
    pairs = zip(
        load_checkpoint(folder).parameters(), load_checkpoint(other).parameters(), strict=True
    )
    for first, second in pairs:
        np.testing.assert_allclose(
            second.detach().numpy(), first.detach().numpy(), rtol=1e-3, atol=1e-4
        )


def test_activation_checkpointing_changes_no_bit(
    run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = single_rank
    recomputed = SINGLE_RANK.replace(activation_checkpoint_interval=2)
    assert train_losses(tmp_path, run, recomputed) == expected
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_bf16_learns_the_same_and_saves_fp32_weights(
    zero_stage: int, run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    losses = train_losses(tmp_path, run, EXECUTION.replace(precision="bf16", zero_stage=zero_stage))
    np.testing.assert_allclose(losses, single_rank[1], rtol=0.02)
    assert losses != single_rank[1]
    weights = next(load_checkpoint(tmp_path).parameters()).detach()
    assert (weights != weights.bfloat16().float()).any(), "more digits than bf16 has"


def test_a_stage_resumes_with_other_ranks_and_another_zero_stage(
    run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """From 2 ranks with ZeRO 1, to 1 with ZeRO 2, to 2 with ZeRO 3."""
    folder, expected = single_rank
    losses: dict[int, float] = {}

    def stop_at_checkpoint(step: int) -> Callable[[StepMetrics], None]:
        def on_step(metrics: StepMetrics) -> None:
            losses[metrics.step] = metrics.loss
            if metrics.step > step and step in checkpoint_steps(tmp_path):
                raise StageStopped

        return on_step

    for step, execution in ((2, EXECUTION), (4, SINGLE_RANK.replace(micro_batch=1, zero_stage=2))):
        saving = execution.replace(checkpoint_every_steps=2)
        with pytest.raises(StageStopped):
            train_stage(tmp_path, run, saving, stop_at_checkpoint(step))
    train_stage(
        tmp_path, run, EXECUTION.replace(zero_stage=3), stop_at_checkpoint(run.config.steps)
    )
    assert list(losses) == list(range(1, run.config.steps + 1))
    np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-5)
    assert_same_weights(folder, tmp_path)
    assert (tmp_path / LOG_FILE).read_text().count("converting ") == 2


def test_without_zero_a_stage_resumes_with_other_ranks_and_not_with_zero(
    run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    saving = SINGLE_RANK.replace(micro_batch=1, checkpoint_every_steps=2)
    with pytest.raises(StageStopped):
        train_stage(tmp_path, run, saving, stop_after(tmp_path, 3))
    message = "was written with ZeRO stage 0, and this is stage 1"
    with pytest.raises(TrainingError, match=message) as refused:
        train_stage(tmp_path, run, EXECUTION, lambda _: None)
    assert "--exec training.zero_stage=0" in refused.value.fix
    losses = train_losses(tmp_path, run, EXECUTION.replace(zero_stage=0))
    np.testing.assert_allclose(losses, single_rank[1], rtol=1e-5)
    log = (tmp_path / LOG_FILE).read_text()
    assert not log.rpartition("resumes after step ")[2].startswith("0;")


def test_bf16_without_zero_uses_zero_1_and_resumes_with_other_ranks_but_not_in_fp32(
    run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    bf16 = EXECUTION.replace(precision="bf16", zero_stage=0)
    with pytest.raises(StageStopped):
        train_stage(tmp_path, run, bf16.replace(checkpoint_every_steps=2), stop_after(tmp_path, 3))
    message = "was written with ZeRO stage 1 in bf16, and this is stage 0"
    with pytest.raises(TrainingError, match=message) as refused:
        train_stage(tmp_path, run, SINGLE_RANK, lambda _: None)
    assert "--exec training.precision=bf16" in refused.value.fix
    losses = train_losses(tmp_path, run, bf16.replace(world_size=1, zero_stage=2))
    np.testing.assert_allclose(losses, single_rank[1], rtol=0.02)
    log = (tmp_path / LOG_FILE).read_text()
    assert not log.rpartition("resumes after step ")[2].startswith("0;")


def test_a_preempted_rank_saves_a_checkpoint_first(
    run: StageRun, single_rank: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """SIGTERM to a rank, like a preempted node."""
    folder, expected = single_rank

    def preempt(metrics: StepMetrics) -> None:
        if metrics.step == 2:
            supervisor, _ = processes_of_rank(tmp_path, 0)
            supervisor.terminate()

    message = r"was preempted \(SIGTERM\); checkpoint saved at step"
    with pytest.raises(TrainingError, match=message) as ended:
        train_stage(tmp_path, run, SINGLE_RANK.replace(checkpoint_every_steps=100), preempt)
    saved_step = int(ended.value.got.rpartition(" ")[2])
    names = [path.name for path in (tmp_path / WORK_FOLDER).glob("step-*")]
    assert names == [checkpoint_name(saved_step)]
    assert train_losses(tmp_path, run, SINGLE_RANK) == expected
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
