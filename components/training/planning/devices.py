"""Devices to plan for, with their published specifications.

Peaks are dense (no structured sparsity), fp32 without TF32, as PyTorch computes by default. Memory
is the published size in decimal gigabytes, which is slightly less than the real size; bandwidth is
that of this memory. Not covered: the network between devices, prices.
"""

from __future__ import annotations

from components.core.config import Config
from components.core.errors import ConfigError

_GB = 1_000_000_000

RESERVED_SHARE = 0.10
"""Share of the memory for the CUDA context, NCCL's buffers, kernel workspaces and fragmentation.
Assumption."""


class Device(Config):
    """A device."""

    name: str
    title: str
    peak_flops: dict[str, float]
    """FLOP/s by precision."""
    memory_bytes: int
    bytes_per_s: float
    """Bandwidth of the memory."""
    mfu: float
    """Default share of the peak that training reaches."""
    mfu_source: str

    @property
    def usable_bytes(self) -> int:
        """Memory for tensors."""
        return round(self.memory_bytes * (1 - RESERVED_SHARE))


_ASSUMED_MFU = 0.40
"""Assumption. For comparison: 46 % at 540B on TPU v4 (PaLM, arXiv 2204.02311, table 3)."""


def _gpu(
    name: str, title: str, *, bf16: float, fp32: float, memory_gb: int, tb_per_s: float
) -> Device:
    return Device(
        name=name,
        title=title,
        peak_flops={"bf16": bf16, "fp16": bf16, "fp32": fp32},
        memory_bytes=memory_gb * _GB,
        bytes_per_s=tb_per_s * 1e12,
        mfu=_ASSUMED_MFU,
        mfu_source="an assumption: nothing was measured on this device",
    )


_ALL_DEVICES = (
    # NVIDIA H100 data sheet, SXM5: 1,979 TFLOP/s with sparsity, so 989.5 dense; 67 in fp32;
    # 3.35 TB/s.
    _gpu("h100", "NVIDIA H100 SXM 80 GB", bf16=989.5e12, fp32=67e12, memory_gb=80, tb_per_s=3.35),
    # NVIDIA H200 data sheet, SXM: the H100's compute with 141 GB at 4.8 TB/s.
    _gpu("h200", "NVIDIA H200 SXM 141 GB", bf16=989.5e12, fp32=67e12, memory_gb=141, tb_per_s=4.8),
    # NVIDIA A100 data sheet: 312 TFLOP/s dense, 19.5 in fp32; two sizes of memory, 2,039 and 1,555
    # GB/s (SXM).
    _gpu("a100-80", "NVIDIA A100 80 GB", bf16=312e12, fp32=19.5e12, memory_gb=80, tb_per_s=2.039),
    _gpu("a100-40", "NVIDIA A100 40 GB", bf16=312e12, fp32=19.5e12, memory_gb=40, tb_per_s=1.555),
    # NVIDIA L40S data sheet: 362.05 TFLOP/s dense, 91.6 in fp32; 864 GB/s.
    _gpu("l40s", "NVIDIA L40S 48 GB", bf16=362.05e12, fp32=91.6e12, memory_gb=48, tb_per_s=0.864),
    # A core of the two of docs/figures.md, with half of the 24 GB: 140 GFLOP/s in fp32, 0.3 in
    # bf16 without AVX-512 or AMX, 27 to 33 % MFU in training (all measured). Attention of a layer
    # over 290 MB of keys and values takes 60 ms on both (decision 0008): 2.4 GB/s a core.
    Device(
        name="cpu",
        title="one core with 12 GB",
        peak_flops={"fp32": 140e9, "bf16": 0.3e9},
        memory_bytes=12 * _GB,
        bytes_per_s=2.4e9,
        mfu=0.30,
        mfu_source="measured on the machine of docs/figures.md",
    ),
)
DEVICES = {device.name: device for device in _ALL_DEVICES}


def find_device(name: str) -> Device:
    """The device with a name.

    Raises:
        ConfigError: no device has the name.
    """
    if name not in DEVICES:
        raise ConfigError(
            f"there is no device {name!r}",
            expected=f"one of {', '.join(DEVICES)}",
            fix="choose one of these",
        )
    return DEVICES[name]
