"""The device of a rank."""

from __future__ import annotations

import pytest
import torch

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from components.training.hardware import select_device


def test_cuda_without_a_gpu_is_refused() -> None:
    assert select_device(TrainingExecution(device="cpu"), 3) == torch.device("cpu")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no GPU that torch can use"):
        select_device(TrainingExecution(device="cuda"), 0)
