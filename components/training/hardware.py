"""What a rank computes on, measured: device, precision, and the peak that utilisation is told against.

Measured rather than read from a data sheet or a version number: a processor may accept bf16 and multiply it a hundred times
slower than fp32 (0.3 against 140 GFLOP/s was seen), and cores that share a socket, a virtual machine or a power budget do
not reach the sheet's figure together. MFU is the model FLOPs utilisation of PaLM (arXiv 2204.02311, appendix B); against
this peak it tells how far the loop is from large matrix products, not from the silicon.
"""

from __future__ import annotations

import resource
import time
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from components.training.distributed import broadcast_object

Precision = Literal["fp32", "bf16"]

_CLEARLY_FASTER = 1.3
"""bf16 has to be so many times as fast, since it costs accuracy (assumption)."""
_PROBE_S = 0.5
"""Seconds the probe of the peak runs; measured on two cores: repeats within 5 %."""
_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the square matrices of the probe (assumption: on the CPU three of 4 MB, more than the caches of a core hold)."""
_SMALL_SIZE = 256
"""Rows where bf16 is tried on a CPU: a tenth of a second even where it is not multiplied in hardware."""


class Hardware(NamedTuple):
    """What all ranks of a stage compute on."""

    device: torch.device
    precision: Precision
    peak_flops: float
    """FLOP/s of all ranks together, each multiplying matrices of that precision at the same time."""


def measured_hardware(place: TrainingExecution, device: torch.device) -> Hardware:
    """Probe the machine; all ranks call it together and get the same precision."""
    precision = broadcast_object(chosen_precision(place, device))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    dist.barrier()
    rate = torch.tensor(
        _flops(device, dtype, _SIZES[device.type], _PROBE_S), dtype=torch.float64, device=device
    )
    dist.all_reduce(rate)
    return Hardware(device, precision, rate.item())


def chosen_precision(place: TrainingExecution, device: torch.device) -> Precision:
    """The place's, or what a probe of this process finds; ranks agree on the first one's."""
    if place.precision != "auto":
        return place.precision
    return "bf16" if _bf16_is_faster(device) else "fp32"


def chosen_device(place: TrainingExecution, local_rank: int) -> torch.device:
    """The rank's device.

    Raises:
        ConfigError: cuda is asked for and there is none, or there are fewer GPUs than ranks on this host.
    """
    num_gpus = torch.cuda.device_count() if place.uses_gpu else 0
    if place.uses_gpu and not num_gpus:
        raise ConfigError(
            "this machine has no GPU that torch can use",
            expected="one a rank",
            fix="set device to cpu",
        )
    if not num_gpus:
        return torch.device("cpu")
    if local_rank >= num_gpus:
        raise ConfigError(
            f"rank {local_rank} of this host has no GPU of its own: there are {num_gpus}",
            expected="one GPU a rank",
            fix=f"set world_size to {num_gpus}, or device to cpu",
        )
    return torch.device("cuda", local_rank)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this rank has held: of the GPU's memory in tensors, or of the host's in the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB.


def _bf16_is_faster(device: torch.device) -> bool:
    size = _SIZES["cuda"] if device.type == "cuda" else _SMALL_SIZE
    fp32, bf16 = (
        _flops(device, dtype, size, _PROBE_S / 10) for dtype in (torch.float32, torch.bfloat16)
    )
    return bf16 > _CLEARLY_FASTER * fp32


def _flops(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    matrix = torch.full((size, size), 0.5, device=device, dtype=dtype)
    result = torch.empty_like(matrix)
    torch.mm(matrix, matrix, out=result)
    _finish(device)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        torch.mm(matrix, matrix, out=result)
        _finish(device)
        count += 1
    return count * 2 * size**3 / (time.monotonic() - started)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
