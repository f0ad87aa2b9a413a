"""Weights of a checkpoint inside a stage, for each ZeRO stage, compared with plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.training import (
    EXECUTION,
    MODEL,
    SHORT_STAGE,
    StageStopped,
    stop_after,
    toy_run,
    train_in_pytorch,
)

from components.core.errors import TrainingError
from components.model.huggingface import load_checkpoint
from components.model.transformer import CodeGen
from components.training.checkpoint.export import export_weights, snapshot_checkpoint
from components.training.checkpoint.retention import VerifiedCheckpoint, checkpoint_name
from components.training.launch.launcher import train_stage
from components.training.run_file import WORK_FOLDER, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

SAVED_STEP = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A stage that is stopped long before its end."""
    return toy_run(tmp_path_factory.mktemp("inputs"), SHORT_STAGE.replace(steps=5_000))


@pytest.fixture(scope="module")
def expected(run: StageRun) -> CodeGen:
    """The model after the saved step, trained without DeepSpeed."""
    model = CodeGen(MODEL, seed=run.seed)
    train_in_pytorch(model, run.replace(config=run.config.replace(steps=SAVED_STEP)))
    return model


@pytest.mark.parametrize(
    ("zero_stage", "precision"), [(0, "fp32"), (1, "fp32"), (3, "fp32"), (0, "bf16")]
)
def test_the_exported_weights_are_those_of_the_step(
    zero_stage: int, precision: str, run: StageRun, expected: CodeGen, tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    execution = EXECUTION.replace(
        zero_stage=zero_stage,
        precision=precision,
        checkpoint_every_steps=SAVED_STEP,
        keep_last=1_000,
        eval_interval=0,
    )
    with pytest.raises(StageStopped):
        train_stage(folder, run, execution, stop_after(folder, SAVED_STEP))
    saved = folder / WORK_FOLDER / checkpoint_name(SAVED_STEP)
    snapshot = snapshot_checkpoint(saved, tmp_path / "snapshot")
    assert snapshot
    export_weights(snapshot, run.model, Path(run.tokenizer.folder), tmp_path / "exported")
    exported = load_checkpoint(tmp_path / "exported")
    atol = 5e-4 if precision == "fp32" else 2e-2
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(exported.get_parameter(name), parameter, rtol=5e-3, atol=atol)
    weight = next(exported.parameters()).detach()
    assert (weight != weight.bfloat16().float()).any(), "more digits than bf16 has"


def test_a_checkpoint_of_tensor_parallel_ranks_is_refused(run: StageRun, tmp_path: Path) -> None:
    manifest = {"step": 4, "layout": {"tensor_parallel": 2, "zero_stage": 1}}
    with pytest.raises(TrainingError, match="tensor_parallel 2"):
        export_weights(
            VerifiedCheckpoint(tmp_path, manifest),
            run.model,
            Path(run.tokenizer.folder),
            tmp_path / "exported",
        )
