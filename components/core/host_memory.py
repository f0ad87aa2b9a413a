"""How much memory a process here may still take; and that what it frees stays with it for a while.

What is free on the machine is not what a container, a job of a cluster or a service may take: control groups limit those,
and the system kills what goes beyond. So the least of the machine and of all groups above this process counts.

Work in batches allocates and frees the same large arrays again and again. By default glibc gives such an array back to the
system at once, and the next one is mapped and zeroed page by page: an eighth of the processor time of data preparation
(measured, docs/figures.md). Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import psutil

# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap that is kept (assumption: what a few batches of 8 MB need at their peak)."""
_MAPPED_BYTES = 64 << 20
"""From this size on, an array still has a mapping of its own, which goes back at once."""

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory_bytes(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int:
    """Bytes that this process may still take: free on the machine, and within the limits of its control groups.

    Args:
        groups: where control groups are mounted, of version 2 or 1.
        own: the file that names this process' groups.
    """
    available: int = psutil.virtual_memory().available
    return max(0, min([available, *_free_in_groups(groups, own)]))


def _free_in_groups(groups: Path, own: Path) -> Iterator[int]:
    """What is left in every group above this process that has a limit.

    In a container its own group is the root of what is mounted, whatever `own` says, so that is always looked at.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # No Linux.
        return
    paths = {one.split(":", 2)[1]: one.split(":", 2)[2] for one in lines if one.count(":") >= 2}
    names = ("memory.max", "memory.current", "inactive_file")
    names_v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for mounted, path, of_version in (
        (groups, paths.get(""), names),
        (groups / "memory", paths.get("memory"), names_v1),
    ):
        deepest = mounted / (path or "/").strip("/")
        for group in (deepest, *deepest.parents):
            if group.is_relative_to(mounted):
                yield from _free_in_group(group, *of_version)


def _free_in_group(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    try:
        stat = dict(
            line.split(" ", 1)
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        # What was read from files counts as used, and is given back at need.
        used = int((group / usage).read_text(encoding="ascii")) - int(stat.get(reclaimable, 0))
        yield int((group / limit).read_text(encoding="ascii")) - used
    except (OSError, ValueError):  # There is no such group here, or its limit is "max".
        return


def tune_malloc_thresholds() -> bool:
    """Ask for it, for the whole process; returns whether there was somebody to ask."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES), mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)])
