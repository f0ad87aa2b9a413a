"""A folder of fetched files with an upper bound for its size, shared by the processes of a host.

An exclusive lock is held while fetching; reading cached files takes no lock. So ranks share fetched
files, space is freed before anything is written, and the next holder of the lock removes leftovers
of a killed process. Fetched files are read before the lock is released, so no rank can evict them
earlier.

Eviction removes the least recently used file first; the modification time is the time of last use.
The total size is stored in a file and recounted only when the bound is reached: it may be too high
(after files were removed by hand), never too low. The folder itself can be removed at any time.

Ranges of shards have no digest, so only this user may write to the folder.

Limits: hosts must not share a folder over a network, and the bound covers file contents only. A
file that is evicted while another rank reads it occupies the disk until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from components.core.files import atomic_write_path, remove_unfinished, wrap_disk_full, write_atomic
from components.core.paths import create_private_folder

_MAX_CONCURRENT_FETCHES = 32
"""Files fetched at a time under a lock, to hide a store's latency (assumption)."""
_POLL_S = 0.005
"""Poll interval of the lock: well below the 20 ms of a request (assumption)."""
_MIN_EVICTED_SHARE = 10
"""An eviction frees at least 1/10 of the bound, so that not every fetch scans the folder."""


class Block(NamedTuple):
    """A file of the cache."""

    name: str
    """Of the file. It must identify the content."""
    size_bytes: int


Fetch = Callable[[Block, Path], None]
"""Writes exactly the block's bytes to a path, or raises. Called from several threads at once."""
Use = Callable[[Block, int], None]
"""Reads from the file descriptor of a block."""


class BlockCache:
    """The files in a folder that processes and threads of a host may share."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open or create a cache; evict files of a cache that exceeds the bound.

        Raises:
            ConfigError: other users can change the folder.
            DiskFullError: the folder cannot be created.
        """
        self._folder = folder
        self._blocks = folder / "blocks"
        self._max_bytes = max_bytes
        self._lock = FileLock(folder / "lock", poll_interval=_POLL_S)
        self._size_file = folder / "used"
        with wrap_disk_full(f"opening the cache {folder}"):
            self._create_folders()
            with self._lock:
                self._reserve(0)

    def _create_folders(self) -> None:
        create_private_folder(
            self._folder,
            "cached parts of corpora",
            "set cache_folder of training.streaming to another folder, or correct the owner and "
            "the mode of this folder",
            others_may_read=True,
        )
        self._blocks.mkdir(exist_ok=True)

    def read(self, blocks: Sequence[Block], fetch: Fetch, use: Use) -> None:
        """Call `use` once for each block, in any order; fetch missing blocks first.

        Args:
            blocks: without repetition.
            fetch: see `Fetch`.
            use: see `Use`.

        Raises:
            DiskFullError: the disk is full although the cache is below its bound.
            ValueError: a block is larger than the cache.
        """
        for block in blocks:
            if block.size_bytes > self._max_bytes:
                raise ValueError(f"{block} exceeds the cache's {self._max_bytes:,} bytes")
        missing = self._use_cached(blocks, use)
        while missing:
            with wrap_disk_full(f"fetching into the cache {self._folder}"):
                self._create_folders()
                with self._lock:
                    # Another rank may have fetched some blocks meanwhile.
                    missing = self._use_cached(missing, use)
                    group = self._next_group(missing)
                    self._fetch(group, fetch)
                    # Misses again only files that were removed right after they were fetched.
                    missing = self._use_cached(group, use) + missing[len(group) :]

    def _use_cached(self, blocks: Sequence[Block], use: Use) -> list[Block]:
        """Use the cached blocks. Returns the missing blocks."""
        missing = []
        for block in blocks:
            descriptor = self._open(block)
            if descriptor is None:
                missing.append(block)
                continue
            try:
                use(block, descriptor)
            finally:
                os.close(descriptor)
        return missing

    def _open(self, block: Block) -> int | None:
        path = self._blocks / block.name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != block.size_bytes:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        now_ns = time.time_ns()
        os.utime(descriptor, ns=(now_ns, now_ns))
        return descriptor

    def _next_group(self, missing: Sequence[Block]) -> Sequence[Block]:
        """The first blocks that can be fetched concurrently and fit into the cache together."""
        group = missing[:_MAX_CONCURRENT_FETCHES]
        while sum(block.size_bytes for block in group) > self._max_bytes:
            group = group[:-1]
        return group

    def _fetch(self, blocks: Sequence[Block], fetch: Fetch) -> None:
        if not blocks:
            return
        self._reserve(sum(block.size_bytes for block in blocks))
        with ExitStack() as stack:
            targets = [atomic_write_path(self._blocks / block.name) for block in blocks]
            paths = [stack.enter_context(target) for target in targets]
            with ThreadPoolExecutor(len(blocks), thread_name_prefix="fetch") as pool:
                # `map` raises an error only when its result is taken.
                list(pool.map(fetch, blocks, paths))

    # -- the bound -----------------------------------------------------------------------------

    def _reserve(self, size_bytes: int) -> None:
        """Count bytes before they are written, so that a kill leaves a total that is too high."""
        used = self._read_size()
        if used is None or used + size_bytes > self._max_bytes:
            freed = max(size_bytes, self._max_bytes // _MIN_EVICTED_SHARE)
            used = self._evict(self._max_bytes - freed)
        write_atomic(self._size_file, str(used + size_bytes))

    def _read_size(self) -> int | None:
        try:
            return int(self._size_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _evict(self, target_bytes: int) -> int:
        """Remove least recently used files down to `target_bytes`. Returns the remaining size."""
        remove_unfinished(self._blocks)
        with os.scandir(self._blocks) as entries:
            stats = [(Path(entry.path), entry.stat()) for entry in entries if entry.is_file()]
        files = sorted((stat.st_mtime_ns, path, stat.st_size) for path, stat in stats)
        used = sum(size_bytes for *_, size_bytes in files)
        for _, path, size_bytes in files:
            if used <= target_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size_bytes
        return used
