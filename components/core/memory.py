"""Memory that is freed stays with the process for a while, where the C library can be told so.

Work in batches allocates and frees the same large arrays again and again. By default glibc gives such an array back to the
system at once, and the next one is mapped and zeroed page by page: an eighth of the processor time of data preparation
(measured, docs/figures.md). Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes

# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap that is kept (assumption: what a few batches of 8 MB need at their peak)."""
_MAPPED_BYTES = 64 << 20
"""From this size on, an array still has a mapping of its own, which goes back at once."""


def keep_freed_memory() -> bool:
    """Ask for it, for the whole process; returns whether there was somebody to ask."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES), mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)])
