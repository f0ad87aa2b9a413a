"""Asynchronous checkpoint writing: copy the state to memory, then write it in a thread.

DeepSpeed passes every file that it saves to a checkpoint engine; ours keeps copies. Each rank then
writes and flushes its files while the next steps are computed, and writes a marker with their
SHA-256. The thread of rank 0 waits for the markers in the folder, so no thread calls a collective.
A failed write removes its files.
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

_POLL_INTERVAL_S = 0.1


class InMemoryCheckpointEngine(CheckpointEngine):  # type: ignore[misc]  # deepspeed has no types
    """DeepSpeed's checkpoint engine of a rank: `save` keeps a copy, `drain` returns the copies."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[Path, Any] = {}

    def create(self, info: Any) -> None:
        """Do nothing; part of DeepSpeed's interface."""

    def save(self, state_dict: Any, path: str) -> None:
        """Copy the state of a file to the host."""
        self._copies[Path(path)] = _copy_to_host(state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read a file. The checkpoint was verified before."""
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: Any) -> bool:  # noqa: ARG002 - DeepSpeed's interface
        """Report success; the copies are written later."""
        return True

    def preserves_storage_sharing(self) -> bool:
        """Return False: a slice of a large tensor is copied without the rest of its storage."""
        return False

    def drain(self) -> dict[Path, Any]:
        """The copies of all files since the last call."""
        copies = self._copies
        self._copies = {}
        return copies


def _copy_to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, _copy_to_host(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_copy_to_host(item) for item in value)
    return value


class AsyncCheckpointWriter:
    """A thread that writes a rank's files of a checkpoint."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        copies: dict[Path, Any],
        on_written: Callable[[], None] | None,
    ) -> None:
        """Start writing. `on_written` is called in the thread after all files are written."""
        self._folder = folder
        self._rank = rank
        self._copies = copies
        self._paths = list(copies)
        self._on_written = on_written
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"checkpoint {folder.name}", daemon=True
        )
        self._thread.start()

    def finish(self) -> None:
        """Wait until the files are written.

        Raises:
            DiskFullError: the disk is full. Other write errors are raised unchanged.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with wrap_disk_full(f"writing {self._folder.name}"):
                self._write()
            if self._on_written:
                self._on_written()
        except Exception as error:
            self._error = error
            # Free the space, which metrics, log and failure report need on a full disk.
            for path in self._paths:
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
        write_json(self._folder / rank_marker_name(self._rank), entries)


def _save(state: Any, file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch closes its archive after a write error and raises an error about missing bytes.
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, file.name) from error
        raise


def rank_marker_name(rank: int) -> str:
    """Name of the file that lists the files of a rank once all of them are written."""
    return f"rank-{rank:05d}.json"


def wait_for_rank_markers(folder: Path, num_ranks: int) -> None:
    """Wait until every rank has written its marker. A failed rank ends the stage and this wait."""
    while not all((folder / rank_marker_name(rank)).exists() for rank in range(num_ranks)):
        time.sleep(_POLL_INTERVAL_S)
