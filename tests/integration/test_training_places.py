"""One stage on many places: the same batches; losses and weights differ by the rounding of another order of sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.training import PLACE, STAGE, toy_run

from components.model.huggingface import load_checkpoint
from components.training.config import TrainingPlace
from components.training.launch import train_stage
from components.training.metrics import StepMetrics
from components.training.run import StageRun

STEPS = 8
ONE = TrainingPlace(micro_batch=4, zero_stage=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return toy_run(tmp_path_factory.mktemp("inputs"), STAGE.replace(steps=STEPS, warmup_steps=2, anneal_steps=5))


@pytest.fixture(scope="module")
def alone(run: StageRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, losses(folder, run, ONE)


def losses(folder: Path, run: StageRun, place: TrainingPlace) -> list[float]:
    seen: list[StepMetrics] = []
    train_stage(folder, run, place, seen.append)
    return [one.loss for one in seen]


PLACES = {
    "two ranks, ZeRO 1": PLACE,
    "two ranks, ZeRO 2": PLACE.replace(zero_stage=2),
    "two ranks, ZeRO 3": PLACE.replace(zero_stage=3),
    "ZeRO 3 and everything offloaded": PLACE.replace(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu"),
    "ZeRO 1 and its optimizer offloaded": PLACE.replace(offload_optimizer="cpu"),
}


@pytest.mark.parametrize("name", PLACES)
def test_another_place_gives_the_same_losses_and_weights(
    name: str, run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = alone
    np.testing.assert_allclose(losses(tmp_path, run, PLACES[name]), expected, rtol=1e-5)
    one, other = load_checkpoint(folder), load_checkpoint(tmp_path)
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(second.detach().numpy(), first.detach().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("every", [1, 2])
def test_activations_that_are_computed_again_change_no_bit(
    every: int, run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = alone
    assert losses(tmp_path, run, ONE.replace(recompute_every=every)) == expected
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_bf16_products_learn_the_same_and_hand_on_fp32(
    zero_stage: int, run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    place = PLACE.replace(precision="bf16", zero_stage=zero_stage)
    found = losses(tmp_path, run, place)
    np.testing.assert_allclose(found, alone[1], rtol=0.02)
    assert found != alone[1]
    weights = next(load_checkpoint(tmp_path).parameters()).detach()
    assert (weights != weights.bfloat16().float()).any(), "weights have more digits than bf16 holds"
