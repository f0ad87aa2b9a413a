"""Estimates the size of a packed corpus, and the disk and time to prepare it, from a sample.

Counts of the sample are exact; the unread part is assumed to be like the sample: the rest of a
partition like its beginning, other partitions like the drawn partitions. So a sample that is the
whole corpus gives exact figures. Intervals come from a bootstrap: the unread part takes the rates
of partitions drawn with replacement. Limits: duplicates whose other copy was not read are missed,
so the token counts are upper bounds; the validation step of `codegen prepare` is not included in
the duration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.core.errors import DataError
from components.data.config import DataConfig, DataExecution
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import Source
from components.data.sources.partitions import Partition, list_partitions
from components.dataset.shards import TOKEN_DTYPE
from components.preparation.prepare_job import PrepareJob
from components.preparation.sample import PartitionStats, Sample, prepare_sample
from components.tokenizer.config import TokenizerConfig

_NUM_RESAMPLES = 1000
_PERCENTILES = (5, 95)
"""Bounds of an interval: nine tenths of the resamples are inside."""


class Interval(NamedTuple):
    """An estimated value and its 90 % bootstrap interval."""

    value: int
    low: int
    high: int


class Estimate(NamedTuple):
    """Estimated size, disk space and duration of a preparation."""

    num_files: int
    num_sampled_files: int
    stored_bytes: int
    """Size of all files."""
    sample_bytes: int
    """Bytes of text that were read."""
    is_complete: bool
    """Whether the sample is the whole corpus: all figures but the duration are exact."""
    num_documents: Interval
    raw_bytes: int
    rejected: dict[str, int]
    """Documents by reason, most frequent first."""
    rejected_bytes: dict[str, int]
    """Their bytes by reason, the most first."""
    num_quarantined: int
    """Records that cannot be read."""
    num_tokens: Interval
    """Of all splits."""
    num_train_tokens: int
    num_train_sequences: int
    num_held_out_sequences: int
    shard_bytes: int
    work_bytes: int
    """Peak disk usage of the preparation, shards included."""
    bytes_per_s: float
    """Raw text per second, through all stages, with all workers."""
    num_workers: int
    """Requested workers that have work."""
    duration_s: float


def estimate_corpus(
    folder: Path,
    *,
    sources: Sequence[Source],
    corpus: str,
    data: DataConfig,
    tokenizer_folder: Path,
    tokenizer: TokenizerConfig,
    context_length: int,
    seed: int,
    execution: DataExecution,
    benchmarks: Sequence[BenchmarkText],
    sample_bytes: int,
) -> Estimate:
    """Estimate the result of `corpus_pipeline.prepare_corpus` for the same arguments.

    Args:
        folder: an empty folder for the sample, on a disk that all workers share.
        sample_bytes: approximate amount to read, counted as uncompressed text.

    Raises:
        DataError: a source cannot be read, or the sample has no accepted document.
    """
    partitions = list_partitions(sources)
    job = PrepareJob.create(
        folder,
        partitions,
        execution,
        corpus=corpus,
        data=data,
        seed=seed,
        tokenizer_folder=str(tokenizer_folder.resolve()),
        tokenizer=tokenizer,
        context_length=context_length,
        benchmarks=tuple(benchmarks),
    )
    sample = prepare_sample(job, partitions, sample_bytes, execution)
    _require_documents(corpus, sample)
    return _extrapolate(sample, partitions, job, execution)


def _require_documents(corpus: str, sample: Sample) -> None:
    if any(stats.tokens.total() for stats in sample.partitions):
        return
    rejected = sum((stats.rejected for stats in sample.partitions), Counter[str]())
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejected.most_common())
    raise DataError(
        f"0 of {rejected.total():,} documents in the sample of {corpus} are accepted"
        + (f" ({reasons})" if reasons else ""),
        expected="at least one document that passes the filters, in a language of the corpus",
        fix="check the recipe's sources and filters, or take a larger sample with --sample-mb",
    )


def _extrapolate(
    sample: Sample, partitions: Sequence[Partition], job: PrepareJob, execution: DataExecution
) -> Estimate:
    context_length = job.context_length
    num_documents = _interval(sample, lambda stats: stats.num_documents, job.seed)
    num_tokens = _interval(sample, lambda stats: stats.tokens.total(), job.seed)
    raw_bytes = round(sample.total(lambda stats: stats.raw_bytes))
    held_out_tokens = _held_out_tokens(sample, job.data.held_out_fraction)
    num_train_tokens = num_tokens.value - sum(held_out_tokens)
    num_train_sequences = num_train_tokens // context_length
    num_held_out_sequences = sum(tokens // context_length for tokens in held_out_tokens)
    sequence_bytes = context_length * TOKEN_DTYPE.itemsize
    shard_bytes = (num_train_sequences + num_held_out_sequences) * sequence_bytes
    num_workers = 1 if sample.single_process else min(execution.num_workers, len(partitions))
    growth = raw_bytes / sum(stats.raw_bytes for stats in sample.partitions)
    tokenize_share = _tokenize_share(sample, partitions, num_workers)
    num_ranges = job.num_ranges(sample.total(lambda stats: stats.run_bytes))
    num_merge_workers = min(execution.num_workers, num_ranges)
    merge_s = sample.merge_s / num_merge_workers
    duration_s = growth * (sample.tokenize_s * tokenize_share + merge_s)
    return Estimate(
        num_files=len(partitions),
        num_sampled_files=len(sample.partitions),
        stored_bytes=sum(partition.size_bytes for partition in partitions),
        sample_bytes=sum(stats.raw_bytes for stats in sample.partitions),
        is_complete=sample.is_complete,
        num_documents=num_documents,
        raw_bytes=raw_bytes,
        rejected=dict(sample.totals(lambda stats: stats.rejected).most_common()),
        rejected_bytes=dict(sample.totals(lambda stats: stats.rejected_bytes).most_common()),
        num_quarantined=round(sample.total(lambda stats: stats.num_quarantined)),
        num_tokens=num_tokens,
        num_train_tokens=num_train_tokens,
        num_train_sequences=num_train_sequences,
        num_held_out_sequences=num_held_out_sequences,
        shard_bytes=shard_bytes,
        work_bytes=_work_bytes(sample, num_documents.value, num_tokens.value, shard_bytes),
        bytes_per_s=raw_bytes / duration_s,
        num_workers=num_workers,
        duration_s=duration_s,
    )


def _held_out_tokens(sample: Sample, fraction: float) -> list[int]:
    """Held-out tokens of each language: counted in the sample, a fraction of the unread part."""
    held_out_tokens = []
    for language, num_tokens in sample.totals(lambda stats: stats.tokens).items():
        num_read = sum(stats.tokens[language] for stats in sample.partitions)
        num_held_out = sum(stats.held_out_tokens[language] for stats in sample.partitions)
        held_out_tokens.append(num_held_out + round(fraction * (num_tokens - num_read)))
    return held_out_tokens


def _interval(sample: Sample, value_of: Callable[[PartitionStats], float], seed: int) -> Interval:
    """Extrapolate a count with a bootstrap over the sampled partitions."""
    value = sample.total(value_of)
    all_stats, num = sample.partitions, len(sample.partitions)
    read = np.array([stats.stored_bytes for stats in all_stats], dtype=np.float64)
    represented = np.array([stats.sampled.represented_bytes for stats in all_stats])
    unread = np.maximum(0.0, represented - read)
    if not unread.any():
        return Interval(round(value), round(value), round(value))
    rates = np.array([value_of(stats) for stats in all_stats]) / np.maximum(1.0, read)
    draws = np.random.default_rng(seed).integers(num, size=(_NUM_RESAMPLES, num))
    weights = unread[draws]
    weights[~weights.any(axis=1)] = 1.0  # Only completely read partitions: equal weights.
    resampled_rates = (weights * rates[draws]).sum(axis=1) / weights.sum(axis=1)
    mean_rate = (unread * rates).sum() / unread.sum()
    values = value + unread.sum() * (resampled_rates - mean_rate)
    low, high = np.percentile(values, _PERCENTILES)
    return Interval(round(value), round(low), round(high))


def _work_bytes(sample: Sample, num_documents: int, num_tokens: int, shard_bytes: int) -> int:
    """Disk usage when the last shard is written.

    Runs, streams, tables of the merge stage, shards, and the final tables, which count as much as
    the tables of the merge stage (measured: they are a tenth smaller).
    """
    stream_bytes = sum(s.tokens.total() for s in sample.partitions) * TOKEN_DTYPE.itemsize
    num_sampled_documents = sum(stats.num_documents for stats in sample.partitions)
    table_bytes = (sample.merged_bytes - stream_bytes) / num_sampled_documents * num_documents
    run_bytes = sample.total(lambda stats: stats.run_bytes)
    return round(run_bytes + num_tokens * TOKEN_DTYPE.itemsize + 2 * table_bytes + shard_bytes)


def _tokenize_share(sample: Sample, partitions: Sequence[Partition], num_workers: int) -> float:
    """Duration of the tokenize stage as a share of its worker seconds.

    The largest file, read by a single worker, is a lower bound.
    """
    if sample.single_process:
        return 1.0
    sizes = [partition.size_bytes for partition in partitions]
    return max(1 / num_workers, max(sizes) / sum(sizes))
