"""What the machine can do at most: the denominator of MFU (model FLOPs utilisation, PaLM, arXiv 2204.02311, appendix B).

Measured rather than read from a data sheet: cores that share a socket, a virtual machine or a power budget do not reach
the sheet's figure together. It tells how far the loop is from large fp32 matrix products, not from the silicon.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

_PROBE_SIZE = 1024
"""Rows of the square matrices of the probe: three of 4 MB, larger than the caches of one core (assumption)."""
_PROBE_S = 0.5
"""Seconds the probe runs; measured on two cores: repeats within 5 %."""


def measured_peak_flops(num_threads: int) -> float:
    """FLOP/s of all ranks together, each multiplying fp32 matrices at the same time with `num_threads` threads."""
    torch.set_num_threads(num_threads)
    matrix = torch.full((_PROBE_SIZE, _PROBE_SIZE), 0.5)
    result = torch.empty_like(matrix)
    torch.mm(matrix, matrix, out=result)
    dist.barrier()
    started, count = time.monotonic(), 0
    while time.monotonic() - started < _PROBE_S:
        torch.mm(matrix, matrix, out=result)
        count += 1
    rate = torch.tensor(count * 2 * _PROBE_SIZE**3 / (time.monotonic() - started), dtype=torch.float64)
    dist.all_reduce(rate)
    return rate.item()
