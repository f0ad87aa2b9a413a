"""The process group, DeepSpeed's engine, collectives, and sequence parallelism.

gloo on the CPU, NCCL on GPUs. DeepSpeed's CPU backend compiles a shared-memory extension with the
machine's C++ compiler at start-up (37 s, or a failure without a compiler) for collectives that only
inference uses. An accelerator without extensions avoids this on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
from deepspeed.sequence.layer import DistributedAttention
from deepspeed.utils import groups, safe_get_full_fp32_param
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from components.core.errors import ConfigError, PortInUseError, TrainingError

_RENDEZVOUS_TIMEOUT_S = 300
"""Time for all ranks to start and read their model (assumption: the largest, over a network)."""


class _CpuWithoutExtensions(CPU_Accelerator):  # type: ignore[misc]  # deepspeed has no types
    def create_op_builder(self, op_name: str) -> None:
        """Return None: the extension does not exist."""


def init_process_group(device: torch.device) -> None:
    """Join the process group of the launcher's environment variables.

    Raises:
        PortInUseError: on rank 0; another process listens at the port.
        TrainingError: on other ranks; rank 0 does not answer at the port.
    """
    if device.type == "cpu":
        set_accelerator(_CpuWithoutExtensions())
    else:
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" else "nccl"
    store, rank, world_size = _rendezvous()
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    deepspeed.init_distributed(backend)  # Uses the existing group.


def _rendezvous() -> tuple[Any, int, int]:
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    timeout = timedelta(seconds=_RENDEZVOUS_TIMEOUT_S)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise PortInUseError(
                f"the rendezvous port {port} of {address} is in use",
                expected="a free port",
                fix="end the process that uses it, or choose another port with "
                "--exec training.master_port=NUMBER (or MASTER_PORT, if you set that)",
            ) from error
        raise TrainingError(
            f"rank 0 did not answer at port {port} of {address} within {_RENDEZVOUS_TIMEOUT_S} s",
            expected="a host name that all ranks can reach",
            fix="check in the log that rank 0 is running, and that no firewall blocks the port",
        ) from error
    store.set_timeout(default_pg_timeout)
    return store, rank, world_size


def check_config(config: dict[str, Any]) -> None:
    """Check a configuration before the model is built.

    Raises:
        ConfigError: DeepSpeed refuses a value.
    """
    try:
        DeepSpeedConfig(config)
    except (AssertionError, DeepSpeedConfigError, TypeError, ValueError) as error:
        raise ConfigError(
            f"DeepSpeed refuses its configuration: {error}",
            expected="values that DeepSpeed accepts",
            fix="correct training.deepspeed_config; observed/deepspeed.json of the stage has the "
            "merged configuration",
        ) from error


def build_engine(model: nn.Module, weight_decay: float, config: dict[str, Any]) -> Any:
    """DeepSpeed's engine; `engine(tokens, z_loss=...)` computes the loss of a micro-batch."""
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=_parameter_groups(model.parameters(), weight_decay),
        config=config,
    )
    return engine


def _parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors without. Source: `StageConfig.weight_decay`."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        # With ZeRO 3 the parameter is empty, and `ds_shape` is its full shape.
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (matrices if len(shape) >= 2 else vectors).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def gather_values(values: Tensor) -> list[list[float]]:
    """The values of every rank, by rank. All ranks pass equally many, on their device."""
    values_by_rank = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(values_by_rank, values)
    return [rank_values.tolist() for rank_values in values_by_rank]


def broadcast_object(value: Any) -> Any:
    """The value of rank 0, on every rank."""
    objects = [value]
    dist.broadcast_object_list(objects, src=0)
    return objects[0]


def gather_full_fp32_param(
    parameter: nn.Parameter, shape: torch.Size, *, num_parts: int = 1
) -> Tensor:
    """The full parameter in fp32, gathered from the optimizer's master copy if it is partitioned.

    All ranks call this together.

    Args:
        shape: of the full parameter, before tensor parallelism.
        num_parts: parts along the first axis that tensor parallelism splits separately: 3 for
            queries, keys and values.
    """
    is_full = parameter.dtype == torch.float32 and not hasattr(parameter, "ds_id")
    value: Tensor = parameter.detach() if is_full else safe_get_full_fp32_param(parameter)
    split_axes = [axis for axis, length in enumerate(shape) if value.shape[axis] != length]
    if not split_axes:
        return value
    group = groups.get_tensor_model_parallel_group()
    shards = [torch.empty_like(value) for _ in range(dist.get_world_size(group))]
    dist.all_gather(shards, value.contiguous(), group=group)
    if num_parts == 1:
        return torch.cat(shards, dim=split_axes[0])
    parts = [shard.view(num_parts, -1, *shard.shape[1:]) for shard in shards]
    return torch.cat(parts, dim=1).flatten(0, 1)


class SequenceSlice:
    """Ulysses sequence parallelism (arXiv 2309.14509): this rank's slice of every sequence.

    Implements `components.model.transformer.SequenceShard`. Only attention needs other slices:
    DeepSpeed's `DistributedAttention` exchanges positions for heads before it and back after it.
    For DeepSpeed's engine these ranks are data-parallel: each passes its slice's part of the loss,
    scaled so that the mean over all ranks is the mean over the batch. Therefore ZeRO and
    checkpoints need no special case. Not supported together with tensor parallelism.

    Shapes: B batch, H heads, S positions of the slice, T positions of the sequence, K head dim.
    """

    def __init__(self, num_slices: int, context_length: int, device: torch.device) -> None:
        """All ranks construct it together; the ranks of a replica are consecutive."""
        self.num_slices = num_slices
        replica, slice_index = divmod(dist.get_rank(), num_slices)
        replica_groups = [
            dist.new_group(range(start, start + num_slices))
            for start in range(0, dist.get_world_size(), num_slices)
        ]
        self._attention = DistributedAttention(
            _causal_attention, replica_groups[replica], scatter_idx=2, gather_idx=1
        )
        length = context_length // num_slices
        self.start = slice_index * length
        self.stop = self.start + length
        self.positions = torch.arange(self.start, self.stop, device=device)[None]

    def attend(
        self,
        layer: int,  # noqa: ARG002 - part of the interface
        query_BHSK: Tensor,
        key_BHSK: Tensor,
        value_BHSK: Tensor,
    ) -> Tensor:
        """Causal attention of the slice's queries over the whole sequence, [B, H, S, K]."""
        query_BSHK = query_BHSK.transpose(1, 2).contiguous()
        key_BSHK = key_BHSK.transpose(1, 2).contiguous()
        value_BSHK = value_BHSK.transpose(1, 2).contiguous()
        attended_BSHK: Tensor = self._attention(query_BSHK, key_BSHK, value_BSHK, 0)
        return attended_BSHK.transpose(1, 2)


def _causal_attention(
    query_BTHK: Tensor, key_BTHK: Tensor, value_BTHK: Tensor, *_: Any, **__: Any
) -> Tensor:
    """Attention of some heads over all positions, between DeepSpeed's two exchanges."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query_BTHK, key_BTHK, value_BTHK))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
