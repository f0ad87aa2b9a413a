"""Batches without a finite loss are skipped: equal for every execution config, up to a limit.

The initial model has an embedding of one rare token that is so large that its square overflows.
Batches with that token have no finite loss; other batches are not affected.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fixtures.training import (
    EXECUTION,
    MODEL,
    STAGE,
    StageStopped,
    stop_after,
    toy_run,
    train_in_pytorch,
)

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
    ArtifactInput,
    StageRun,
)

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

STEPS = 16
POISON = 290
POISONED = (7, 30)
"""Sequences of the train split with the token."""
EXECUTIONS = {
    "one rank without ZeRO": TrainingExecution(micro_batch=4, zero_stage=0, precision="fp32"),
    "two ranks, ZeRO 1": EXECUTION,
    "two ranks, ZeRO 2, optimizer offloaded": EXECUTION.replace(
        zero_stage=2, offload_optimizer="cpu"
    ),
    "two ranks, ZeRO 3": EXECUTION.replace(zero_stage=3),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    root = tmp_path_factory.mktemp("inputs")
    run = toy_run(root, STAGE.replace(steps=STEPS, warmup_steps=2, decay_steps=12))
    corpus = Path(run.data.folder)
    shard = corpus / "train" / "00000.bin"
    sequences = np.fromfile(shard, dtype="<u2").reshape(50, 64) % POISON
    sequences[POISONED, 20] = POISON
    sequences.tofile(shard)
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
    return run.replace(init_from=ArtifactInput(folder=str(root / "initial"), digest="initial"))


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
def uninterrupted(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[StepMetrics]]:
    return train(tmp_path_factory.mktemp("uninterrupted"), run, EXECUTION)


def train(
    folder: Path, run: StageRun, execution: TrainingExecution
) -> tuple[Path, list[StepMetrics]]:
    steps: list[StepMetrics] = []
    statistics = train_stage(folder, run, execution, steps.append)
    assert statistics["skipped_steps"] == sum(step.skipped for step in steps)
    return folder, steps


@pytest.mark.parametrize("name", EXECUTIONS)
def test_skipped_batches_change_no_weight(
    name: str, run: StageRun, poisoned_steps: list[int], tmp_path: Path
) -> None:
    expected = poisoned_model()
    losses, norms = train_in_pytorch(expected, run)
    _, steps = train(tmp_path, run, EXECUTIONS[name])
    assert [step.step for step in steps if step.skipped] == poisoned_steps
    assert [step.loss is None for step in steps] == [loss is None for loss in losses]
    numbers = [(step.loss, step.grad_norm) for step in steps if not step.skipped]
    expected_numbers = [pair for pair in zip(losses, norms, strict=True) if pair[0] is not None]
    np.testing.assert_allclose(numbers, expected_numbers, rtol=2e-3)
    trained = load_checkpoint(tmp_path)
    for parameter, target in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, target, rtol=5e-3, atol=5e-4)
    log = (tmp_path / LOG_FILE).read_text()
    assert f"step {poisoned_steps[0]}: the loss is nan on the documents books:" in log


def test_a_held_out_loss_that_is_not_finite_does_not_stop_the_stage(
    run: StageRun, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(run.data.folder, corpus)
    shard = corpus / "held-out" / "English" / "00000.bin"
    held_out = np.fromfile(shard, dtype="<u2")
    held_out[20] = POISON
    held_out.tofile(shard)
    poisoned = run.replace(data=ArtifactInput(folder=str(corpus), digest="poisoned"))
    execution = EXECUTIONS["one rank without ZeRO"].replace(
        eval_interval=5, checkpoint_every_steps=5
    )
    folder, steps = train(tmp_path / "stage", poisoned, execution)
    assert [(step.step, step.held_out) for step in steps if step.held_out] == [
        (step, {"English": None}) for step in (5, 10, 15, 16)
    ]
    log = (folder / LOG_FILE).read_text()
    assert "step 5: the loss on held-out documents is not finite: English" in log


def test_a_resumed_stage_skips_the_same_batches(
    run: StageRun,
    uninterrupted: tuple[Path, list[StepMetrics]],
    poisoned_steps: list[int],
    tmp_path: Path,
) -> None:
    saving = EXECUTION.replace(checkpoint_every_steps=2)
    with pytest.raises(StageStopped):
        train_stage(tmp_path, run, saving, stop_after(tmp_path, poisoned_steps[0] + 1))
    (tmp_path / METRICS_FILE).unlink()  # Only a record.
    steps: list[StepMetrics] = []
    statistics = train_stage(tmp_path, run, EXECUTION, steps.append)
    folder, all_steps = uninterrupted
    earlier = all_steps[: -len(steps)]
    rest = all_steps[-len(steps) :]
    assert [(step.step, step.loss, step.skipped) for step in steps] == [
        (step.step, step.loss, step.skipped) for step in rest
    ]
    assert sum(step.skipped for step in earlier) > 0
    assert statistics["skipped_steps"] == sum(step.skipped for step in all_steps)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_exceeding_the_limit_stops_the_stage_and_names_the_documents(
    run: StageRun, poisoned_steps: list[int], tmp_path: Path
) -> None:
    limited = run.replace(config=run.config.replace(max_skipped_steps=2))
    last = poisoned_steps[2]
    message = f"step {last}: the loss is nan on the documents"
    with pytest.raises(TrainingError, match=message) as stopped:
        train_stage(tmp_path, limited, EXECUTIONS["one rank without ZeRO"], lambda _: None)
    assert "at most 2 such batches" in stopped.value.expected
    split = PackedSplit(Path(run.data.folder), "train")
    bad: list[int] = []
    for micro_batch in split.shuffled_indices(3, (last - 1) * 16, 16).reshape(4, 4).tolist():
        if set(micro_batch) & set(POISONED):
            bad += micro_batch
    assert f"(the sequences {', '.join(map(str, bad))} of the train split)" in stopped.value.got
    documents = [f"books:{2 * sequence + i}.txt" for sequence in sorted(bad) for i in (0, 1)]
    assert ", ".join(documents[:8]) in stopped.value.got
    assert [step.step for step in read_metrics(tmp_path / METRICS_FILE)] == list(range(1, last))
