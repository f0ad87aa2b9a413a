"""What all tasks of one preparation share, as a file: `work/job.json` in the folder that is being filled.

A preparation is three rounds of independent tasks. `scatter` reads a partition of the raw corpus, judges and tokenises it,
and leaves sorted runs. `gather` takes one range of the training order out of every run, drops duplicates and leaves a stream
of tokens and the rows of the tables. `pack` copies the streams into shards. Only this module knows where they lie.

Design decision: every task leaves a folder or a file that appears by one rename, and none of them overwrites another's. So
a preparation that was killed repeats what was at work at that moment, and nothing else. The work of a whole preparation is
marked as done before any of it is removed, since what a kill leaves of it looks like finished tasks that lack some files.
What decides how work is cut (memory, ranges) is place: the bytes that come out are the same for every cut.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.core.config import Config, ListOrTuple
from components.core.files import read_json, write_json
from components.core.fingerprint import fingerprint
from components.data.config import Corpus, DataConfig
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.partitions import Partition
from components.tokenizer.config import TokenizerConfig

_DONE = "done.json"


class PrepareJob(Config):
    """A preparation, as its tasks see it."""

    folder: str
    """Where the work lies, absolute; on a cluster, a folder that all nodes see."""
    corpus: Corpus
    data: DataConfig
    seed: int
    tokenizer_folder: str
    tokenizer: TokenizerConfig
    benchmarks: ListOrTuple[BenchmarkText] = ()
    """What must not be learnt."""
    verify_fraction: float
    """Share of the documents whose encoding is proved."""
    run_bytes: int
    """A run is written when it holds as many bytes. Place, like all sizes here."""

    @classmethod
    def read(cls, path: str) -> PrepareJob:
        """The job in a file."""
        return cls.parse(read_json(Path(path)))

    def write(self) -> str:
        """Write `job.json`; returns its path."""
        path = Path(self.folder) / "job.json"
        write_json(path, self.model_dump(mode="json"))
        return str(path)

    def scattered(self, partition: Partition) -> Path:
        """The folder of what `scatter` leaves of a partition."""
        return Path(self.folder) / "scattered" / fingerprint(partition)[:16]

    @property
    def under_way(self) -> Path:
        """The folder in which `scatter` tells how far it has come, each task in a file named like its folder."""
        return Path(self.folder) / "under-way"

    def gathered(self, number: int, num_ranges: int) -> Path:
        """The folder of what `gather` leaves of one of several ranges."""
        return Path(self.folder) / "gathered" / f"{number:06d}-of-{num_ranges:06d}"


def read_done_marker(place: Path) -> dict[str, Any] | None:
    """What a task said of its folder, or None where it is not finished."""
    return dict(read_json(place / _DONE)) if (place / _DONE).exists() else None


@contextmanager
def staging_dir(place: Path) -> Iterator[Path]:
    """A folder to work in; it takes its place at the end of the block, unless another attempt was faster."""
    partial = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(place)
        except OSError:
            if not (place / _DONE).exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_done_marker(partial: Path, result: dict[str, JsonValue]) -> None:
    """Write down what came of a task: the last thing it does. Atomic, for the sake of a folder that is in its place."""
    write_json(partial / _DONE, result)


def remove_done_dir(place: Path) -> None:
    """Remove a finished folder, what says that it is finished last: so this can be killed, and called again."""
    for entry in place.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _DONE:
            entry.unlink()
    shutil.rmtree(place)
