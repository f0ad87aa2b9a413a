"""What DeepSpeed wants to write, copied to memory first and written by a thread: a step waits for the copy alone.

DeepSpeed hands every file that it saves to a checkpoint engine; this one keeps copies. Each rank then writes its own files
while the next steps are computed, flushes them, and leaves a seal with their SHA-256 beside them; ranks see one another's
seals in the folder, so no thread ever calls a collective. What cannot be written whole is removed. Not covered: a copy on
the device, which would save the wait for the copy to the host as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

from components.core.files import wrap_disk_full, write_json
from components.core.fingerprint import FileEntry, sha256_file

_LOOK_EVERY_S = 0.1


class InMemoryCheckpointEngine(CheckpointEngine):  # type: ignore[misc]  # deepspeed has no types
    """DeepSpeed's checkpoint engine for one rank: `save` keeps a copy, `taken` hands the copies over."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[Path, Any] = {}

    def create(self, info: Any) -> None:
        """Begin; there is nothing to prepare."""

    def save(self, state_dict: Any, path: str) -> None:
        """Copy the state of one file to the host."""
        self._copies[Path(path)] = _copied(state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read a file that was verified before."""
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: Any) -> bool:  # noqa: ARG002 - DeepSpeed's interface
        """End; what was copied is written later."""
        return True

    def preserves_storage_sharing(self) -> bool:
        """A part of a large tensor is copied by itself."""
        return False

    def drain(self) -> dict[Path, Any]:
        """The copies of all files since the last call."""
        copies, self._copies = self._copies, {}
        return copies


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, _copied(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_copied(one) for one in value)
    return value


class AsyncCheckpointWriter:
    """A thread that writes one rank's part of a checkpoint."""

    def __init__(
        self, folder: Path, rank: int, copies: dict[Path, Any], then: Callable[[], None] | None
    ) -> None:
        """`then` is called at the end, in the thread."""
        self._folder, self._rank, self._copies, self._then = folder, rank, copies, then
        self._paths = list(copies)
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"checkpoint {folder.name}", daemon=True
        )
        self._thread.start()

    def finish(self) -> None:
        """Wait for the end of it.

        Raises:
            StorageFull: the disk filled up; other errors of writing as they are.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with wrap_disk_full(f"writing {self._folder.name}"):
                self._write()
            if self._then:
                self._then()
        except Exception as error:
            self._error = error
            for path in self._paths:  # Of no use, and on a full disk in the way of steps, of their metrics and of the reason.
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _write(self) -> None:
        entries = []
        for path, state in self._copies.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                _save(state, file)
                file.flush()
                os.fsync(file.fileno())
            name = path.relative_to(self._folder).as_posix()
            entries.append(FileEntry(name, path.stat().st_size, sha256_file(path)))
        self._copies = {}
        write_json(self._folder / seal_name(self._rank), entries)


def _save(state: Any, file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # On its way out torch ends its archive, finds that bytes are missing, and says only that.
        if isinstance(reason := error.__context__, OSError):
            raise OSError(reason.errno, reason.strerror, file.name) from error
        raise


def seal_name(rank: int) -> str:
    """The file that says that a rank has written all of its own."""
    return f"rank-{rank:05d}.json"


def wait_for_rank_markers(folder: Path, num_ranks: int) -> None:
    """Wait until every rank has left its seal; a rank that fails ends the whole stage, and this wait with it."""
    while not all((folder / seal_name(rank)).exists() for rank in range(num_ranks)):
        time.sleep(_LOOK_EVERY_S)
