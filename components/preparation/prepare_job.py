"""The job file and the work folder that all tasks of a preparation share.

A preparation runs three stages of independent tasks. Tokenize: read a partition of the raw corpus,
filter and tokenize it, write runs (sorted files, see `sorted_runs`). Merge: take a range of the
training order out of every run, drop duplicates, write a token stream per split and the table rows.
Pack: copy the streams into shards.

Every task publishes its folder or file by a rename, and no task overwrites another's output. So an
interrupted preparation repeats only the tasks that were running. The work folder is marked as done
before it is removed, because a partly removed folder would look like finished tasks with missing
files. Sizes of runs and ranges depend on the memory of a task and do not change the output.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.core.config import Config, ListOrTuple, Seed
from components.core.files import read_json, write_json
from components.core.fingerprint import fingerprint
from components.data.config import CorpusConfig, DataConfig, DataExecution
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.partitions import Partition
from components.tokenizer.config import TokenizerConfig

_DONE = "done.json"

_VERIFIED_BYTES = 1_000_000
"""Approximate amount of text whose encoding is verified (assumption: enough to meet each kind of
token many times; the reference encodes 1 to 2.5 MB/s on two cores, measured)."""
_MIN_VERIFY_FRACTION = 0.001
"""Verified share of a large corpus (assumption: it adds a twentieth to the duration)."""
_TASK_MEMORY_SHARE = 1 / 8
"""Size of a run or a range as a share of a task's memory: sorting takes three times the size, and
the text being encoded is in memory too (measured)."""
_SINGLE_PROCESS_MAX_BYTES = 64_000_000
"""Text up to which this process reads a corpus itself, encoding on all cores. (The first worker
processes take about 0.7 s of imports, and two of them save about 8 ms per MB: docs/figures.md.)"""


class PrepareJob(Config):
    """The configuration of a preparation for its tasks."""

    folder: str
    """Absolute path of the work folder; on a cluster, shared by all nodes."""
    corpus: str
    data: DataConfig
    seed: Seed
    tokenizer_folder: str
    tokenizer: TokenizerConfig
    context_length: int
    benchmarks: ListOrTuple[BenchmarkText] = ()
    """Problems that must not be in the corpus."""
    verify_fraction: float
    """Share of the documents whose encoding is verified."""
    max_epochs: float
    """Of all sources."""
    origins: ListOrTuple[str]
    """The titles of the sources."""
    run_bytes: int
    """Size of a run and of a range. Does not change the output."""

    @classmethod
    def create(
        cls,
        folder: Path,
        partitions: Sequence[Partition],
        execution: DataExecution,
        **settings: Any,
    ) -> PrepareJob:
        """Write a job file; run size and verified share follow from memory and amount of text."""
        job = cls(
            folder=str(folder.resolve()),
            verify_fraction=verify_fraction(sum(p.text_bytes for p in partitions)),
            max_epochs=max((p.source.epochs for p in partitions), default=1.0),
            origins=tuple(
                dict.fromkeys(p.source.label for p in partitions if not p.source.group_by_name)
            ),
            run_bytes=int(execution.task_bytes * _TASK_MEMORY_SHARE),
            **settings,
        )
        job.write()
        return job

    @classmethod
    def read(cls, path: str) -> PrepareJob:
        """Read a job file."""
        return cls.parse(read_json(Path(path)))

    def write(self) -> None:
        """Write the job file."""
        write_json(Path(self.path), self.model_dump(mode="json"))

    @property
    def rules(self) -> CorpusConfig:
        """Languages and rules of the corpus."""
        return self.data.corpora[self.corpus]

    @property
    def path(self) -> str:
        """The job file."""
        return f"{self.folder}/job.json"

    @property
    def progress_dir(self) -> Path:
        """Progress files of the tokenize stage, each named like the output folder of its task."""
        return Path(self.folder) / "progress"

    def tokenized_dir(self, partition: Partition) -> Path:
        """Output of the tokenize stage for a partition."""
        return Path(self.folder) / "tokenized" / fingerprint(partition)[:16]

    def runs(self, partition: Partition) -> list[Path]:
        """The sorted runs of a tokenized partition."""
        return sorted(self.tokenized_dir(partition).glob("*.arrow"))

    def num_ranges(self, all_run_bytes: float) -> int:
        """Number of ranges of the merge stage for the total size of all runs."""
        return max(1, int(-(-all_run_bytes // self.run_bytes)))

    def merged_dir(self, number: int, num_ranges: int) -> Path:
        """Output of the merge stage for a range."""
        return Path(self.folder) / "merged" / f"{number:06d}-of-{num_ranges:06d}"

    def merged_dirs(self, num_ranges: int) -> list[Path]:
        """Outputs of the merge stage, in training order."""
        return [self.merged_dir(number, num_ranges) for number in range(num_ranges)]


def verify_fraction(text_bytes: int) -> float:
    """Share of the documents to verify in a corpus of this size."""
    return min(1.0, max(_MIN_VERIFY_FRACTION, _VERIFIED_BYTES / max(1, text_bytes)))


def fits_single_process(partitions: Sequence[Partition], execution: DataExecution) -> bool:
    """Whether a single process reads these partitions, encoding on all cores."""
    text_bytes = sum(partition.text_bytes for partition in partitions)
    return execution.engine == "local" and text_bytes <= _SINGLE_PROCESS_MAX_BYTES


# -- finished work -----------------------------------------------------------------------------


def run_once(folder: Path, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Fill `folder` by calling `work` with a staging folder; returns its result.

    The result is stored in the folder. If the folder is finished, return the stored result.
    """
    result = read_done_marker(folder)
    if result is None:
        with _staging_dir(folder) as staging:
            result = work(staging)
            write_done_marker(staging, result)
    return result


@contextmanager
def _staging_dir(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `folder` unless another attempt was faster."""
    staging = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    staging.mkdir(parents=True)
    try:
        yield staging
        try:
            staging.rename(folder)
        except OSError:
            if read_done_marker(folder) is None:
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_done_marker(folder: Path) -> dict[str, Any] | None:
    """The result stored in a finished folder, None if it is not finished."""
    marker = folder / _DONE
    return dict(read_json(marker)) if marker.exists() else None


def write_done_marker(folder: Path, result: dict[str, JsonValue]) -> None:
    """Store the result, atomically: the folder is finished."""
    write_json(folder / _DONE, result)


def remove_done_dir(folder: Path) -> None:
    """Remove a finished folder, its done marker last, so an interrupted removal can be repeated."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _DONE:
            entry.unlink()
    shutil.rmtree(folder)
