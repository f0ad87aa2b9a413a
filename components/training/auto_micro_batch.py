"""Resolves micro_batch and precision `auto` when a stage starts.

The micro-batch is the largest divisor of a replica's part of the batch whose planned memory fits
into the free memory. If it runs out of memory in the first two steps, the flow restarts the ranks
with a smaller micro-batch, because a process that ran out of memory during a collective cannot
continue. A tenth of a CPU's memory is reserved, because systems kill instead of refusing memory.
A resumed stage uses the values of its earlier attempt, so it ends with the same bits.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from components.core.files import read_json
from components.core.host_memory import free_memory_bytes
from components.training.config import Precision, TrainingExecution
from components.training.deepspeed_config import (
    deepspeed_config,
    effective_zero_stage,
    sequences_per_replica,
)
from components.training.deepspeed_options import LOG_OPTIONS
from components.training.distributed import broadcast_object
from components.training.hardware import Hardware
from components.training.planning.devices import RESERVED_SHARE
from components.training.planning.memory import peak_memory
from components.training.run_file import DEEPSPEED_FILE, RunFile

logger = logging.getLogger(__name__)

_MAX_TOKENS_ON_CPU = 2048
"""Larger micro-batches of several sequences are no faster (measured, starter, a core: 512 tokens
6.8k tokens/s, 1,024 7.8k, 2,048 8.1k, 4,096 7.1k, 8,192 6.2k)."""


def resolve_micro_batch(folder: Path, file: RunFile, hardware: Hardware) -> int:
    """The micro-batch as a number, equal on all ranks, which call this together."""
    if file.execution.micro_batch != "auto":
        return file.execution.micro_batch
    upper_bound = file.micro_batch_upper_bound or float("inf")
    is_first = dist.get_rank() == 0
    previous: int | None = broadcast_object(
        _previous_micro_batch(folder, file, hardware) if is_first else None
    )
    if previous is not None and previous < upper_bound:
        logger.info("micro-batch %d, like the earlier attempt", previous)
        return previous
    free_bytes = _free_bytes(hardware.device)
    fitting = largest_fitting_micro_batch(file, hardware, free_bytes, upper_bound)
    smallest = torch.tensor(fitting, device=hardware.device)
    dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    micro_batch = int(smallest)
    logger.info(
        "micro-batch %d: planned %.2f GB of %.2f GB for this rank",
        micro_batch,
        _planned_bytes(file, hardware, micro_batch) / 1e9,
        free_bytes / 1e9,
    )
    return micro_batch


def resolve_precision(
    folder: Path, execution: TrainingExecution, device: torch.device
) -> Literal["auto"] | Precision:
    """The configured precision; for auto, that of an earlier attempt on such a device, if any."""
    if execution.precision != "auto":
        return execution.precision
    try:
        config = read_json(folder / DEEPSPEED_FILE)
        is_bf16 = config["bf16"]["enabled"]
        was_on_gpu = config["zero_optimization"]["overlap_comm"]
    except (OSError, ValueError, KeyError):
        return "auto"
    if was_on_gpu != (device.type == "cuda") or "fp16" in config:
        return "auto"
    return "bf16" if is_bf16 else "fp32"


def largest_fitting_micro_batch(
    file: RunFile, hardware: Hardware, free_bytes: float, upper_bound: float = float("inf")
) -> int:
    """The largest micro-batch below `upper_bound` whose planned memory fits; 1 if none does."""
    fitting = [
        micro_batch
        for micro_batch in micro_batch_candidates(file, hardware.device.type)
        if micro_batch < upper_bound and _planned_bytes(file, hardware, micro_batch) <= free_bytes
    ]
    return max(fitting, default=1)


def micro_batch_candidates(file: RunFile, device_type: str) -> list[int]:
    """The possible micro-batches: divisors of a replica's part of the batch."""
    num_sequences = _sequences_per_replica(file)
    limit = num_sequences
    if device_type != "cuda":
        limit = max(1, _MAX_TOKENS_ON_CPU // file.run.model.context_length)
    return [size for size in range(1, min(num_sequences, limit) + 1) if num_sequences % size == 0]


def _previous_micro_batch(folder: Path, file: RunFile, hardware: Hardware) -> int | None:
    """The micro-batch of the earlier attempt, if its other settings were the same."""
    try:
        config = read_json(folder / DEEPSPEED_FILE)
        micro_batch = int(config["train_micro_batch_size_per_gpu"])
    except (OSError, ValueError, KeyError):
        return None
    if _sequences_per_replica(file) % micro_batch:
        return None
    expected = deepspeed_config(
        file.run.config,
        file.execution.replace(micro_batch=micro_batch),
        file.run.model.context_length,
        on_gpu=hardware.device.type == "cuda",
        precision=hardware.precision,
    )
    return micro_batch if _without_logs(config) == _without_logs(expected) else None


def _without_logs(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in LOG_OPTIONS}


def _planned_bytes(file: RunFile, hardware: Hardware, micro_batch: int) -> int:
    """Planned memory of a rank, on a CPU including the memory for offloading."""
    layout = file.execution.replace(
        micro_batch=micro_batch,
        precision=hardware.precision,
        zero_stage=effective_zero_stage(file.execution.zero_stage, hardware.precision),
    )
    memory = peak_memory(file.run.model, layout, _sequences_per_replica(file) // micro_batch)
    return memory.total_bytes + (memory.host_bytes if hardware.device.type == "cpu" else 0)


def _sequences_per_replica(file: RunFile) -> int:
    return sequences_per_replica(file.run.config, file.execution, file.run.model.context_length)


def _free_bytes(device: torch.device) -> float:
    """Memory that this rank may use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    free_bytes = free_memory_bytes()
    dist.barrier()  # No rank allocates before all ranks have measured.
    return free_bytes * (1 - RESERVED_SHARE) / hosts.count(socket.gethostname())
