"""Real stages on real gloo processes: against plain PyTorch, killed and resumed, cancelled, diverging."""

from __future__ import annotations

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
from fixtures.training import MODEL, EXECUTION, STAGE, toy_run, train_in_pytorch

from components.core.artifact import content_digest
from components.core.errors import DiskFullError, TrainingError
from components.core.fingerprint import list_files
from components.dataset.reader import PackedSplit
from components.evaluation.bits_per_byte import evaluate_held_out
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
"""By then nothing of a trainer may be left."""

Steps = list[StepMetrics]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A stage on 50 sequences, of which 800 are read: 16 epochs."""
    return toy_run(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(
    run: StageRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Steps, dict[str, object]]:
    """The stage, trained in one go: its folder, what was reported meanwhile, and its statistics."""
    folder = tmp_path_factory.mktemp("undisturbed")
    seen: Steps = []
    statistics = train_stage(folder, run, EXECUTION, seen.append)
    return folder, seen, statistics


def trainers(folder: Path) -> list[psutil.Process]:
    """The processes that work on a folder: launcher and ranks have its run.json on their command line."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if str(folder / "run.json") in (one.info["cmdline"] or [])]


def test_leaves_a_checkpoint_and_reports_every_step(
    run: StageRun, undisturbed: tuple[Path, Steps, dict[str, object]]
) -> None:
    folder, seen, statistics = undisturbed
    assert [one.step for one in seen] == list(range(1, 41))
    assert [one.learning_rate for one in seen] == [
        learning_rate(step, STAGE) for step in range(1, 41)
    ]
    assert seen[-1].tokens == 40 * 1024
    assert seen[-1].time_left_s == 0
    assert all(one.mfu > 0 and one.tokens_per_s > 0 for one in seen)
    assert all(0 <= one.data_wait_s <= one.elapsed_s for one in seen)
    assert any(one.data_wait_s > 0 for one in seen)
    assert all(one.peak_flops and one.peak_flops > 0 for one in seen)
    assert all(one.peak_memory_bytes and 1e8 < one.peak_memory_bytes < 2e9 for one in seen)
    # Ids below 256 stand for a byte each; of the others in the corpus only the separator stands for none, the rest for more.
    split = PackedSplit(Path(run.data.folder), "train")
    lengths = Encoder(Path(run.tokenizer.folder)).token_num_bytes
    first = split.batch(split.shuffled_indices(3, 0, 16))[:, 1:]
    nats = (seen[0].loss or 0) * first.size
    assert seen[0].bits_per_byte == pytest.approx(
        nats / math.log(2) / lengths[first].sum(), rel=1e-9
    )
    assert seen == read_metrics(folder / METRICS_FILE)
    assert statistics == {
        "steps": 40,
        "skipped_steps": 0,
        "tokens": 40_960,
        "final_loss": seen[-1].loss,
        "num_parameters": sum(one.numel() for one in CodeGen(MODEL).parameters()),
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
    ), "a path of this machine outside observed/"


def test_equals_plain_pytorch_on_one_process(
    run: StageRun, undisturbed: tuple[Path, Steps, dict[str, object]]
) -> None:
    """One forward over the whole batch, torch's own AdamW and clipping: another order of summing, the same training."""
    folder, seen, _ = undisturbed
    model = CodeGen(MODEL, seed=3)
    losses, norms = train_in_pytorch(model, run)
    assert all(losses)
    assert all(norms)
    assert losses[-1] < 0.7 * losses[0], "it has to learn, or equal losses mean little"
    assert max(norms) > 1.0, "clipping has to matter"
    np.testing.assert_allclose([one.loss for one in seen], losses, rtol=2e-4)
    np.testing.assert_allclose([one.grad_norm for one in seen], norms, rtol=5e-3)
    trained = load_checkpoint(folder)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            trained.get_parameter(name),
            parameter,
            rtol=5e-3,
            atol=5e-4,
            msg=lambda text, n=name: f"{n}: {text}",
        )


@pytest.mark.apart
def test_held_out_documents_are_measured_as_the_evaluation_does(
    run: StageRun, undisturbed: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    folder, seen, _ = undisturbed
    assert [one.step for one in seen if one.held_out] == [40], "after the last step anyway"
    assert seen[-1].evaluation_s > 0
    model, encoder = load_checkpoint(folder).eval(), Encoder(folder)
    expected = evaluate_held_out(model, encoder, {"nl": Path(run.data.folder)}, max_sequences=4)
    assert seen[-1].held_out == {
        "English": pytest.approx(expected["nl/English"]["bits_per_byte"], rel=1e-5)
    }

    often: Steps = []
    train_stage(
        tmp_path,
        run,
        EXECUTION.replace(zero_stage=3, eval_interval=15, eval_sequences=5),
        often.append,
    )
    assert [one.step for one in often if one.held_out] == [15, 30, 40]
    np.testing.assert_allclose([one.loss for one in often], [one.loss for one in seen], rtol=2e-4)
    expected = evaluate_held_out(
        load_checkpoint(tmp_path).eval(), encoder, {"nl": Path(run.data.folder)}, max_sequences=5
    )
    assert often[-1].held_out == {
        "English": pytest.approx(expected["nl/English"]["bits_per_byte"], rel=1e-5)
    }


FLOW = """
import os, signal, sys
from pathlib import Path
from components.training.launch.launcher import train_stage
from components.training.run_file import RunFile

file = RunFile.read(Path(sys.argv[2]))

def killed_at_step_13(metrics):
    if metrics.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)

train_stage(Path(sys.argv[1]), file.run, file.place, killed_at_step_13)
"""


@pytest.mark.apart
def test_a_killed_flow_leaves_no_orphan_and_the_stage_goes_on_to_the_same_bits(
    run: StageRun, undisturbed: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    document = RunFile(run=run, execution=EXECUTION).write(tmp_path)
    flow = subprocess.run([sys.executable, "-c", FLOW, str(folder), str(document)], check=False)
    assert flow.returncode == -signal.SIGKILL
    _, alive = psutil.wait_procs(trainers(folder), timeout=ENDED_S)
    assert not alive
    assert not (folder / RESULT_FILE).exists()

    # What a kill may leave besides: half a checkpoint, half a line, and (a disk's fault) a damaged newest checkpoint.
    checkpoints = sorted((folder / WORK_FOLDER).glob("step-*[0-9]"))
    assert len(checkpoints) == 2
    damaged = next(checkpoints[-1].rglob("*optim_states.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (folder / WORK_FOLDER / "step-00000099.partial").mkdir()
    (folder / WORK_FOLDER / "step-00000001" / "engine").mkdir(
        parents=True
    )  # An old one, killed while it was being removed.
    with (folder / METRICS_FILE).open("a") as file:
        file.write('{"step": 99, "lo')

    seen: Steps = []
    statistics = train_stage(folder, run, EXECUTION, seen.append)
    whole, before, statistics_before = undisturbed
    assert [(one.step, one.loss, one.grad_norm) for one in seen] == [
        (one.step, one.loss, one.grad_norm) for one in before
    ]
    assert read_metrics(folder / METRICS_FILE) == seen
    assert seen[-1].elapsed_s > max(one.elapsed_s for one in seen[:12]), (
        "time of the killed attempt counts"
    )
    assert statistics == statistics_before
    assert content_digest(list_files(folder)) == content_digest(list_files(whole))
    log = (folder / LOG_FILE).read_text()
    assert f"{checkpoints[-1]} is damaged" in log
    assert f"goes on after step {int(checkpoints[0].name[-8:])};" in log


@pytest.mark.apart
def test_cancelling_ends_every_process_and_another_run_is_refused(
    run: StageRun, tmp_path: Path
) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(metrics: StepMetrics) -> None:
        if metrics.step >= 5 and list((tmp_path / WORK_FOLDER).glob("step-*[0-9]")):
            assert trainers(tmp_path)
            raise Cancelled

    alone = TrainingExecution(micro_batch=1, checkpoint_every_steps=4, precision="fp32")
    with pytest.raises(Cancelled):
        train_stage(tmp_path, run, alone, cancel)
    assert not trainers(tmp_path)

    other = run.model_copy(update={"seed": 4})
    with pytest.raises(TrainingError, match="was made by another run") as refused:
        train_stage(tmp_path, other, alone, lambda _: None)
    assert str(tmp_path / WORK_FOLDER) in refused.value.fix
    assert not trainers(tmp_path)


def test_hands_on_the_weights_and_stops_before_a_step_that_is_not_finite(
    run: StageRun, undisturbed: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    """The next stage, with a learning rate that ruins the model in its first step."""
    wild = STAGE.replace(steps=9, learning_rate=1e30, warmup_steps=2, max_skipped_steps=0)
    initial = ArtifactInput(folder=str(undisturbed[0]), digest="checkpoint of stage nl")
    following = run.model_copy(update={"stage": "multi", "config": wild, "initial": initial})
    with pytest.raises(TrainingError, match=r"stage multi, step 2: .* is (nan|inf)") as stopped:
        train_stage(
            tmp_path, following, TrainingExecution(micro_batch=16, precision="fp32"), lambda _: None
        )
    (first,) = read_metrics(tmp_path / METRICS_FILE)
    assert not (tmp_path / RESULT_FILE).exists()

    split = PackedSplit(Path(run.data.folder), "train")
    with torch.no_grad():
        handed_on = load_checkpoint(undisturbed[0]).loss(
            torch.from_numpy(split.batch(split.shuffled_indices(3, 0, 16)).astype(np.int64)), 1e-4
        )
    assert first.loss == pytest.approx(handed_on.item(), rel=1e-5), (
        "previous weights, on the corpus from its start"
    )
    assert first.learning_rate == 0.5e30, "a new warm-up"
    assert (
        f"sequences {', '.join(map(str, split.shuffled_indices(3, 16, 16)))} of the train split"
        in stopped.value.got
    )


@pytest.mark.apart
def test_the_last_the_best_and_every_so_many_checkpoints_are_kept(
    run: StageRun, undisturbed: tuple[Path, Steps, dict[str, object]], tmp_path: Path
) -> None:
    """From a trained model, with a rising learning rate that makes it worse: the best checkpoint is not among the last."""
    worse = STAGE.replace(warmup_steps=36, learning_rate=0.5)
    initial = ArtifactInput(folder=str(undisturbed[0]), digest="checkpoint of stage nl")
    scores: dict[int, float] = {}

    def stop(metrics: StepMetrics) -> None:
        if metrics.held_out:
            scores[metrics.step] = metrics.held_out["English"]
        if metrics.step >= 29:
            raise InterruptedError

    place = EXECUTION.replace(eval_interval=4, keep_last=1, keep_every_steps=12)
    with pytest.raises(InterruptedError):
        train_stage(
            tmp_path, run.replace(config=worse, initial=initial, stage="multi"), place, stop
        )
    kept = sorted(int(path.name[-8:]) for path in (tmp_path / WORK_FOLDER).glob("step-*[0-9]"))
    best = min((step for step in scores if step <= kept[-1]), key=scores.__getitem__)
    assert best < 12, "it has to be one that would go"
    assert kept[-1] >= 24
    assert kept == sorted({best, 12, 24, kept[-1]} | ({36} if kept[-1] > 36 else set()))


@pytest.mark.apart
def test_a_disk_without_room_for_a_checkpoint(run: StageRun, tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        with pytest.raises(DiskFullError, match=r"[01] MB are free at") as full:
            train_stage(
                tmp_path,
                run,
                TrainingExecution(micro_batch=16, precision="fp32", checkpoint_every_steps=2),
                lambda _: None,
            )
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert "the checkpoint of step 2" in full.value.expected


@pytest.mark.apart
def test_a_rank_that_fails_is_reported_with_the_last_lines_of_its_error(
    run: StageRun, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(run.data.folder, corpus)
    np.full((50, 64), 400, dtype="<u2").tofile(
        corpus / "train" / "00000.bin"
    )  # The model has rows 0 to 319.
    broken = run.model_copy(update={"data": ArtifactInput(folder=str(corpus), digest="broken")})
    with pytest.raises(
        TrainingError, match=r"(?s)rank 0 failed.*IndexError: index out of range"
    ) as failed:
        train_stage(
            tmp_path / "stage",
            broken,
            TrainingExecution(micro_batch=16, precision="fp32"),
            lambda _: None,
        )
    assert LOG_FILE in failed.value.fix
    assert "Traceback" in (tmp_path / "stage" / LOG_FILE).read_text()
