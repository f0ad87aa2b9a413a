"""How large a corpus will be once it is prepared, foretold from a sample.

Design decision: what was read counts as it is, and what was not read is taken to be like what was: each partition like its
own beginning, those that were not drawn like those that were. So a sample that is the whole corpus gives the exact figures.
A range comes from a bootstrap: what was not read takes the rates of partitions that are drawn anew, with replacement, a
thousand times; nine tenths of the results lie in it. What is not covered: copies whose other copy was not read, so there
are at most as many tokens as this says, and validation, which `codegen prepare` does besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.core.errors import DataError
from components.data.config import Corpus, DataConfig, DataExecution
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import Source
from components.data.sources.partitions import Partition, list_partitions
from components.dataset.shards import TOKEN_DTYPE
from components.preparation.corpus_pipeline import run_bytes_of, verify_fraction
from components.preparation.job import PrepareJob
from components.preparation.sample import PartitionStats, Sample, prepare_sample
from components.tokenizer.config import TokenizerConfig

_RESAMPLES = 1000
_TAILS = (5, 95)
"""Percentiles of the resamples between which the range lies."""


class Interval(NamedTuple):
    """A figure, and where nine tenths of the resamples lie."""

    value: int
    low: int
    high: int


class Estimate(NamedTuple):
    """What a corpus will come to."""

    num_files: int
    num_drawn: int
    stored_bytes: int
    """Of all files."""
    sample_bytes: int
    """Of the texts that were read."""
    is_whole: bool
    """Whether the sample is the whole corpus: then all but the time is exact."""
    documents: Interval
    raw_bytes: int
    rejected: dict[str, int]
    """Documents by reason, the most frequent first."""
    bad: int
    """Records that cannot be read."""
    tokens: Interval
    """Of all splits."""
    train_tokens: int
    sequences: int
    """Of the training split."""
    held_out_sequences: int
    shard_bytes: int
    work_bytes: int
    """The most that lies on disk while the corpus is prepared, shards included."""
    bytes_per_s: float
    """Of raw text, through all rounds, with all workers."""
    num_workers: int
    """Of those asked for, as many as there is work for."""
    duration_s: float


def estimate_corpus(
    folder: Path,
    *,
    sources: Sequence[Source],
    corpus: Corpus,
    data: DataConfig,
    tokenizer_folder: Path,
    tokenizer: TokenizerConfig,
    context_length: int,
    seed: int,
    place: DataExecution,
    benchmarks: Sequence[BenchmarkText],
    sample_bytes: int,
) -> Estimate:
    """Foretell what `prepare.prepare_corpus` would make of the same arguments.

    Args:
        folder: an empty folder for the sample, on a disk that all workers share.
        sample_bytes: how much is read, about; texts as they lie uncompressed in their files.

    Raises:
        DataError: a source cannot be read, or no document of the sample is kept.
    """
    partitions = list_partitions(sources)
    job = PrepareJob(
        folder=str(folder.resolve()),
        corpus=corpus,
        data=data,
        seed=seed,
        tokenizer_folder=str(tokenizer_folder.resolve()),
        tokenizer=tokenizer,
        benchmarks=tuple(benchmarks),
        verify_fraction=verify_fraction(sum(one.text_bytes for one in partitions)),
        run_bytes=run_bytes_of(place),
    )
    sample = prepare_sample(job, partitions, sample_bytes, place)
    _require_documents(corpus, sample)
    return _estimate(sample, partitions, job, context_length, place)


def _require_documents(corpus: Corpus, sample: Sample) -> None:
    if not any(one.tokens.total() for one in sample.taken):
        found = sum((one.rejected for one in sample.taken), Counter[str]())
        why = ", ".join(f"{reason} {number:,}" for reason, number in found.most_common())
        raise DataError(
            f"none of {found.total():,} documents in the sample of {corpus} is kept{f' ({why})' if why else ''}",
            expected="at least one document that passes the filters, in a language of the corpus",
            fix="check the sources and filters of the recipe, or take a larger sample with --sample-mb",
        )


def _estimate(
    sample: Sample,
    partitions: Sequence[Partition],
    job: PrepareJob,
    context_length: int,
    place: DataExecution,
) -> Estimate:
    taken = sample.taken
    documents = _ranged(taken, lambda one: one.documents, job.seed)
    raw_bytes = round(_total(taken, lambda one: one.raw_bytes))
    tokens = _ranged(taken, lambda one: one.tokens.total(), job.seed)
    held_out_tokens = _held_out(taken, job.data.held_out_fraction)
    train_tokens = tokens.value - held_out_tokens.total()
    sequences = train_tokens // context_length
    held_out_sequences = sum(number // context_length for number in held_out_tokens.values())
    shard_bytes = (sequences + held_out_sequences) * context_length * TOKEN_DTYPE.itemsize
    duration_s, num_workers = _duration(sample, partitions, raw_bytes, place)
    return Estimate(
        num_files=len(partitions),
        num_drawn=len(taken),
        stored_bytes=sum(one.size_bytes for one in partitions),
        sample_bytes=sum(one.raw_bytes for one in taken),
        is_whole=sample.is_whole,
        documents=documents,
        raw_bytes=raw_bytes,
        rejected=dict(_totals(taken, lambda one: one.rejected).most_common()),
        bad=round(_total(taken, lambda one: one.bad)),
        tokens=tokens,
        train_tokens=train_tokens,
        sequences=sequences,
        held_out_sequences=held_out_sequences,
        shard_bytes=shard_bytes,
        work_bytes=_work_bytes(sample, documents.value, tokens.value, shard_bytes),
        bytes_per_s=raw_bytes / duration_s,
        num_workers=num_workers,
        duration_s=duration_s,
    )


def _total(taken: Sequence[PartitionStats], figure: Callable[[PartitionStats], float]) -> float:
    return sum(figure(one) * one.factor for one in taken)


def _totals(
    taken: Sequence[PartitionStats], figures: Callable[[PartitionStats], Counter[str]]
) -> Counter[str]:
    keys = sorted({key for one in taken for key in figures(one)})
    return Counter({key: round(_total(taken, lambda one: figures(one)[key])) for key in keys})  # noqa: B023 - used at once


def _held_out(taken: Sequence[PartitionStats], fraction: float) -> Counter[str]:
    """Tokens that are held out, by language: those that were read, and their share of those that were not."""
    all_of_them, found = _totals(taken, lambda one: one.tokens), Counter[str]()
    for language, number in all_of_them.items():
        num_read = sum(one.tokens[language] for one in taken)
        found[language] = sum(one.held_out_tokens[language] for one in taken) + round(
            fraction * (number - num_read)
        )
    return found


def _ranged(
    taken: Sequence[PartitionStats], figure: Callable[[PartitionStats], float], seed: int
) -> Interval:
    value = _total(taken, figure)
    read = np.array([one.stored_bytes for one in taken], dtype=np.float64)
    unread = np.maximum(0.0, [one.drawn.represented_bytes for one in taken] - read)
    if not unread.any():
        return Interval(round(value), round(value), round(value))
    rates = np.array([figure(one) for one in taken]) / np.maximum(1.0, read)
    drawn = np.random.default_rng(seed).integers(len(taken), size=(_RESAMPLES, len(taken)))
    weights = unread[drawn]
    weights[~weights.any(axis=1)] = 1.0  # Only such as were read whole: they count alike.
    anew = (weights * rates[drawn]).sum(axis=1) / weights.sum(axis=1)
    as_it_is = (unread * rates).sum() / unread.sum()
    low, high = np.percentile(value + unread.sum() * (anew - as_it_is), _TAILS)
    return Interval(round(value), round(low), round(high))


def _work_bytes(sample: Sample, num_documents: int, num_tokens: int, shard_bytes: int) -> int:
    """What lies there when the last shard is written: runs, streams and tables of the second round, shards, and the tables
    once more, which are smaller then (measured: a tenth)."""
    here = sample.taken
    streams = sum(one.tokens.total() for one in here) * TOKEN_DTYPE.itemsize
    tables = (sample.gathered_bytes - streams) / sum(one.documents for one in here) * num_documents
    return round(
        _total(here, lambda one: one.run_bytes)
        + num_tokens * TOKEN_DTYPE.itemsize
        + 2 * tables
        + shard_bytes
    )


def _duration(
    sample: Sample, partitions: Sequence[Partition], raw_bytes: int, place: DataExecution
) -> tuple[float, int]:
    """Seconds, and how many workers have work."""
    growth = raw_bytes / sum(one.raw_bytes for one in sample.taken)
    num_workers = 1 if sample.single_process else min(place.num_workers, len(partitions))
    num_ranges = -(-_total(sample.taken, lambda one: one.run_bytes) // run_bytes_of(place))
    # A file is read by one worker, whatever the others do.
    largest = max(one.size_bytes for one in partitions) / sum(one.size_bytes for one in partitions)
    read_s = (
        sample.read_s * growth * max(1 / num_workers, 0.0 if sample.single_process else largest)
    )
    return read_s + sample.order_s * growth / min(
        place.num_workers, max(1, num_ranges)
    ), num_workers
