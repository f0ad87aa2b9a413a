"""Memory limits of this process, and tuning of glibc's allocator.

Control groups limit the memory of containers, cluster jobs and services, and the kernel kills
processes beyond the limit. So the free memory is the minimum over the machine and all control
groups above this process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import psutil

# <malloc.h> of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_TRIM_BYTES = 256 << 20
"""Free memory at the end of the heap that is not returned (assumption: the peak of a few batches of
8 MB)."""
_MMAP_BYTES = 64 << 20
"""Allocations from this size on have their own mapping, which is returned at once."""

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_OF_PROCESS = Path("/proc/self/cgroup")

_V2_FILES = ("memory.max", "memory.current", "inactive_file")
_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory_bytes(
    cgroup_root: Path = _CGROUP_ROOT, cgroup_of_process: Path = _CGROUP_OF_PROCESS
) -> int:
    """Return the bytes that this process may still allocate, on the machine and within its control
    groups.

    Args:
        cgroup_root: mount point of the control groups, version 2 or 1.
        cgroup_of_process: the file that names the groups of this process.
    """
    available: int = psutil.virtual_memory().available
    return max(0, min([available, *_free_in_groups(cgroup_root, cgroup_of_process)]))


def _free_in_groups(root: Path, of_process: Path) -> Iterator[int]:
    """Yield the free bytes of every limited group from this process up to the root.

    Inside a container the group of the container is the mounted root, whatever `of_process` names.
    """
    try:
        lines = of_process.read_text(encoding="utf-8").splitlines()
    except OSError:  # Not Linux.
        return
    fields = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    paths = {controllers: path for _, controllers, path in fields}
    for mount, path, names in (
        (root, paths.get(""), _V2_FILES),
        (root / "memory", paths.get("memory"), _V1_FILES),
    ):
        deepest = mount / (path or "/").strip("/")
        for group in (deepest, *deepest.parents):
            if group.is_relative_to(mount):
                yield from _free_in_group(group, *names)


def _free_in_group(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        statistics = dict(line.split(" ", 1) for line in lines)
        # The page cache counts as used but is reclaimed on demand.
        cache_bytes = int(statistics.get(reclaimable, 0))
        used_bytes = int((group / usage).read_text(encoding="ascii")) - cache_bytes
        yield int((group / limit).read_text(encoding="ascii")) - used_bytes
    except (OSError, ValueError):  # No such group, or its limit is "max".
        return


def tune_malloc_thresholds() -> bool:
    """Let glibc reuse large freed arrays; returns False with another C library.

    By default glibc returns such arrays at once, and the next one is mapped and zeroed page by
    page: an eighth of the processor time of data preparation (docs/figures.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES), mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)])
