"""A folder of fetched files that never holds more than a stated number of bytes.

Design decision: one lock for the folder, held by whoever fetches. So ranks that share a host share what one of them has
fetched; room is made before anything is written, and a file that a killed process left half written is known to be junk by
whoever holds the lock next. Reading what is there takes no lock. A turn at fetching is short: a few files at once, and what
was fetched is read before the lock is given up, so no other rank can take the room away in between.

What was used least recently goes first; a file's modification time is the time of its last use. The sum of sizes is kept
beside the folder and counted anew only when the bound is reached. It is never too low, only too high where files were
removed by hand. Lock and sum lie beside the folder, so the folder itself can be removed at any time: what is wanted of it is
fetched again. Not covered: hosts that share a folder over a network, and the room that a file system takes besides the bytes
of files (a file that goes while another rank reads it keeps its bytes until that read is over).
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

_AT_ONCE = 32
"""Files fetched concurrently in one turn: a store's latency is waited for once, not 32 times (assumption)."""
_POLL_S = 0.005
"""How often a rank looks whether it is its turn: well below what a turn takes, some 20 ms for a request (assumption)."""
_SPARE = 10
"""When room is made, it is at least one tenth of the bound, so that not every fetch looks through the folder."""


class Block(NamedTuple):
    """A file of the cache."""

    name: str
    """Of the file. It has to say everything that decides the content."""
    size_bytes: int


Fetch = Callable[[Block, Path], None]
"""Writes exactly the block's bytes to a path, or raises. Called from several threads at once."""
Use = Callable[[Block, int], None]
"""Reads from the file descriptor of a block."""


class BlockCache:
    """The files in one folder. Any number of processes and threads of one host may use the same folder."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open a cache, made where it does not exist; one that holds more is cut down.

        Raises:
            StorageFull: not even an empty cache can be made.
        """
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = FileLock(f"{folder}.lock", poll_interval=_POLL_S)
        self._used = Path(f"{folder}.used")
        with wrap_disk_full(f"opening the cache {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._make_room(0)

    def read(self, blocks: Sequence[Block], fetch: Fetch, use: Use) -> None:
        """Call `use` once for each block, in any order; those that are not here are fetched first.

        Args:
            blocks: without repetition.
            fetch: see `Fetch`.
            use: see `Use`.

        Raises:
            StorageFull: the disk is full, though the cache's bound is not reached.
            ValueError: a block is larger than the cache.
        """
        if too_large := [block for block in blocks if block.size_bytes > self._max_bytes]:
            raise ValueError(
                f"{too_large[0]} cannot be held by a cache of {self._max_bytes:,} bytes"
            )
        missing = self._use_present(blocks, use)
        while missing:
            with wrap_disk_full(f"fetching into the cache {self._folder}"):
                self._folder.mkdir(parents=True, exist_ok=True)
                with self._lock:
                    missing = self._use_present(
                        missing, use
                    )  # Another rank may have fetched some meanwhile.
                    turn = self._turn(missing)
                    self._fetch(turn, fetch)
                    # Empty, but for a folder that was removed between the two.
                    missing = self._use_present(turn, use) + missing[len(turn) :]

    def _use_present(self, blocks: Sequence[Block], use: Use) -> list[Block]:
        """Use the blocks that are here. Returns those that are not."""
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
        path = self._folder / block.name
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

    def _turn(self, missing: Sequence[Block]) -> Sequence[Block]:
        """As many of the first blocks as are fetched at once and have room together."""
        number, size_bytes = 0, 0
        for block in missing[:_AT_ONCE]:
            size_bytes += block.size_bytes
            if size_bytes > self._max_bytes:
                break
            number += 1
        return missing[:number]

    def _fetch(self, blocks: Sequence[Block], fetch: Fetch) -> None:
        if not blocks:
            return
        self._make_room(sum(block.size_bytes for block in blocks))
        with ExitStack() as stack:
            paths = [
                stack.enter_context(atomic_write_path(self._folder / block.name))
                for block in blocks
            ]
            with ThreadPoolExecutor(len(blocks), thread_name_prefix="fetch") as pool:
                # A list, because an error is raised only where a result is taken.
                list(pool.map(fetch, blocks, paths))

    # -- the bound -------------------------------------------------------------------------------------------------

    def _make_room(self, size_bytes: int) -> None:
        """Reserve bytes before they are written: a process that is killed meanwhile leaves a sum that is too high."""
        used = self._known_used()
        if used is None or used + size_bytes > self._max_bytes:
            used = self._evict(self._max_bytes - max(size_bytes, self._max_bytes // _SPARE))
        write_atomic(self._used, str(used + size_bytes))

    def _known_used(self) -> int | None:
        try:
            return int(self._used.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _evict(self, target_bytes: int) -> int:
        """Remove what was used least recently until no more than this is left. Returns what is left."""
        remove_unfinished(self._folder)
        found = sorted((stat.st_mtime_ns, path, stat.st_size) for path, stat in self._files())
        used = sum(size_bytes for *_, size_bytes in found)
        for _, path, size_bytes in found:
            if used <= target_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size_bytes
        return used

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        with os.scandir(self._folder) as entries:
            return [(Path(entry.path), entry.stat()) for entry in entries if entry.is_file()]
