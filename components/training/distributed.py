"""The process group of the ranks, and DeepSpeed's engine on it, on the CPU with gloo.

DeepSpeed compiles a shared-memory extension with the machine's C++ compiler when its CPU back-end starts (37 s, and a
failure where there is no compiler), for collectives that only inference uses. Its accelerator is the documented place to
say which extensions exist, so an accelerator that has none is installed instead. Not covered: other accelerators.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import nn

from components.training.config import StageConfig, TrainingPlace
from components.training.deepspeed_config import deepspeed_config


class _CpuWithoutExtensions(CPU_Accelerator):  # type: ignore[misc]  # deepspeed has no types
    def create_op_builder(self, op_name: str) -> None:
        """No extension is ever compiled."""


def join_group() -> None:
    """Join the process group that the launcher's environment variables describe."""
    set_accelerator(_CpuWithoutExtensions())
    deepspeed.init_distributed("gloo")


def build_engine(model: nn.Module, stage: StageConfig, place: TrainingPlace, context_length: int) -> Any:
    """DeepSpeed's engine over the model, with AdamW; `engine(tokens, z_loss=...)` is the loss of a micro-batch."""
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=parameter_groups(model.parameters(), stage.weight_decay),
        config=deepspeed_config(stage, place, context_length),
    )
    return engine


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors (biases, LayerNorm gains) without. Source: see `StageConfig.weight_decay`."""
    parameters = list(parameters)
    return [
        {"params": [one for one in parameters if one.dim() >= 2], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.dim() < 2], "weight_decay": 0.0},
    ]


def gather_values(values: list[float]) -> list[list[float]]:
    """The values of every rank, in the order of the ranks; all ranks give equally many."""
    own = torch.tensor(values, dtype=torch.float64)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return [one.tolist() for one in every]


def from_first_rank(value: Any) -> Any:
    """What rank 0 passes, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
