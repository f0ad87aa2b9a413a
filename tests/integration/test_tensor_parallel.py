"""Ranks that share a copy of the model: bf16, going on after a stop, and places that are refused.

That they learn what one rank learns: test_training_places.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.training import MODEL, EXECUTION, STAGE, train_losses, toy_run

from components.core.errors import ConfigError, TrainingError
from components.model.huggingface import load_checkpoint
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import LOG_FILE, WORK_FOLDER, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.apart]

STEPS = 8
SHARED = EXECUTION.replace(tensor_parallel=2, checkpoint_every_steps=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return toy_run(
        tmp_path_factory.mktemp("inputs"), STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=5)
    )


@pytest.fixture(scope="module")
def undisturbed(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train_losses(folder, run, SHARED)


def test_goes_on_to_the_same_bits_and_only_on_its_own_place(
    run: StageRun, undisturbed: tuple[Path, list[float]], tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(metrics: StepMetrics) -> None:
        if metrics.step >= 3 and list((tmp_path / WORK_FOLDER).glob("step-*[0-9]")):
            raise Enough

    with pytest.raises(Enough):
        train_stage(tmp_path, run, SHARED, stop)
    with pytest.raises(TrainingError, match="was made with tensor_parallel 2 on 2 ranks"):
        train_stage(tmp_path, run, EXECUTION, lambda _: None)
    folder, expected = undisturbed
    assert train_losses(tmp_path, run, SHARED) == expected
    assert (
        "goes on after step 0;"
        not in (tmp_path / LOG_FILE).read_text().rpartition("was made with tensor_parallel")[2]
    )
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_bf16_products_learn_the_same_and_hand_on_fp32(
    run: StageRun, undisturbed: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = undisturbed
    found = train_losses(tmp_path, run, SHARED.replace(precision="bf16"))
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert found != expected
    for one, fp32 in zip(
        load_checkpoint(tmp_path).parameters(), load_checkpoint(folder).parameters(), strict=True
    ):
        assert one.shape == fp32.shape
        assert np.corrcoef(one.detach().flatten(), fp32.detach().flatten())[0, 1] > 0.99
        assert (one != one.bfloat16().float()).any(), "weights have more digits than bf16 holds"


def test_ranks_that_share_sequences_count_each_byte_once_and_measure_held_out_documents_alike(
    run: StageRun, tmp_path: Path
) -> None:
    alone: list[StepMetrics] = []
    train_stage(
        tmp_path / "alone", run, TrainingExecution(micro_batch=4, precision="fp32"), alone.append
    )
    shared: list[StepMetrics] = []
    train_stage(tmp_path / "shared", run, EXECUTION.replace(sequence_parallel=2), shared.append)
    for name in ("loss", "bits_per_byte", "grad_norm"):
        np.testing.assert_allclose(
            [getattr(one, name) for one in shared], [getattr(one, name) for one in alone], rtol=1e-4
        )
    assert alone[-1].held_out
    assert shared[-1].held_out == pytest.approx(alone[-1].held_out, rel=1e-4)


def test_heads_that_do_not_divide(run: StageRun, tmp_path: Path) -> None:
    eight = EXECUTION.replace(world_size=8, tensor_parallel=8)
    assert MODEL.num_heads == 4
    with pytest.raises(ConfigError, match="4 heads, and 8 ranks share a copy") as refused:
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
def test_places_that_cannot_be(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel"):
        SHARED.replace(**values)
