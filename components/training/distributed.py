"""The process group of the ranks, and DeepSpeed's engine on it: gloo on the CPU, NCCL on GPUs.

DeepSpeed compiles a shared-memory extension with the machine's C++ compiler when its CPU back-end starts (37 s, and a
failure where there is no compiler), for collectives that only inference uses. Its accelerator is the documented place to
say which extensions exist, so on the CPU an accelerator that has none is installed instead. Not covered: other devices.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.utils import groups, safe_get_full_fp32_param
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from components.core.errors import PortInUseError, TrainingError

_RENDEZVOUS_TIMEOUT_S = 300
"""For all ranks to be started and to have read their model (assumption: the largest, over a network)."""


class _CpuWithoutExtensions(CPU_Accelerator):  # type: ignore[misc]  # deepspeed has no types
    def create_op_builder(self, op_name: str) -> None:
        """No extension is ever compiled."""


def init_process_group(device: torch.device) -> None:
    """Join the process group that the launcher's environment variables describe.

    Raises:
        PortTaken: on rank 0; somebody else listens at the port.
        TrainingError: on the other ranks; the first one's host did not answer there.
    """
    if device.type == "cpu":
        set_accelerator(_CpuWithoutExtensions())
    else:
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" else "nccl"
    store, rank, world_size = _rendezvous()
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    deepspeed.init_distributed(backend)  # It takes the group that is there.


def _rendezvous() -> tuple[Any, int, int]:
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        store, rank, world_size = next(
            rendezvous("env://", timeout=timedelta(seconds=_RENDEZVOUS_TIMEOUT_S))
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise PortInUseError(
                f"port {port} of {address}, where the ranks were to meet, is taken",
                expected="a port that nobody listens at",
                fix="end what uses it, or choose another: --exec training.master_port=NUMBER (MASTER_PORT, if you set that)",
            ) from error
        raise TrainingError(
            f"rank 0 did not answer at port {port} of {address} within {_RENDEZVOUS_TIMEOUT_S} s",
            expected="a host that all ranks can reach by that name",
            fix="see in the log whether rank 0 runs, and whether a firewall stands between the hosts",
        ) from error
    store.set_timeout(default_pg_timeout)
    return store, rank, world_size


def build_engine(model: nn.Module, weight_decay: float, config: dict[str, Any]) -> Any:
    """DeepSpeed's engine over the model; `engine(tokens, z_loss=...)` is the loss of a micro-batch."""
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=parameter_groups(model.parameters(), weight_decay),
        config=config,
    )
    return engine


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors (biases, LayerNorm gains) without. Source: see `StageConfig.weight_decay`."""
    parameters = list(parameters)
    return [
        {
            "params": [one for one in parameters if _num_axes(one) >= 2],
            "weight_decay": weight_decay,
        },
        {"params": [one for one in parameters if _num_axes(one) < 2], "weight_decay": 0.0},
    ]


def _num_axes(parameter: nn.Parameter) -> int:
    """Of the whole parameter; ZeRO 3 leaves an empty one in its place, and the shape beside it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def gather_values(own: torch.Tensor) -> list[list[float]]:
    """The values of every rank, in the order of the ranks; all ranks give equally many, on their device."""
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return [one.tolist() for one in every]


def broadcast_object(value: Any) -> Any:
    """What rank 0 passes, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_full_fp32_param(
    parameter: nn.Parameter, shape: torch.Size, *, num_parts: int = 1
) -> torch.Tensor:
    """A parameter in fp32, put together from all ranks' parts of the optimizer's copy where it is not whole in fp32 itself.

    All ranks call it together.

    Args:
        shape: of the whole parameter, before tensor parallelism cut it.
        num_parts: that lie one after the other along the first axis, each cut by itself: 3 for queries, keys and values.
    """
    is_whole = parameter.dtype == torch.float32 and not hasattr(parameter, "ds_id")
    value: torch.Tensor = parameter.detach() if is_whole else safe_get_full_fp32_param(parameter)
    cut_axis = next(
        (axis for axis, length in enumerate(shape) if value.shape[axis] != length), None
    )
    if cut_axis is None:
        return value
    group = groups.get_tensor_model_parallel_group()
    pieces = [torch.empty_like(value) for _ in range(dist.get_world_size(group))]
    dist.all_gather(pieces, value.contiguous(), group=group)
    if num_parts > 1:
        return torch.cat(
            [one.view(num_parts, -1, *one.shape[1:]) for one in pieces], dim=1
        ).flatten(0, 1)
    return torch.cat(pieces, dim=cut_axis)
