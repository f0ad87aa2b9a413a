"""Device, precision and peak FLOP/s of a rank, measured.

Precision and peak are measured rather than looked up: a processor may multiply bf16 a hundred times
slower than fp32 (0.3 against 140 GFLOP/s measured), and cores that share a socket, a virtual
machine or a power budget do not reach the data sheet together. MFU is that of PaLM (arXiv
2204.02311, appendix B), relative to this peak of large matrix products. The peak is the fastest of
many products, because other processes slow down most of them on a busy machine. A faster step
raises the peak (`_StepTimer` of the trainer), so MFU never exceeds 100 %.
"""

from __future__ import annotations

import math
import resource
import time
from typing import NamedTuple

import torch
import torch.distributed as dist

from components.core.errors import ConfigError
from components.training.config import Precision, TrainingExecution
from components.training.distributed import broadcast_object

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MIN_BF16_SPEEDUP = 1.3
"""bf16 is chosen above this speedup, because it costs accuracy (assumption)."""
_PROBE_S = 0.5
"""Duration of the peak probe (assumption: some of its products are not interrupted)."""
_PROBE_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the probe's square matrices (assumption: on the CPU two of 4 MB exceed the caches)."""
_SMALL_PROBE_SIZE = 256
"""Rows of the bf16 probe on a CPU: takes 0.1 s even without bf16 hardware."""


class Hardware(NamedTuple):
    """The hardware that all ranks of a stage use."""

    device: torch.device
    precision: Precision
    peak_flops: float
    """Sum of the peaks of all ranks in FLOP/s, measured at the same time, in `precision`."""


def measure_hardware(execution: TrainingExecution, device: torch.device) -> Hardware:
    """Measure the machine. All ranks call this together and get the same precision."""
    precision = broadcast_object(select_precision(execution, device))
    dist.barrier()
    flops = _measure_flops(device, _DTYPES[precision], _PROBE_SIZES[device.type], _PROBE_S)
    total_flops = torch.tensor(flops, dtype=torch.float64, device=device)
    dist.all_reduce(total_flops)
    return Hardware(device, precision, total_flops.item())


def select_precision(execution: TrainingExecution, device: torch.device) -> Precision:
    """The configured precision; for auto, bf16 if it is clearly faster on this machine."""
    if execution.precision != "auto":
        return execution.precision
    return "bf16" if _is_bf16_faster(device) else "fp32"


def select_device(execution: TrainingExecution, local_rank: int) -> torch.device:
    """The device of a rank.

    Raises:
        ConfigError: cuda is configured and torch has no GPU, or the host has more ranks than GPUs.
    """
    if not execution.uses_gpu:
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    if not num_gpus:
        raise ConfigError(
            "this machine has no GPU that torch can use",
            expected="one GPU per rank",
            fix="set device to cpu",
        )
    if local_rank >= num_gpus:
        raise ConfigError(
            f"rank {local_rank} of this host has no GPU: the host has {num_gpus}",
            expected="one GPU per rank",
            fix=f"set world_size to {num_gpus}, or device to cpu",
        )
    return torch.device("cuda", local_rank)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this rank: tensors on a GPU, otherwise the resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB.


def _is_bf16_faster(device: torch.device) -> bool:
    size = _PROBE_SIZES["cuda"] if device.type == "cuda" else _SMALL_PROBE_SIZE
    fp32_flops = _measure_flops(device, torch.float32, size, _PROBE_S / 10)
    bf16_flops = _measure_flops(device, torch.bfloat16, size, _PROBE_S / 10)
    return bf16_flops > _MIN_BF16_SPEEDUP * fp32_flops


def _measure_flops(device: torch.device, dtype: torch.dtype, size: int, duration_s: float) -> float:
    """Return the FLOP/s of the fastest matrix product."""
    matrix = torch.full((size, size), 0.5, device=device, dtype=dtype)
    product = torch.empty_like(matrix)
    torch.mm(matrix, matrix, out=product)
    _synchronize(device)
    start_s = last_s = time.perf_counter()
    fastest_s = math.inf
    while last_s - start_s < duration_s:
        torch.mm(matrix, matrix, out=product)
        _synchronize(device)
        now_s = time.perf_counter()
        fastest_s = min(fastest_s, now_s - last_s)
        last_s = now_s
    return 2 * size**3 / fastest_s


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
