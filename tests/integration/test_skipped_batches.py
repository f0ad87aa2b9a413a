"""Batches whose loss is not finite are left out alike on every place, through kills, and up to a limit.

The model that each stage starts from has an embedding so large that its square overflows, for a token that few sequences
have: a batch with one of them has no finite loss, and no other batch is touched by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fixtures.training import MODEL, EXECUTION, STAGE, toy_run, train_in_pytorch

from components.core.errors import TrainingError
from components.dataset.manifests import DOCUMENTS_PARQUET, DOCUMENTS_SCHEMA
from components.dataset.reader import PackedSplit
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.transformer import CodeGen
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics, read_metrics
from components.training.run_file import (
    LOG_FILE,
    METRICS_FILE,
    WORK_FOLDER,
    ArtifactInput,
    StageRun,
)

pytestmark = [pytest.mark.slow, pytest.mark.apart]

STEPS = 16
POISON = 290
POISONED = (7, 30)
"""Sequences of the train split."""
PLACES = {
    "one rank without ZeRO": TrainingExecution(micro_batch=4, zero_stage=0, precision="fp32"),
    "two ranks, ZeRO 1": EXECUTION,
    "two ranks, ZeRO 2, optimizer offloaded": EXECUTION.replace(zero_stage=2, offload_optimizer="cpu"),
    "two ranks, ZeRO 3": EXECUTION.replace(zero_stage=3),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    root = tmp_path_factory.mktemp("inputs")
    run = toy_run(root, STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=12))
    corpus = Path(run.data.folder)
    sequences = np.fromfile(corpus / "train" / "00000.bin", dtype="<u2").reshape(50, 64) % POISON
    sequences[POISONED, 20] = POISON
    sequences.tofile(corpus / "train" / "00000.bin")
    document = {
        "sha256": "",
        "language": "English",
        "split": "train",
        "source": "books",
        "num_bytes": 1,
        "num_tokens": 32,
    }
    rows = [document | {"path": f"{number}.txt"} for number in range(100)]  # Two in each sequence.
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS_SCHEMA), corpus / DOCUMENTS_PARQUET)
    save_checkpoint(poisoned_model(), Path(run.tokenizer.folder), root / "initial")
    return run.replace(initial=ArtifactInput(folder=str(root / "initial"), digest="initial"))


def poisoned_model() -> CodeGen:
    model = CodeGen(MODEL, seed=3)
    with torch.no_grad():
        model.embedding.weight[POISON] = 3e38
    return model


@pytest.fixture(scope="module")
def poisoned_steps(run: StageRun) -> list[int]:
    split = PackedSplit(Path(run.data.folder), "train")
    steps = [
        step
        for step in range(1, STEPS + 1)
        if set(split.shuffled_indices(3, (step - 1) * 16, 16)) & set(POISONED)
    ]
    assert 3 <= len(steps) <= STEPS - 4
    return steps


@pytest.fixture(scope="module")
def undisturbed(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[StepMetrics]]:
    return train(tmp_path_factory.mktemp("undisturbed"), run, EXECUTION)


def train(folder: Path, run: StageRun, place: TrainingExecution) -> tuple[Path, list[StepMetrics]]:
    seen: list[StepMetrics] = []
    statistics = train_stage(folder, run, place, seen.append)
    assert statistics["skipped_steps"] == sum(one.skipped for one in seen)
    return folder, seen


@pytest.mark.parametrize("name", PLACES)
def test_they_change_no_weight(
    name: str, run: StageRun, poisoned_steps: list[int], tmp_path: Path
) -> None:
    expected = poisoned_model()
    losses, norms = train_in_pytorch(expected, run)
    _, seen = train(tmp_path, run, PLACES[name])
    assert [one.step for one in seen if one.skipped] == poisoned_steps
    assert [one.loss is None for one in seen] == [loss is None for loss in losses]
    numbers = [(one.loss, one.grad_norm) for one in seen if not one.skipped]
    wanted = [pair for pair in zip(losses, norms, strict=True) if pair[0] is not None]
    np.testing.assert_allclose(numbers, wanted, rtol=2e-3)
    for found, parameter in zip(
        load_checkpoint(tmp_path).parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(found, parameter, rtol=5e-3, atol=5e-4)
    log = (tmp_path / LOG_FILE).read_text()
    assert f"step {poisoned_steps[0]}: the loss is nan on the documents books:" in log


def test_held_out_documents_whose_loss_is_not_finite_stop_nothing(
    run: StageRun, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(run.data.folder, corpus)
    held_out = np.fromfile(corpus / "held-out" / "English.bin", dtype="<u2")
    held_out[20] = POISON
    held_out.tofile(corpus / "held-out" / "English.bin")
    place = PLACES["one rank without ZeRO"].replace(eval_interval=5, checkpoint_every_steps=5)
    folder, seen = train(
        tmp_path / "stage",
        run.replace(data=ArtifactInput(folder=str(corpus), digest="poisoned")),
        place,
    )
    assert [(one.step, one.held_out) for one in seen if one.held_out] == [
        (step, {"English": None}) for step in (5, 10, 15, 16)
    ]
    assert (
        "step 5: the loss on held-out documents is not finite: English"
        in (folder / LOG_FILE).read_text()
    )


def test_a_killed_stage_leaves_out_the_same(
    run: StageRun,
    undisturbed: tuple[Path, list[StepMetrics]],
    poisoned_steps: list[int],
    tmp_path: Path,
) -> None:
    def after(step: int) -> Callable[[StepMetrics], None]:
        def on_step(metrics: StepMetrics) -> None:
            if metrics.step >= step and list((tmp_path / WORK_FOLDER).glob("step-*[0-9]")):
                raise InterruptedError

        return on_step

    with pytest.raises(InterruptedError):
        train_stage(
            tmp_path, run, EXECUTION.replace(checkpoint_every_steps=2), after(poisoned_steps[0] + 1)
        )
    (tmp_path / METRICS_FILE).unlink()  # A record, on which nothing hangs.
    seen: list[StepMetrics] = []
    statistics = train_stage(tmp_path, run, EXECUTION, seen.append)
    whole, before = undisturbed
    rest = before[-len(seen) :]
    assert [(one.step, one.loss, one.skipped) for one in seen] == [
        (one.step, one.loss, one.skipped) for one in rest
    ]
    assert sum(one.skipped for one in before[: -len(seen)]) > 0
    assert statistics["skipped_steps"] == sum(one.skipped for one in before)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()


def test_one_more_than_allowed_stops_the_stage_and_names_its_documents(
    run: StageRun, poisoned_steps: list[int], tmp_path: Path
) -> None:
    few = run.replace(config=run.config.replace(max_skipped_steps=2))
    last = poisoned_steps[2]
    with pytest.raises(
        TrainingError, match=f"step {last}: the loss is nan on the documents"
    ) as stopped:
        train_stage(tmp_path, few, PLACES["one rank without ZeRO"], lambda _: None)
    assert "at most 2 such batches" in stopped.value.expected
    micro_batches = (
        PackedSplit(Path(run.data.folder), "train")
        .shuffled_indices(3, (last - 1) * 16, 16)
        .reshape(4, 4)
    )
    bad = [int(one) for micro in micro_batches if set(micro) & set(POISONED) for one in micro]
    assert f"(the sequences {', '.join(map(str, bad))} of the train split)" in stopped.value.got
    named = [f"books:{number}.txt" for one in sorted(bad) for number in (2 * one, 2 * one + 1)]
    assert ", ".join(named[:8]) in stopped.value.got
    assert [one.step for one in read_metrics(tmp_path / METRICS_FILE)] == list(range(1, last))
