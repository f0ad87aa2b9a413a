"""The device of a rank, and the peak that MFU refers to."""

from __future__ import annotations

import pytest
import torch
from fixtures.training import MODEL, STAGE

from components.core.errors import ConfigError
from components.training.budget import StageClock, Usage
from components.training.config import Budget, TrainingExecution
from components.training.hardware import select_device
from components.training.run_file import ArtifactInput, StageRun
from components.training.trainer import _StepResult, _StepTimer, _TimedStep


def test_cuda_without_a_gpu_is_refused() -> None:
    assert select_device(TrainingExecution(device="cpu"), 3) == torch.device("cpu")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no GPU that torch can use"):
        select_device(TrainingExecution(device="cuda"), 0)


def test_a_step_that_is_faster_than_the_measured_peak_raises_the_peak() -> None:
    artifact = ArtifactInput(folder="/none", digest="none")
    run = StageRun(stage="nl", config=STAGE, model=MODEL, seed=0, data=artifact, tokenizer=artifact)
    result = _StepResult(1.0, 0.5, False, None, None, 1, False, False)
    step = _TimedStep(result, 0.0, 0.0, None, 0.0)
    for measured_peak in (1.0, 1e30):
        clock = StageClock(Budget(), 1, Usage(), Usage())
        timer = _StepTimer(run, measured_peak, steps_done=0, clock=clock)
        metrics = [timer.measure(step) for _ in range(2)]
        rates = [row.tokens_per_s * run.model.flops_per_token for row in metrics]
        peaks = [max(measured_peak, rates[0]), max(measured_peak, *rates)]
        assert [row.peak_flops for row in metrics] == peaks
        assert [row.mfu for row in metrics] == [rates[0] / peaks[0], rates[1] / peaks[1]]
        assert all(0 < row.mfu <= 1 for row in metrics)
