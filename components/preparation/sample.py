"""A sample of a corpus that went through preparation itself: what an estimate is counted from.

Design decision: the sample is read, judged, tokenised and ordered by the tasks that prepare a corpus, so nothing can happen
to a document there that does not happen here, and the time it takes is the time that is to be foretold. It is taken from the
beginnings of files, since a compressed file can only be read from its start: of every file where there are few, else of
files chosen with a chance proportional to their size. What is not covered: what changes towards the end of files, and
copies whose other copy was not drawn.
"""

from __future__ import annotations

import itertools
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from components.data.config import DataExecution
from components.data.sources.partitions import Partition
from components.dataset.shards import TOKEN_DTYPE, TokenSlice, write_shard
from components.preparation.corpus_pipeline import (
    fits_single_process,
    gather_all,
    run_bytes_of,
    scatter_all,
)
from components.preparation.dedup import near_duplicates
from components.preparation.job import PrepareJob
from components.preparation.merge_stage import apply_global_rejects, stream_name
from components.preparation.sorted_runs import ranges, read_range

FEW_FILES = 64
"""Up to so many files are all begun, however small the sample (assumption: to open them costs a second or two)."""
PIECE_BYTES = 1_000_000
"""Of more files so many are drawn that this is read of each, or their mean size where that is less (assumption: dozens of
documents, beside which it costs little to open the file)."""


class SampledPartition(NamedTuple):
    """The beginning of a partition, and what it stands for."""

    partition: Partition
    """With `first_bytes`."""
    represented_bytes: float
    """Stored bytes of the corpus; those of all that were drawn add up to the corpus."""


class PartitionStats(NamedTuple):
    """What was found at the beginning of a partition."""

    drawn: SampledPartition
    stored_bytes: int
    """Read; the partition's size where all of it was."""
    documents: int
    raw_bytes: int
    """Of their texts."""
    rejected: Counter[str]
    """Of those documents, by reason."""
    bad: int
    """Records that cannot be read."""
    tokens: Counter[str]
    """Of the documents that are kept, by language."""
    held_out_tokens: Counter[str]
    """Of those of them that are held out, by language."""
    run_bytes: int
    """Of the first round's files."""

    @property
    def factor(self) -> float:
        """By what its counts are multiplied, to stand for its part of the corpus."""
        return self.drawn.represented_bytes / self.stored_bytes if self.stored_bytes else 1.0


class Sample(NamedTuple):
    """What was found in all of them, and how long it took."""

    taken: list[PartitionStats]
    num_partitions: int
    """Of the corpus."""
    single_process: bool
    """Whether one process reads the corpus, encoding on all cores."""
    read_s: float
    """Seconds in which one worker reads, judges and tokenises the sample, while the others do the same."""
    order_s: float
    """Seconds in which one worker orders and packs the sample."""
    gathered_bytes: int
    """Of the second round's files."""

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole corpus."""
        is_read = all(one.stored_bytes == one.drawn.partition.size_bytes for one in self.taken)
        return is_read and len(self.taken) == self.num_partitions


def select_partitions(
    partitions: Sequence[Partition], sample_bytes: int, seed: int
) -> list[SampledPartition]:
    """Which partitions are begun, how much is read of each, and what it stands for.

    Args:
        partitions: of the corpus, in the order of its listing.
        sample_bytes: to read in all, about: a document more at each partition, less where a partition ends before.
        seed: of the chance; where every partition is drawn there is none.
    """
    stored_bytes = max(1, sum(one.size_bytes for one in partitions))
    num_pieces = max(
        FEW_FILES, sample_bytes // min(PIECE_BYTES, -(-stored_bytes // len(partitions)))
    )
    if len(partitions) <= num_pieces:
        shares = (
            (one, max(1, -(-sample_bytes * one.size_bytes // stored_bytes))) for one in partitions
        )
        return [
            SampledPartition(one.replace(first_bytes=share), one.size_bytes)
            for one, share in shares
        ]
    # A systematic sample: equal steps along the listing, from a start by chance, so that every source has its share.
    step, piece_bytes = stored_bytes / num_pieces, -(-sample_bytes // num_pieces)
    start = random.Random(f"estimate:{seed}").random() * step  # noqa: S311 - no secret
    ends = list(itertools.accumulate(one.size_bytes for one in partitions))
    last = len(partitions) - 1
    hits = Counter(
        min(last, bisect_right(ends, start + number * step)) for number in range(num_pieces)
    )
    return [
        SampledPartition(partitions[at].replace(first_bytes=num * piece_bytes), num * step)
        for at, num in sorted(hits.items())
    ]


def prepare_sample(
    job: PrepareJob, partitions: Sequence[Partition], sample_bytes: int, place: DataExecution
) -> Sample:
    """Prepare a sample of some partitions in the job's folder, and count what came of it.

    Raises:
        DataError: a partition cannot be read.
    """
    path, drawn = job.write(), select_partitions(partitions, sample_bytes, job.seed)
    single_process = fits_single_process(sum(one.text_bytes for one in partitions), place)
    begun = [one.partition for one in drawn]
    results = scatter_all(job, path, begun, place, single_process=single_process, num_bytes=None)
    runs = [sorted(job.scattered(one).glob("*.arrow")) for one in begun]
    started_s = time.perf_counter()
    every = [run for found in runs for run in found]
    dropped = near_duplicates(job, every) if job.data.near_duplicates.enabled else None
    gathered_bytes, width = _order(job, path, every, dropped, place)
    order_s = (time.perf_counter() - started_s) * width
    return Sample(
        taken=_count(drawn, results, runs, dropped),
        num_partitions=len(partitions),
        single_process=single_process,
        read_s=sum(result["seconds"] for result in results),
        order_s=order_s,
        gathered_bytes=gathered_bytes,
    )


def _order(
    job: PrepareJob, path: str, runs: Sequence[Path], dropped: str | None, place: DataExecution
) -> tuple[int, int]:
    """Order and pack the sample: the bytes of the files between, and how many threads were at it."""
    gathered = gather_all(job, path, runs, dropped, run_bytes_of(place), place)
    folders = [job.gathered(number, len(gathered)) for number in range(len(gathered))]
    for split in gathered[0]["tokens"]:
        pieces = [
            TokenSlice(str(at / stream_name(split)), 0, one["tokens"][split])
            for at, one in zip(folders, gathered, strict=True)
        ]
        write_shard(Path(job.folder) / "shards" / split, pieces)
    return sum(file.stat().st_size for at in folders for file in at.iterdir()), min(
        place.num_workers, len(gathered)
    )


def _count(
    drawn: Sequence[SampledPartition],
    results: Sequence[dict[str, Any]],
    runs: Sequence[Sequence[Path]],
    dropped: str | None,
) -> list[PartitionStats]:
    (whole,) = ranges(1)
    parts = [_count_columns(read_range(found, whole), number) for number, found in enumerate(runs)]
    groups = (
        apply_global_rejects(pa.concat_tables(parts), dropped)
        .group_by(["part", "language", "held_out", "reason"])
        .aggregate([("num_bytes", "sum"), ("num_tokens", "sum"), ("num_bytes", "count")])
    )
    found: list[list[dict[str, Any]]] = [[] for _ in drawn]
    for row in groups.to_pylist():
        found[row["part"]].append(row)
    return [_taken(*one) for one in zip(drawn, results, runs, found, strict=True)]


def _taken(
    drawn: SampledPartition,
    result: dict[str, Any],
    runs: Sequence[Path],
    found: Sequence[dict[str, Any]],
) -> PartitionStats:
    rejected, tokens, held_out_tokens = Counter[str](), Counter[str](), Counter[str]()
    for row in found:
        if row["reason"] is not None:
            rejected[row["reason"]] += row["num_bytes_count"]
        else:
            tokens[row["language"]] += row["num_tokens_sum"]
            held_out_tokens[row["language"]] += row["num_tokens_sum"] if row["held_out"] else 0
    return PartitionStats(
        drawn=drawn,
        # An empty compressed file has no record that could say how far it reaches.
        stored_bytes=result.get("stored_bytes", drawn.partition.size_bytes),
        documents=sum(row["num_bytes_count"] for row in found),
        raw_bytes=sum(row["num_bytes_sum"] for row in found),
        rejected=rejected,
        bad=sum(result["bad"].values()),
        tokens=tokens,
        held_out_tokens=held_out_tokens,
        run_bytes=sum(file.stat().st_size for file in runs),
    )


def _count_columns(rows: pa.Table, part: int) -> pa.Table:
    """What is counted of the rows of a run, and whose they are."""
    num_tokens = pc.divide(pc.binary_length(rows["tokens"]), TOKEN_DTYPE.itemsize)
    names = ["order", "reason", "source", "path", "language", "held_out", "num_bytes"]
    slim = rows.select(names).append_column("num_tokens", num_tokens)
    return slim.append_column("part", pa.repeat(pa.scalar(part), rows.num_rows))
