"""What auto means on this machine, and what it meant when the stage was begun: a stage that goes on takes the same.

Micro-batch auto is the most sequences that fit. Only divisors of a process' part of the batch are tried: the rest is
accumulated, and a step has the same tokens to the last one. The planned memory (`memory`) against what is free says where
to begin. What does not fit is found in the first two steps, and the flow begins again with the next smaller one: a process
that ran out of memory in the middle of a collective is not to be trusted. On a GPU nothing is kept back; on a CPU a tenth
is, since most systems kill there instead of refusing. A micro-batch decides the order of sums, and precision every product,
so a stage that goes on takes those it had, for the same bits. Not covered: a micro-batch that fits although the plan says
no.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from components.core.files import read_json
from components.core.host_memory import free_memory_bytes
from components.training.config import TrainingExecution
from components.training.deepspeed_config import deepspeed_config, sequences_per_process
from components.training.distributed import broadcast_object
from components.training.hardware import Hardware
from components.training.planning.devices import RESERVED
from components.training.planning.memory import peak_memory
from components.training.planning.parallel_layout import ParallelLayout
from components.training.run_file import DEEPSPEED, RunFile

logger = logging.getLogger(__name__)

_MOST_TOKENS_ON_CPU = 2048
"""Of a micro-batch of several sequences: more are no faster (measured, one core, the starter: 512 tokens 6.8k tokens/s,
1,024 7.8k, 2,048 8.1k, 4,096 7.1k, 8,192 6.2k)."""


def resolve_micro_batch(folder: Path, file: RunFile, hardware: Hardware) -> int:
    """The place's micro-batch, or the one that auto means: the same on all ranks, which call it together."""
    if file.place.micro_batch != "auto":
        return file.place.micro_batch
    below = file.micro_batch_upper_bound or float("inf")
    before: int | None = broadcast_object(
        _before(folder, file, hardware) if dist.get_rank() == 0 else None
    )
    if before is not None and before < below:
        logger.info("micro-batch %d, as before", before)
        return before
    bytes_free = _free_bytes(hardware.device)
    common = torch.tensor(most_that_fits(file, hardware, bytes_free, below), device=hardware.device)
    dist.all_reduce(common, op=dist.ReduceOp.MIN)
    settled = int(common)
    needs = _needs(file, hardware, settled)
    logger.info(
        "micro-batch %d: planned %.2f GB of %.2f GB for this rank",
        settled,
        needs / 1e9,
        bytes_free / 1e9,
    )
    return settled


def resolve_precision(
    folder: Path, place: TrainingExecution, device: torch.device
) -> Literal["auto", "fp32", "bf16"]:
    """The place's precision; where it is auto and the stage was begun on such a device, what it was then."""
    if place.precision != "auto":
        return place.precision
    try:
        config = read_json(folder / DEEPSPEED)
        before, on_gpu = config["bf16"]["enabled"], config["zero_optimization"]["overlap_comm"]
    except (OSError, ValueError, KeyError):
        return "auto"
    return "auto" if on_gpu != (device.type == "cuda") else "bf16" if before else "fp32"


def most_that_fits(
    file: RunFile, hardware: Hardware, bytes_free: float, below: float = float("inf")
) -> int:
    """By the plan of memory; 1 where nothing does, since only the plan says so."""
    possible = [one for one in candidates(file, hardware.device.type) if one < below]
    return max((one for one in possible if _needs(file, hardware, one) <= bytes_free), default=1)


def candidates(file: RunFile, device_type: str) -> list[int]:
    """What a micro-batch can be, in sequences: it divides a process' part of the batch."""
    context_length = file.run.model.context_length
    part = sequences_per_process(file.run.config, file.place, context_length)
    most = part if device_type == "cuda" else max(1, _MOST_TOKENS_ON_CPU // context_length)
    return [one for one in range(1, min(part, most) + 1) if part % one == 0]


def setting_of(place: TrainingExecution, hardware: Hardware, micro_batch: int) -> ParallelLayout:
    """The place as the plan of memory sees it; activations count as kept where only some layers' are computed again."""
    offload = (
        "all"
        if place.offload_parameters != "none"
        else "optimizer"
        if place.offload_optimizer != "none"
        else "none"
    )
    return ParallelLayout.parse(
        {
            "world_size": place.world_size,
            "tensor_parallel": place.tensor_parallel,
            "sequence_parallel": place.sequence_parallel,
            "micro_batch": micro_batch,
            "zero_stage": max(place.zero_stage, int(hardware.precision == "bf16")),
            "precision": hardware.precision,
            "checkpoint_activations": place.activation_checkpoint_interval == 1,
            "offload": offload,
        }
    )


def _before(folder: Path, file: RunFile, hardware: Hardware) -> int | None:
    """The micro-batch with which the stage was begun, where everything else was the same."""
    try:
        config = read_json(folder / DEEPSPEED)
        before = int(config["train_micro_batch_size_per_gpu"])
    except (OSError, ValueError, KeyError):
        return None
    if sequences_per_process(file.run.config, file.place, file.run.model.context_length) % before:
        return None
    bf16, on_gpu = hardware.precision == "bf16", hardware.device.type == "cuda"
    place = file.place.replace(micro_batch=before)
    same = deepspeed_config(
        file.run.config, place, file.run.model.context_length, on_gpu=on_gpu, bf16=bf16
    )
    return before if config == same else None


def _needs(file: RunFile, hardware: Hardware, micro_batch: int) -> int:
    """Bytes of a rank, those in the host's memory included where that is all there is."""
    part = sequences_per_process(file.run.config, file.place, file.run.model.context_length)
    memory = peak_memory(
        file.run.model, setting_of(file.place, hardware, micro_batch), part // micro_batch
    )
    return memory.total_bytes + (memory.host_bytes if hardware.device.type == "cpu" else 0)


def _free_bytes(device: torch.device) -> float:
    """What this rank may take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    free = free_memory_bytes()
    dist.barrier()  # No rank begins to take memory before all have looked.
    return free * (1 - RESERVED) / hosts.count(socket.gethostname())
