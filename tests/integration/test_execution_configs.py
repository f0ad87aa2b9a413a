"""One stage on many places: the same batches; losses and weights differ by the rounding of another order of sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from fixtures.training import EXECUTION, STAGE, train_losses, toy_run

from components.core.errors import TrainingError
from components.model.huggingface import load_checkpoint
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import LOG_FILE, WORK_FOLDER, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

STEPS = 8
ONE = TrainingExecution(micro_batch=4, zero_stage=0, precision="fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """Its steps have 64 sequences: a stage is not at its end before a test that saw a checkpoint has stopped it."""
    stage = STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=5, global_batch_tokens=64 * 64)
    return toy_run(tmp_path_factory.mktemp("inputs"), stage)


@pytest.fixture(scope="module")
def alone(run: StageRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, train_losses(folder, run, ONE)


PLACES = {
    "two ranks, ZeRO 1": EXECUTION,
    "two ranks, ZeRO 2, optimizer offloaded": EXECUTION.replace(zero_stage=2, offload_optimizer="cpu"),
    "two ranks share a copy, ZeRO 1": EXECUTION.replace(tensor_parallel=2),
    "two ranks share a copy, ZeRO 2, recomputed": EXECUTION.replace(
        tensor_parallel=2, zero_stage=2, activation_checkpoint_interval=1
    ),
    "two copies on two ranks each": EXECUTION.replace(world_size=4, tensor_parallel=2),
    "two ranks share sequences, no ZeRO": EXECUTION.replace(sequence_parallel=2, zero_stage=0),
    "two ranks share sequences, ZeRO 3, recomputed": EXECUTION.replace(
        sequence_parallel=2, zero_stage=3, activation_checkpoint_interval=1
    ),
    "two pairs share sequences, ZeRO 1": EXECUTION.replace(
        world_size=4, sequence_parallel=2, micro_batch=4
    ),
    "two ranks, ZeRO 3, all offloaded": EXECUTION.replace(
        zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu"
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_another_place_gives_the_same_losses_and_weights(
    name: str, run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = alone
    np.testing.assert_allclose(train_losses(tmp_path, run, PLACES[name]), expected, rtol=1e-5)
    require_close(folder, tmp_path)


def require_close(folder: Path, other: Path) -> None:
    pairs = zip(
        load_checkpoint(folder).parameters(), load_checkpoint(other).parameters(), strict=True
    )
    for first, second in pairs:
        np.testing.assert_allclose(
            second.detach().numpy(), first.detach().numpy(), rtol=1e-3, atol=1e-4
        )


def test_activations_that_are_computed_again_change_no_bit(
    run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, expected = alone
    assert train_losses(tmp_path, run, ONE.replace(activation_checkpoint_interval=2)) == expected
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_bf16_products_learn_the_same_and_hand_on_fp32(
    zero_stage: int, run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    found = train_losses(tmp_path, run, EXECUTION.replace(precision="bf16", zero_stage=zero_stage))
    np.testing.assert_allclose(found, alone[1], rtol=0.02)
    assert found != alone[1]
    weights = next(load_checkpoint(tmp_path).parameters()).detach()
    assert (weights != weights.bfloat16().float()).any(), "weights have more digits than bf16 holds"


def test_a_stage_goes_on_with_other_ranks_and_another_zero_stage(
    run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """From 2 ranks and ZeRO 1 to one and ZeRO 2 to 2 and ZeRO 3, each stopped after a checkpoint."""

    class Enough(Exception):
        pass

    folder, expected = alone
    seen: dict[int, float] = {}

    def until(last: int) -> Callable[[StepMetrics], None]:
        def on_step(metrics: StepMetrics) -> None:
            seen[metrics.step] = metrics.loss
            if metrics.step >= last and (tmp_path / WORK_FOLDER / f"step-{last - 1:08d}").exists():
                raise Enough

        return on_step

    for last, place in ((3, EXECUTION), (5, ONE.replace(micro_batch=1, zero_stage=2))):
        with pytest.raises(Enough):
            train_stage(tmp_path, run, place.replace(checkpoint_every_steps=2), until(last))
    train_stage(tmp_path, run, EXECUTION.replace(zero_stage=3), until(STEPS))
    assert list(seen) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-5)
    require_close(folder, tmp_path)
    assert (tmp_path / LOG_FILE).read_text().count("was made on another place") == 2


def test_without_zero_other_ranks_go_on_and_zero_is_refused(
    run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    def stop(metrics: StepMetrics) -> None:
        if metrics.step >= 3 and list((tmp_path / WORK_FOLDER).glob("step-*[0-9]")):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_stage(tmp_path, run, ONE.replace(micro_batch=1, checkpoint_every_steps=2), stop)
    with pytest.raises(
        TrainingError, match="was made with ZeRO stage 0, and this is stage 1"
    ) as refused:
        train_stage(tmp_path, run, EXECUTION, lambda _: None)
    assert "--exec training.zero_stage=0" in refused.value.fix
    found = train_losses(tmp_path, run, EXECUTION.replace(zero_stage=0))
    np.testing.assert_allclose(found, alone[1], rtol=1e-5)
    last = (tmp_path / LOG_FILE).read_text().rpartition("goes on after step ")[2]
    assert not last.startswith("0;")


def test_bf16_without_zero_is_zero_1_so_it_goes_on_with_other_ranks_and_never_as_if_it_were_fp32(
    run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    def stop(metrics: StepMetrics) -> None:
        if metrics.step >= 3 and list((tmp_path / WORK_FOLDER).glob("step-*[0-9]")):
            raise InterruptedError

    bf16 = EXECUTION.replace(precision="bf16", zero_stage=0)
    with pytest.raises(InterruptedError):
        train_stage(tmp_path, run, bf16.replace(checkpoint_every_steps=2), stop)
    with pytest.raises(
        TrainingError, match="was made with ZeRO stage 1 in bf16, and this is stage 0"
    ) as refused:
        train_stage(tmp_path, run, ONE, lambda _: None)
    assert "--exec training.precision=bf16" in refused.value.fix
    found = train_losses(tmp_path, run, bf16.replace(world_size=1, zero_stage=2))
    np.testing.assert_allclose(found, alone[1], rtol=0.02)
    last = (tmp_path / LOG_FILE).read_text().rpartition("goes on after step ")[2]
    assert not last.startswith("0;")


def test_a_rank_that_is_told_to_end_saves_its_step_first(
    run: StageRun, alone: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """As a node that is taken away does it: SIGTERM to one rank, from outside."""
    folder, expected = alone

    def tell(metrics: StepMetrics) -> None:
        if metrics.step == 2:
            rank = next(one for one in psutil.process_iter(["cmdline"]) if is_rank(one))
            rank.terminate()

    def is_rank(process: psutil.Process) -> bool:
        command = process.info["cmdline"] or []
        return (
            str(tmp_path / "run.json") in command
            and "components.training" in command
            and "--world_info" not in str(command)
        )

    with pytest.raises(
        TrainingError, match=r"told to end \(SIGTERM\) and is saved as of step"
    ) as ended:
        train_stage(tmp_path, run, ONE.replace(checkpoint_every_steps=100), tell)
    saved = int(ended.value.got.rpartition(" ")[2])
    assert [path.name for path in (tmp_path / WORK_FOLDER).glob("step-*")] == [f"step-{saved:08d}"]
    assert train_losses(tmp_path, run, ONE) == expected
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
