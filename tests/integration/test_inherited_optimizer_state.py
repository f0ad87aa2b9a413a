"""A stage that keeps the optimizer of the one before goes on as if both were one, whatever the places of the two."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.training import MODEL, EXECUTION, STAGE, adam, train_losses, toy_run, train_in_pytorch
from safetensors.torch import load_file, save_file

from components.core.errors import ArtifactError, ConfigError
from components.model.huggingface import load_checkpoint
from components.model.transformer import CodeGen
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.run_file import ArtifactInput, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.apart]

ALONE = TrainingExecution(micro_batch=16, zero_stage=0, precision="fp32")
STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    stage = STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=4)
    return toy_run(tmp_path_factory.mktemp("inputs"), stage).replace(save_optimizer_state=True)


@pytest.fixture(scope="module")
def first(run: StageRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train_stage(folder, run, EXECUTION, lambda _: None)
    return folder


def following(run: StageRun, first: Path, **changes: object) -> StageRun:
    config = run.config.replace(**{"optimizer": "kept", **changes})
    return run.replace(
        stage="multi", config=config, initial=ArtifactInput(folder=str(first), digest="first")
    )


def plainly(
    run: StageRun, *, keeps: bool
) -> tuple[CodeGen, list[float | None], torch.optim.Optimizer]:
    """Two stages in torch alone, the second one's schedule and data from their start."""
    model = CodeGen(MODEL, seed=3)
    optimizer = adam(model)
    train_in_pytorch(model, run, optimizer)
    optimizer = optimizer if keeps else adam(model)
    losses, _ = train_in_pytorch(model, run, optimizer)
    return model, losses, optimizer


@pytest.mark.parametrize(
    "place",
    [
        EXECUTION,
        ALONE,
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
def test_two_stages_train_as_torch_does(
    place: TrainingExecution, run: StageRun, first: Path, tmp_path: Path
) -> None:
    model, losses, optimizer = plainly(run, keeps=True)
    _, reset, _ = plainly(run, keeps=False)
    found = train_losses(tmp_path, following(run, first), place)
    np.testing.assert_allclose(found, losses, rtol=2e-4)
    assert not np.allclose(found, reset, rtol=2e-3), "the optimizer has to matter"
    for one, other in zip(load_checkpoint(tmp_path).parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=5e-3, atol=5e-4)
    moments = load_file(tmp_path / "optimizer.safetensors")
    name, parameter = next(iter(model.named_parameters()))
    torch.testing.assert_close(
        moments[f"{name}.exp_avg"], optimizer.state[parameter]["exp_avg"], rtol=1e-2, atol=1e-4
    )


def test_moments_that_are_not_there(run: StageRun, first: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none"):
        train_stage(
            tmp_path,
            run.replace(config=run.config.replace(optimizer_state="inherit")),
            ALONE,
            lambda _: None,
        )
    bare = tmp_path / "bare"
    for folder in (bare, tmp_path / "next"):
        folder.mkdir()
    train_stage(bare, run.replace(save_optimizer_state=False), ALONE, lambda _: None)
    assert not (bare / "optimizer.safetensors").exists()
    with pytest.raises(ArtifactError, match=r"has no optimizer\.safetensors"):
        train_stage(tmp_path / "next", following(run, bare), ALONE, lambda _: None)


def other_shape(path: Path) -> None:
    moments = load_file(path)
    moments["head.bias.exp_avg"] = moments["head.bias.exp_avg"][:-1].clone()
    save_file(moments, path, metadata={"num_updates": "6"})


def not_finite(path: Path) -> None:
    moments = load_file(path)
    moments["head.bias.exp_avg"][0] = torch.nan
    save_file(moments, path, metadata={"num_updates": "6"})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: save_file(load_file(path), path), "does not say how many updates are in it"),
        (other_shape, r"has head\.bias\.exp_avg of shape \[319\]"),
        (not_finite, r"has head\.bias\.exp_avg .* not finite"),
    ],
    ids=["cut short", "without its count", "another shape", "not finite"],
)
def test_damaged_moments_are_named(
    damage: Callable[[Path], object], named: str, run: StageRun, first: Path, tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(first, spoilt)
    damage(spoilt / "optimizer.safetensors")
    with pytest.raises(ArtifactError, match=rf"optimizer\.safetensors {named}"):
        train_stage(tmp_path / "next", following(run, spoilt), ALONE, lambda _: None)
