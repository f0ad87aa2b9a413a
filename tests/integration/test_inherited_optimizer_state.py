"""A stage that inherits the optimizer state, compared with plain PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.training import EXECUTION, MODEL, STAGE, adam, toy_run, train_in_pytorch, train_losses
from safetensors.torch import load_file, save_file

from components.core.errors import ArtifactError, ConfigError
from components.model.huggingface import load_checkpoint
from components.model.transformer import CodeGen
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.run_file import ArtifactInput, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

SINGLE_RANK = TrainingExecution(micro_batch=16, zero_stage=0, precision="fp32")
STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    stage = STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=4)
    return toy_run(tmp_path_factory.mktemp("inputs"), stage).replace(save_optimizer_state=True)


@pytest.fixture(scope="module")
def first_stage(run: StageRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-stage")
    train_stage(folder, run, EXECUTION, lambda _: None)
    return folder


def next_stage(run: StageRun, first_stage: Path, **changes: object) -> StageRun:
    config = run.config.replace(**{"optimizer_state": "inherit", **changes})
    return run.replace(
        stage="multi",
        config=config,
        init_from=ArtifactInput(folder=str(first_stage), digest="first"),
    )


def train_two_stages_in_pytorch(
    run: StageRun, *, inherits: bool
) -> tuple[CodeGen, list[float | None], torch.optim.Optimizer]:
    """Train two stages in plain PyTorch, each with schedule and data from the start."""
    model = CodeGen(MODEL, seed=3)
    optimizer = adam(model)
    train_in_pytorch(model, run, optimizer)
    if not inherits:
        optimizer = adam(model)
    losses, _ = train_in_pytorch(model, run, optimizer)
    return model, losses, optimizer


@pytest.mark.parametrize(
    "execution",
    [
        EXECUTION,
        SINGLE_RANK,
        EXECUTION.replace(zero_stage=3),
        EXECUTION.replace(zero_stage=2, offload_optimizer="cpu"),
    ],
    ids=[
        "two ranks, ZeRO 1",
        "one rank without ZeRO",
        "two ranks, ZeRO 3",
        "two ranks, ZeRO 2, offloaded",
    ],
)
def test_two_stages_train_like_pytorch(
    execution: TrainingExecution, run: StageRun, first_stage: Path, tmp_path: Path
) -> None:
    model, losses, optimizer = train_two_stages_in_pytorch(run, inherits=True)
    _, reset_losses, _ = train_two_stages_in_pytorch(run, inherits=False)
    trained_losses = train_losses(tmp_path, next_stage(run, first_stage), execution)
    np.testing.assert_allclose(trained_losses, losses, rtol=2e-4)
    assert not np.allclose(trained_losses, reset_losses, rtol=2e-3), (
        "the optimizer state must have an effect"
    )
    trained = load_checkpoint(tmp_path)
    for parameter, expected in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=5e-3, atol=5e-4)
    moments = load_file(tmp_path / "optimizer.safetensors")
    name, parameter = next(iter(model.named_parameters()))
    torch.testing.assert_close(
        moments[f"{name}.exp_avg"], optimizer.state[parameter]["exp_avg"], rtol=1e-2, atol=1e-4
    )


def test_absent_optimizer_state_is_refused(
    run: StageRun, first_stage: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no previous stage"):
        train_stage(
            tmp_path,
            run.replace(config=run.config.replace(optimizer_state="inherit")),
            SINGLE_RANK,
            lambda _: None,
        )
    without_state = tmp_path / "without-state"
    for folder in (without_state, tmp_path / "next"):
        folder.mkdir()
    train_stage(without_state, run.replace(save_optimizer_state=False), SINGLE_RANK, lambda _: None)
    assert not (without_state / "optimizer.safetensors").exists()
    with pytest.raises(ArtifactError, match=r"has no optimizer\.safetensors"):
        train_stage(tmp_path / "next", next_stage(run, without_state), SINGLE_RANK, lambda _: None)


def change_shape(path: Path) -> None:
    moments = load_file(path)
    moments["head.bias.exp_avg"] = moments["head.bias.exp_avg"][:-1].clone()
    save_file(moments, path, metadata={"num_updates": "6"})


def add_nan(path: Path) -> None:
    moments = load_file(path)
    moments["head.bias.exp_avg"][0] = torch.nan
    save_file(moments, path, metadata={"num_updates": "6"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: save_file(load_file(path), path), "has no number of updates"),
        (change_shape, r"has head\.bias\.exp_avg of shape \[319\]"),
        (add_nan, r"has head\.bias\.exp_avg .* not finite"),
    ],
    ids=["truncated", "without number of updates", "another shape", "not finite"],
)
def test_damaged_optimizer_state_is_refused(
    damage: Callable[[Path], object], message: str, run: StageRun, first_stage: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(first_stage, damaged)
    damage(damaged / "optimizer.safetensors")
    with pytest.raises(ArtifactError, match=rf"optimizer\.safetensors {message}"):
        train_stage(tmp_path / "next", next_stage(run, damaged), SINGLE_RANK, lambda _: None)
