"""Stages with gloo ranks: compared with plain PyTorch, killed and resumed, cancelled, diverging."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from fixtures.tmpfs import limited_disk
from fixtures.training import (
    EXECUTION,
    MODEL,
    STAGE,
    StageStopped,
    checkpoint_steps,
    stop_after,
    toy_run,
    train_in_pytorch,
)

from components.core.artifact import content_digest
from components.core.errors import ConfigError, DiskFullError, TrainingError
from components.core.fingerprint import list_files
from components.dataset.reader import PackedSplit
from components.evaluation.bits_per_byte import evaluate_held_out
from components.evaluation.text_scorer import ModelScorer
from components.model.huggingface import load_checkpoint
from components.model.transformer import CodeGen
from components.tokenizer.encoder import Encoder
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics, read_metrics
from components.training.run_file import (
    LOG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    WORK_FOLDER,
    ArtifactInput,
    RunFile,
    StageRun,
)
from components.training.schedule import learning_rate

ENDED_S = 20.0
"""Maximum time until all processes of a trainer have exited."""

Steps = list[StepMetrics]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A stage on 50 sequences that reads 640: 12.8 epochs."""
    return toy_run(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def uninterrupted(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Steps, dict[str, object]]:
    """The folder, reported steps and statistics of an uninterrupted stage."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    steps: Steps = []
    statistics = train_stage(folder, run, EXECUTION, steps.append)
    return folder, steps, statistics


def trainers(folder: Path) -> list[psutil.Process]:
    """Launcher and ranks of a folder, which have its run.json on their command line."""
    run_file = str(folder / "run.json")
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if run_file in (process.info["cmdline"] or [])]


def test_a_stage_writes_a_checkpoint_and_reports_every_step(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]]
) -> None:
    folder, steps, statistics = uninterrupted
    assert [step.step for step in steps] == list(range(1, 41))
    assert [step.learning_rate for step in steps] == [
        learning_rate(step, STAGE) for step in range(1, 41)
    ]
    assert steps[-1].tokens == 40 * 1024
    assert steps[-1].time_left_s == 0
    assert all(0 < step.mfu <= 1 and step.tokens_per_s > 0 for step in steps)
    assert all(0 <= step.data_wait_s <= step.elapsed_s for step in steps)
    assert any(step.data_wait_s > 0 for step in steps)
    assert all(step.peak_flops and step.peak_flops > 0 for step in steps)
    assert all(step.peak_memory_bytes and 1e8 < step.peak_memory_bytes < 2e9 for step in steps)
    # Ids below 256 are bytes; the separator has no bytes, other ids have several.
    split = PackedSplit(Path(run.data.folder), "train")
    lengths = Encoder(Path(run.tokenizer.folder)).token_num_bytes
    first = split.batch(split.shuffled_indices(3, 0, 16))[:, 1:]
    nats = (steps[0].loss or 0) * first.size
    assert steps[0].bits_per_byte == pytest.approx(
        nats / math.log(2) / lengths[first].sum(), rel=1e-9
    )
    assert steps == read_metrics(folder / METRICS_FILE)
    assert statistics == {
        "steps": 40,
        "skipped_steps": 0,
        "tokens": 40_960,
        "final_loss": steps[-1].loss,
        "num_parameters": sum(parameter.numel() for parameter in CodeGen(MODEL).parameters()),
    }
    assert json.loads((folder / RESULT_FILE).read_text()) == {
        "run": run.identity(),
        "result": statistics,
    }
    names = {file.path for file in list_files(folder)}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
        METRICS_FILE,
        LOG_FILE,
    } <= names
    assert not (folder / WORK_FOLDER).exists()
    assert str(folder.parent) not in "".join(
        path.read_text(errors="replace") for path in folder.iterdir() if path.is_file()
    ), "paths of this machine must only be in observed/"


def test_training_agrees_with_plain_pytorch_in_one_process(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]]
) -> None:
    """One forward pass per batch, torch's AdamW and clipping: only the order of sums differs."""
    folder, steps, _ = uninterrupted
    model = CodeGen(MODEL, seed=3)
    losses, norms = train_in_pytorch(model, run)
    assert all(losses)
    assert all(norms)
    assert losses[-1] < 0.7 * losses[0], "the model must learn"
    assert max(norms) > 1.0, "clipping must have an effect"
    np.testing.assert_allclose([step.loss for step in steps], losses, rtol=2e-4)
    np.testing.assert_allclose([step.grad_norm for step in steps], norms, rtol=5e-3)
    trained = load_checkpoint(folder)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            trained.get_parameter(name),
            parameter,
            rtol=5e-3,
            atol=5e-4,
            msg=lambda text, n=name: f"{n}: {text}",
        )


@pytest.mark.process_heavy
def test_held_out_documents_are_scored_like_in_the_evaluation(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    folder, steps, _ = uninterrupted
    assert [step.step for step in steps if step.held_out] == [40], "always after the last step"
    assert steps[-1].evaluation_s > 0
    corpora = {"nl": Path(run.data.folder)}
    encoder = Encoder(folder)
    scorer = ModelScorer(load_checkpoint(folder).eval())
    expected = evaluate_held_out(scorer, encoder, corpora, max_sequences=4)
    assert steps[-1].held_out == {
        "English": pytest.approx(expected["nl/English"]["bits_per_byte"], rel=1e-5)
    }

    frequent: Steps = []
    train_stage(
        tmp_path,
        run,
        EXECUTION.replace(zero_stage=3, eval_interval=15, eval_sequences=5),
        frequent.append,
    )
    assert [step.step for step in frequent if step.held_out] == [15, 30, 40]
    np.testing.assert_allclose(
        [step.loss for step in frequent], [step.loss for step in steps], rtol=2e-4
    )
    scorer = ModelScorer(load_checkpoint(tmp_path).eval())
    expected = evaluate_held_out(scorer, encoder, corpora, max_sequences=5)
    assert frequent[-1].held_out == {
        "English": pytest.approx(expected["nl/English"]["bits_per_byte"], rel=1e-5)
    }


FLOW = """
import os, signal, sys
from pathlib import Path
from components.training.launch.launcher import train_stage
from components.training.run_file import RunFile

file = RunFile.read(Path(sys.argv[2]))

def kill_at_step_13(metrics):
    if metrics.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)

train_stage(Path(sys.argv[1]), file.run, file.execution, kill_at_step_13)
"""


@pytest.mark.process_heavy
def test_a_killed_flow_leaves_no_orphan_and_the_stage_resumes_to_the_same_bits(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    document = RunFile(run=run, execution=EXECUTION).write(tmp_path)
    flow = subprocess.run([sys.executable, "-c", FLOW, str(folder), str(document)], check=False)
    assert flow.returncode == -signal.SIGKILL
    _, alive = psutil.wait_procs(trainers(folder), timeout=ENDED_S)
    assert not alive
    assert not (folder / RESULT_FILE).exists()

    # Remains of other crashes: a partial checkpoint, half a line, and a damaged newest checkpoint.
    checkpoints = sorted((folder / WORK_FOLDER).glob("step-*[0-9]"))
    assert len(checkpoints) == 2
    damaged = next(checkpoints[-1].rglob("*optim_states.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (folder / WORK_FOLDER / "step-00000099.partial").mkdir()
    # An old checkpoint, partially removed.
    (folder / WORK_FOLDER / "step-00000001" / "engine").mkdir(parents=True)
    with (folder / METRICS_FILE).open("a") as file:
        file.write('{"step": 99, "lo')

    steps: Steps = []
    statistics = train_stage(folder, run, EXECUTION, steps.append)
    folder_expected, expected, statistics_expected = uninterrupted
    assert [(step.step, step.loss, step.grad_norm) for step in steps] == [
        (step.step, step.loss, step.grad_norm) for step in expected
    ]
    assert read_metrics(folder / METRICS_FILE) == steps
    assert steps[-1].elapsed_s > max(step.elapsed_s for step in steps[:12]), (
        "includes the killed attempt"
    )
    assert statistics == statistics_expected
    assert content_digest(list_files(folder)) == content_digest(list_files(folder_expected))
    log = (folder / LOG_FILE).read_text()
    assert f"{checkpoints[-1]} is damaged" in log
    assert f"resumes after step {int(checkpoints[0].name[-8:])};" in log


@pytest.mark.process_heavy
def test_cancelling_ends_all_processes_and_another_run_is_refused(
    run: StageRun, tmp_path: Path
) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(metrics: StepMetrics) -> None:
        if metrics.step >= 5 and checkpoint_steps(tmp_path):
            assert trainers(tmp_path)
            raise Cancelled

    single_rank = TrainingExecution(micro_batch=1, checkpoint_every_steps=4, precision="fp32")
    with pytest.raises(Cancelled):
        train_stage(tmp_path, run, single_rank, cancel)
    assert not trainers(tmp_path)

    other_run = run.model_copy(update={"seed": 4})
    with pytest.raises(TrainingError, match="is a checkpoint of another run") as refused:
        train_stage(tmp_path, other_run, single_rank, lambda _: None)
    assert str(tmp_path / WORK_FOLDER) in refused.value.fix
    assert not trainers(tmp_path)


@pytest.mark.process_heavy
def test_a_stage_inherits_weights_and_stops_before_a_step_that_is_not_finite(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    """The next stage, with a learning rate that ruins the model in its first step."""
    wild = STAGE.replace(steps=9, learning_rate=1e30, warmup_steps=2, max_skipped_steps=0)
    initial = ArtifactInput(folder=str(uninterrupted[0]), digest="checkpoint of stage nl")
    following = run.model_copy(update={"stage": "multi", "config": wild, "init_from": initial})
    with pytest.raises(TrainingError, match=r"stage multi, step 2: .* is (nan|inf)") as stopped:
        train_stage(
            tmp_path, following, TrainingExecution(micro_batch=16, precision="fp32"), lambda _: None
        )
    (first,) = read_metrics(tmp_path / METRICS_FILE)
    assert not (tmp_path / RESULT_FILE).exists()

    split = PackedSplit(Path(run.data.folder), "train")
    tokens = torch.from_numpy(split.batch(split.shuffled_indices(3, 0, 16)).astype(np.int64))
    with torch.no_grad():
        inherited_loss = load_checkpoint(uninterrupted[0]).loss(tokens, 1e-4)
    assert first.loss == pytest.approx(inherited_loss.item(), rel=1e-5), (
        "previous weights, start of the corpus"
    )
    assert first.learning_rate == 0.5e30, "a new warm-up"
    assert (
        f"sequences {', '.join(map(str, split.shuffled_indices(3, 16, 16)))} of the train split"
        in stopped.value.got
    )


@pytest.mark.process_heavy
def test_the_newest_the_best_and_every_nth_checkpoint_are_retained(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    """A rising learning rate makes a trained model worse, so the best checkpoint is an old step."""
    worse = STAGE.replace(warmup_steps=36, learning_rate=0.5)
    initial = ArtifactInput(folder=str(uninterrupted[0]), digest="checkpoint of stage nl")
    scores: dict[int, float] = {}

    def stop(metrics: StepMetrics) -> None:
        if metrics.held_out:
            scores[metrics.step] = metrics.held_out["English"]
        if metrics.step >= 29:
            raise InterruptedError

    execution = EXECUTION.replace(eval_interval=4, keep_last=1, keep_every_steps=12)
    following = run.replace(config=worse, init_from=initial, stage="multi")
    with pytest.raises(InterruptedError):
        train_stage(tmp_path, following, execution, stop)
    retained = checkpoint_steps(tmp_path)
    best = min((step for step in scores if step <= retained[-1]), key=scores.__getitem__)
    assert best < 12, "must be a checkpoint that would be pruned"
    assert retained[-1] >= 24
    assert retained == sorted({best, 12, 24, retained[-1]} | ({36} if retained[-1] > 36 else set()))


@pytest.mark.process_heavy
def test_monitors_and_profiler_change_no_weight_and_log_each_step_of_a_resumed_stage_once(
    run: StageRun, uninterrupted: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    options = {
        "csv_monitor": {"enabled": True},
        "flops_profiler": {"enabled": True, "profile_step": 2},
    }
    execution = EXECUTION.replace(deepspeed_config=options)
    folder, monitors = tmp_path / "stage", tmp_path / "toy-nl"
    with pytest.raises(StageStopped):
        train_stage(folder, run, execution, stop_after(folder, 10), monitors)
    # Whatever was logged before the interruption: a step that is repeated, and half a row.
    with csv_path(monitors, "loss").open("a") as file:
        file.write("480,9.9\r\n49")
    steps: Steps = []
    train_stage(folder, run, execution, steps.append, monitors)

    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (uninterrupted[0] / weights).read_bytes()
    samples = [16 * step for step in range(1, 41)]
    for name, values in {
        "loss": [step.loss for step in steps],
        "learning_rate": [step.learning_rate for step in steps],
        "tokens_per_s": [step.tokens_per_s for step in steps],
        "tokens": [step.tokens for step in steps],
        "lr": [learning_rate(step, STAGE) for step in range(1, 41)],  # Logged by DeepSpeed.
    }.items():
        assert rows_of(monitors, name) == list(zip(samples, values, strict=True)), name
    held_out = (steps[-1].held_out or {})["English"]
    assert rows_of(monitors, "held_out_English") == [(640, held_out)]
    assert len(rows_of(monitors, "elapsed_time_ms_step")) == 40
    profile = (folder / "observed" / "flops_profile.txt").read_text()
    assert "Profile Summary at step 3" in profile, "DeepSpeed counts from 0"
    assert "CodeGen" in profile
    assert "Profile Summary" not in (folder / LOG_FILE).read_text()


def csv_path(monitors: Path, metric: str) -> Path:
    return monitors / "csv_monitor" / f"Train_Samples_{metric}.csv"


def rows_of(monitors: Path, metric: str) -> list[tuple[int, float]]:
    """The rows of a metric in the files of DeepSpeed's CSV monitor, without the header."""
    with csv_path(monitors, metric).open(newline="", encoding="utf-8") as file:
        (name, _), *rows = csv.reader(file)
    assert name == "step"
    return [(int(samples), float(value)) for samples, value in rows]


@pytest.mark.process_heavy
def test_a_value_that_deepspeed_refuses_is_reported(run: StageRun, tmp_path: Path) -> None:
    options = {"zero_optimization": {"reduce_bucket_size": -1}}
    with pytest.raises(ConfigError, match="reduce_bucket_size") as refused:
        train_stage(tmp_path, run, EXECUTION.replace(deepspeed_config=options), lambda _: None)
    assert "training.deepspeed_config" in refused.value.fix


@pytest.mark.process_heavy
def test_a_disk_without_space_for_a_checkpoint_is_reported(run: StageRun, tmp_path: Path) -> None:
    execution = TrainingExecution(micro_batch=16, precision="fp32", checkpoint_every_steps=2)
    with (
        limited_disk(tmp_path / "disk", size_kb=600) as disk,
        pytest.raises(DiskFullError, match=r"[01] MB are free at") as full,
    ):
        train_stage(disk, run, execution, lambda _: None)
    assert "the checkpoint of step 2" in full.value.expected


@pytest.mark.process_heavy
def test_a_rank_that_fails_is_reported_with_the_last_lines_of_its_error(
    run: StageRun, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(run.data.folder, corpus)
    # The model has rows 0 to 319.
    np.full((50, 64), 400, dtype="<u2").tofile(corpus / "train" / "00000.bin")
    broken = run.model_copy(update={"data": ArtifactInput(folder=str(corpus), digest="broken")})
    execution = TrainingExecution(micro_batch=16, precision="fp32")
    message = r"(?s)rank 0 failed.*IndexError: index out of range"
    with pytest.raises(TrainingError, match=message) as failed:
        train_stage(tmp_path / "stage", broken, execution, lambda _: None)
    assert LOG_FILE in failed.value.fix
    assert "Traceback" in (tmp_path / "stage" / LOG_FILE).read_text()
