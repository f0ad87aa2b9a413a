"""Prepares a sample of a corpus, the input of an estimate.

The tasks that prepare a corpus also filter, tokenize and merge the sample, so documents are treated
equally and the measured time can be extrapolated. The sample consists of the beginnings of files,
because a compressed file can only be read from its start: of every file if there are few, else of
files drawn with probability proportional to their size. Limits: it misses changes towards the end
of files, and duplicates whose other copy was not drawn.
"""

from __future__ import annotations

import itertools
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from components.data.config import DataExecution
from components.data.filters.documents import DEDUP_SORT_KEYS, FIRST_OCCURRENCES
from components.data.sources.partitions import Partition
from components.dataset.shards import TokenSlice, write_shard
from components.preparation.dedup import apply_global_rejects, find_near_duplicates
from components.preparation.input_checks import check_readable_records
from components.preparation.merge_stage import count_tokens, run_merge_stage, stream_file
from components.preparation.prepare_job import PrepareJob, fits_single_process
from components.preparation.sorted_runs import order_ranges, read_range
from components.preparation.tokenize_stage import run_tokenize_stage

FEW_FILES = 64
"""Up to this number of files, every file is sampled (assumption: opening them takes a second or
two)."""
PIECE_BYTES = 1_000_000
"""Bytes to read per drawn file, or the mean file size if that is smaller (assumption: dozens of
documents, so that opening the file costs little in comparison)."""


class SampledPartition(NamedTuple):
    """The beginning of a partition, limited by its `max_bytes`."""

    partition: Partition
    represented_bytes: float
    """Stored bytes of the corpus that it represents; they add up to the size of the corpus."""


class PartitionStats(NamedTuple):
    """Counts from the beginning of a partition."""

    sampled: SampledPartition
    stored_bytes: int
    """Bytes read; the partition's size if all of it was read."""
    num_documents: int
    raw_bytes: int
    rejected: Counter[str]
    """Documents by reason."""
    rejected_bytes: Counter[str]
    """Their bytes by reason."""
    num_quarantined: int
    """Records that cannot be read."""
    tokens: Counter[str]
    """Of accepted documents, by language."""
    held_out_tokens: Counter[str]
    """Of held-out documents, by language."""
    run_bytes: int
    """Size of the tokenize stage's files."""

    @property
    def scale(self) -> float:
        """Factor from the counts to the represented part of the corpus."""
        return self.sampled.represented_bytes / self.stored_bytes if self.stored_bytes else 1.0


class Sample(NamedTuple):
    """Counts of all sampled partitions, and the time that they took."""

    partitions: list[PartitionStats]
    num_partitions: int
    """Of the corpus."""
    single_process: bool
    """Whether a single process reads the corpus, encoding on all cores."""
    tokenize_s: float
    """Worker seconds of the tokenize stage, with all workers busy."""
    merge_s: float
    """Worker seconds of merging and packing."""
    merged_bytes: int
    """Size of the merge stage's files."""

    @property
    def is_complete(self) -> bool:
        """Whether the sample is the whole corpus."""
        return len(self.partitions) == self.num_partitions and all(
            stats.stored_bytes == stats.sampled.partition.size_bytes for stats in self.partitions
        )

    def total(self, value_of: Callable[[PartitionStats], float]) -> float:
        """Extrapolate a count to the corpus."""
        return sum(value_of(stats) * stats.scale for stats in self.partitions)

    def totals(self, counts_of: Callable[[PartitionStats], Counter[str]]) -> Counter[str]:
        """Extrapolate counts by key to the corpus."""
        keys = sorted({key for stats in self.partitions for key in counts_of(stats)})
        totals: Counter[str] = Counter()
        for key in keys:
            totals[key] = round(sum(counts_of(s)[key] * s.scale for s in self.partitions))
        return totals


def select_partitions(
    partitions: Sequence[Partition], sample_bytes: int, seed: int
) -> list[SampledPartition]:
    """Choose partitions and how much of each to read.

    Args:
        partitions: of the corpus, in listing order.
        sample_bytes: approximate total to read: a document more per partition, less if files end
            earlier.
        seed: of the random start; unused if every partition is sampled.
    """
    stored_bytes = max(1, sum(partition.size_bytes for partition in partitions))
    mean_bytes = -(-stored_bytes // len(partitions))
    num_pieces = max(FEW_FILES, sample_bytes // min(PIECE_BYTES, mean_bytes))
    if len(partitions) <= num_pieces:
        return [
            _sampled(partition, -(-sample_bytes * partition.size_bytes // stored_bytes))
            for partition in partitions
        ]
    # A systematic sample, equal steps from a random start, gives every source its share.
    step = stored_bytes / num_pieces
    piece_bytes = -(-sample_bytes // num_pieces)
    start = random.Random(f"estimate:{seed}").random() * step  # noqa: S311 - not a secret
    ends = list(itertools.accumulate(partition.size_bytes for partition in partitions))
    hits: Counter[int] = Counter()
    for number in range(num_pieces):
        hits[min(len(partitions) - 1, bisect_right(ends, start + number * step))] += 1
    return [
        SampledPartition(partitions[index].replace(max_bytes=num * piece_bytes), num * step)
        for index, num in sorted(hits.items())
    ]


def _sampled(partition: Partition, max_bytes: int) -> SampledPartition:
    return SampledPartition(
        partition.replace(max_bytes=max(1, max_bytes)), float(partition.size_bytes)
    )


def prepare_sample(
    job: PrepareJob, partitions: Sequence[Partition], sample_bytes: int, execution: DataExecution
) -> Sample:
    """Prepare a sample of the partitions in the job's folder and count its documents and tokens.

    Raises:
        DataError: a partition cannot be read, or no record of the sample.
    """
    sampled = select_partitions(partitions, sample_bytes, job.seed)
    single_process = fits_single_process(partitions, execution)
    heads = [entry.partition for entry in sampled]
    results = run_tokenize_stage(
        job, heads, execution, single_process=single_process, num_bytes=None
    )
    check_readable_records(job.corpus, results)
    runs = [job.runs(partition) for partition in heads]
    started_s = time.perf_counter()
    all_runs = [run for partition_runs in runs for run in partition_runs]
    near_duplicates = find_near_duplicates(job, all_runs)
    ranges = _merge_and_pack(job, all_runs, near_duplicates, execution)
    elapsed_s = time.perf_counter() - started_s
    return Sample(
        partitions=_count(job, sampled, results, runs, near_duplicates),
        num_partitions=len(partitions),
        single_process=single_process,
        tokenize_s=sum(result["seconds"] for result in results),
        merge_s=elapsed_s * min(execution.num_workers, len(ranges)),
        merged_bytes=sum(file.stat().st_size for folder in ranges for file in folder.iterdir()),
    )


def _merge_and_pack(
    job: PrepareJob, runs: Sequence[Path], near_duplicates: str | None, execution: DataExecution
) -> list[Path]:
    """Merge and pack the sample. Returns the folders of the merged ranges."""
    merged = run_merge_stage(job, runs, near_duplicates, execution)
    ranges = job.merged_dirs(len(merged))
    for split in merged[0]["tokens"]:
        slices = [
            TokenSlice(str(folder / stream_file(split)), 0, result["tokens"][split])
            for folder, result in zip(ranges, merged, strict=True)
        ]
        write_shard(Path(job.folder) / "shards" / split, slices)
    return ranges


def _count(
    job: PrepareJob,
    sampled: Sequence[SampledPartition],
    results: Sequence[dict[str, Any]],
    runs: Sequence[Sequence[Path]],
    near_duplicates: str | None,
) -> list[PartitionStats]:
    """Count documents and tokens per partition after deduplication of the whole sample."""
    tables = [_count_columns(partition_runs, number) for number, partition_runs in enumerate(runs)]
    groups = (
        apply_global_rejects(job, pa.concat_tables(tables), near_duplicates)
        .group_by(["partition", "language", "held_out", "reason", "occurrence"])
        .aggregate([("num_bytes", "sum"), ("num_tokens", "sum"), ("num_bytes", "count")])
    )
    rows: list[list[dict[str, Any]]] = [[] for _ in sampled]
    for row in groups.to_pylist():
        rows[row["partition"]].append(row)
    return [_partition_stats(*values) for values in zip(sampled, results, runs, rows, strict=True)]


def _count_columns(runs: Sequence[Path], partition: int) -> pa.Table:
    """The columns needed for counting, and the partition's number."""
    (full_range,) = order_ranges(1)
    rows = read_range(runs, full_range)
    keys = [name for name, _ in DEDUP_SORT_KEYS]
    names = [*keys, "sha256", "reason", "held_out", "num_bytes"]
    table = rows.select(names).append_column("num_tokens", count_tokens(rows["tokens"]))
    return table.append_column("partition", pa.repeat(pa.scalar(partition), rows.num_rows))


def _partition_stats(
    sampled: SampledPartition,
    result: dict[str, Any],
    runs: Sequence[Path],
    rows: Sequence[dict[str, Any]],
) -> PartitionStats:
    rejected, rejected_bytes = Counter[str](), Counter[str]()
    tokens, held_out_tokens = Counter[str](), Counter[str]()
    documents = [row for row in rows if row["occurrence"] in FIRST_OCCURRENCES]
    for row in rows:
        if row["reason"] is not None:
            if row["occurrence"] in FIRST_OCCURRENCES:
                rejected[row["reason"]] += row["num_bytes_count"]
                rejected_bytes[row["reason"]] += row["num_bytes_sum"]
            continue
        tokens[row["language"]] += row["num_tokens_sum"]
        if row["held_out"]:
            held_out_tokens[row["language"]] += row["num_tokens_sum"]
    return PartitionStats(
        sampled=sampled,
        # An empty compressed file has no record that reports a position.
        stored_bytes=result.get("stored_bytes", sampled.partition.size_bytes),
        num_documents=sum(row["num_bytes_count"] for row in documents),
        raw_bytes=sum(row["num_bytes_sum"] for row in documents),
        rejected=rejected,
        rejected_bytes=rejected_bytes,
        num_quarantined=sum(result["quarantined"].values()),
        tokens=tokens,
        held_out_tokens=held_out_tokens,
        run_bytes=sum(run.stat().st_size for run in runs),
    )
