"""From a raw corpus to packed shards: the artifact that training and evaluation read.

Three rounds of tasks (see `job`), run by the engine of `components.data`, and what one process does between them: check the
counts, plan the next round, write the tables. Nothing here holds more than a range of the corpus at a time. The files of
the artifact are the shards, `index.json` (see `shards`), the tables (see `tables`), `contamination.jsonl` and
`quarantine.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.core.files import read_jsonl, require_disk_space, write_json, write_jsonl
from components.core.progress import poll_progress, track
from components.data.config import Corpus, DataConfig, DataExecution
from components.data.engine import run_tasks
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import Source
from components.data.sources.partitions import Partition, list_partitions
from components.data.task_progress import ProgressAggregator
from components.dataset.manifests import (
    DOCUMENTS_PARQUET,
    DOCUMENTS_SCHEMA,
    QUARANTINE_JSONL,
    REJECTS_PARQUET,
    REJECTS_SCHEMA,
    sum_nested_counts,
    write_table,
)
from components.dataset.shards import (
    INDEX_JSON,
    Index,
    Split,
    TokenSlice,
    cut_into_shards,
    pieces_of,
    write_shard,
)
from components.preparation.dedup import exclusion_runs, near_duplicates
from components.preparation.input_checks import (
    require_documents,
    require_encoder,
    require_records,
    require_sequences,
)
from components.preparation.job import (
    PrepareJob,
    read_done_marker,
    remove_done_dir,
    write_done_marker,
)
from components.preparation.merge_stage import (
    DOCUMENTS,
    REJECTS,
    merge_range,
    splits_of,
    stream_name,
)
from components.preparation.tokenize_stage import (
    MATCHES,
    QUARANTINE,
    progress_counts,
    tokenize_partition,
)
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder

CODE_VERSION = 3
"""Raised when the same recipe would give other bytes."""

CONTAMINATION_JSONL = "contamination.jsonl"

_WORK = "work"
_PROVED_BYTES = 1_000_000
"""Text whose encoding is proved, about (assumption: enough to meet each kind of token many times; the reference encodes 1 to
2.5 MB/s on two cores, measured)."""
_MIN_VERIFY_FRACTION = 0.001
"""Share that is proved of a large corpus (assumption: it then takes a twentieth of the time of all the rest)."""
_SHARE_OF_MEMORY = 1 / 8
"""A run, and a range, may be as large as this share of a task's memory: sorting one takes three times its size, and the text
that is being encoded lies beside it (measured)."""
_SINGLE_PROCESS_MAX_BYTES = 64_000_000
"""Text up to which a corpus is read by this process alone, encoding on all cores (measured: to start two workers takes as
long as to read 60 MB)."""
_DISK_BYTES_PER_RAW_BYTE = 3.0
"""Bytes of disk needed for a byte of raw text: runs, streams and shards, of 0.6 each with all merges and 1.0 with 2,000
(measured)."""


def prepare_corpus(
    folder: Path,
    *,
    sources: Sequence[Source],
    corpus: Corpus,
    data: DataConfig,
    tokenizer_folder: Path,
    tokenizer: TokenizerConfig,
    context_length: int,
    seed: int,
    place: DataExecution | None = None,
    benchmarks: Sequence[BenchmarkText] = (),
    others: Sequence[Path] = (),
) -> dict[str, JsonValue]:
    """Fill the folder of a prepared corpus, or go on with what a killed attempt left there.

    Args:
        folder: an existing folder.
        sources: where the raw documents are.
        corpus: which corpus it is.
        data: filters, held-out share, prefixes, what else is left out.
        tokenizer_folder: the tokenizer artifact's files.
        tokenizer: what that tokenizer was built from.
        context_length: tokens in a sequence.
        seed: of the order and of the split.
        place: where and how wide it runs; no part of what comes out.
        benchmarks: the problems that must not be learnt.
        others: prepared corpora whose documents are left out, where `data.dedup_across_corpora` says so.

    Returns:
        Statistics: counts per language and per split, what was left out and why, and how much was encoded twice.

    Raises:
        RecordError: more records than tolerated cannot be read.
        DataError: a source cannot be read, a language has no document or a split no full sequence; the encoder is not the
            reference's equal.
        ConfigError: the tokenizer in the folder is not the one described.
        StorageFull: no room.
    """
    if (
        statistics := read_done_marker(folder / _WORK)
    ) is not None:  # It was killed while its work was being removed.
        remove_done_dir(folder / _WORK)
        return statistics
    place = place or DataExecution()
    encoder = require_encoder(tokenizer_folder, tokenizer)
    partitions = list_partitions(sources)
    raw_bytes = sum(partition.text_bytes for partition in partitions)
    require_disk_space(folder, int(_DISK_BYTES_PER_RAW_BYTE * raw_bytes), f"preparing {corpus}")
    piece_bytes = run_bytes_of(place)
    job = PrepareJob(
        folder=str((folder / _WORK).resolve()),
        corpus=corpus,
        data=data,
        seed=seed,
        tokenizer_folder=str(tokenizer_folder.resolve()),
        tokenizer=tokenizer,
        benchmarks=tuple(benchmarks),
        verify_fraction=verify_fraction(raw_bytes),
        run_bytes=piece_bytes,
    )
    path = job.write()
    stored_bytes, single_process = (
        sum(partition.size_bytes for partition in partitions),
        fits_single_process(raw_bytes, place),
    )
    scattered = scatter_all(
        job, path, partitions, place, single_process=single_process, num_bytes=stored_bytes
    )
    require_records(scattered, data.quarantine)
    runs = [
        run for partition in partitions for run in sorted(job.scattered(partition).glob("*.arrow"))
    ]
    dropped = near_duplicates(job, runs) if data.near_duplicates.enabled else None
    if data.dedup_across_corpora:
        runs = [*exclusion_runs(job, others), *runs]
    gathered = gather_all(job, path, runs, dropped, piece_bytes, place)
    languages = sum_nested_counts(one["languages"] for one in gathered)
    require_documents(corpus, languages)
    ranges = [job.gathered(number, len(gathered)) for number in range(len(gathered))]
    index, dropped_tokens = _pack_all(folder, job, encoder, context_length, ranges, gathered, place)
    write_table(folder / DOCUMENTS_PARQUET, (one / DOCUMENTS for one in ranges), DOCUMENTS_SCHEMA)
    write_table(folder / REJECTS_PARQUET, (one / REJECTS for one in ranges), REJECTS_SCHEMA)
    contaminated = _write_lines(folder / CONTAMINATION_JSONL, job, partitions, MATCHES)
    _write_lines(folder / QUARANTINE_JSONL, job, partitions, QUARANTINE)
    write_json(folder / INDEX_JSON, index.model_dump(mode="json"))
    statistics = {
        "languages": languages,
        "splits": {
            split: {"num_sequences": written.num_sequences, "dropped_tokens": dropped_tokens[split]}
            for split, written in index.splits.items()
        },
        "contaminated": _num_by_benchmark(contaminated, job),
        **{
            name: sum_nested_counts(one[name] for one in scattered)
            for name in ("bad", "skipped", "redacted")
        },
        **{
            name: sum(one.get(name, 0) for one in scattered)
            for name in ("proved_documents", "proved_tokens")
        },
    }
    write_done_marker(folder / _WORK, statistics)
    remove_done_dir(folder / _WORK)
    return statistics


def verify_fraction(text_bytes: int) -> float:
    """Share of the documents whose encoding is proved, for a corpus of so much text."""
    return min(1.0, max(_MIN_VERIFY_FRACTION, _PROVED_BYTES / max(1, text_bytes)))


def run_bytes_of(place: DataExecution) -> int:
    """How large a run and a range may be."""
    return int(place.task_bytes * _SHARE_OF_MEMORY)


def fits_single_process(text_bytes: int, place: DataExecution) -> bool:
    """Whether a corpus of so much text is read by one process, which then encodes on all cores."""
    return place.engine == "native" and text_bytes <= _SINGLE_PROCESS_MAX_BYTES


# -- rounds ------------------------------------------------------------------------------------------------------------


def scatter_all(
    job: PrepareJob,
    path: str,
    partitions: Sequence[Partition],
    place: DataExecution,
    *,
    single_process: bool,
    num_bytes: int | None,
) -> list[dict[str, Any]]:
    """First round: what `scatter` says of each partition, in their order; of `num_bytes` as stored, where that is known."""
    names = {job.scattered(one).name: one for one in partitions}
    # What an earlier attempt finished is no part of the speed, so it is counted before the clock starts.
    found = {name: read_done_marker(job.scattered(one)) for name, one in names.items()}
    results = {name: result for name, result in found.items() if result is not None}
    work: list[JsonValue] = [
        {"job": path, "partition": one.model_dump(mode="json"), "single_process": single_process}
        for name, one in sorted(names.items(), key=lambda item: -item[1].size_bytes)
        if name not in results
    ]
    board = ProgressAggregator(job.under_way)
    for name, result in results.items():
        board.finish(name, progress_counts(result))
    with poll_progress(f"read {job.corpus}", num_bytes, "bytes", board.snapshot, flow="text"):
        for result in run_tasks(
            tokenize_partition, work, place.replace(num_workers=1) if single_process else place
        ):
            results[result["name"]] = result
            board.finish(result["name"], progress_counts(result))
    return [results[name] for name in names]


def gather_all(
    job: PrepareJob,
    path: str,
    runs: Sequence[Path],
    dropped: str | None,
    range_bytes: int,
    place: DataExecution,
) -> list[dict[str, Any]]:
    """Second round: what `gather` says of each range of the order, in order."""
    num_ranges = max(1, -(-sum(run.stat().st_size for run in runs) // range_bytes))
    listed = Path(job.folder) / "runs.json"
    write_json(listed, [str(run) for run in runs])
    common: dict[str, JsonValue] = {
        "job": path,
        "num_ranges": num_ranges,
        "runs": str(listed),
        "dropped": dropped,
    }
    work: list[JsonValue] = [{**common, "number": number} for number in range(num_ranges)]
    results: list[dict[str, Any]] = []
    with track(f"order {job.corpus}", num_ranges, "ranges") as advance:
        for result in run_tasks(merge_range, work, place, in_threads=True):
            results.append(result)
            advance(1)
    return sorted(results, key=lambda one: int(one["number"]))


def _pack_all(
    folder: Path,
    job: PrepareJob,
    encoder: Encoder,
    context_length: int,
    ranges: Sequence[Path],
    gathered: Sequence[dict[str, Any]],
    place: DataExecution,
) -> tuple[Index, dict[str, int]]:
    """The index of all shards, which are written by now, and how many tokens of each split fill no sequence."""
    splits: dict[str, Split] = {}
    work: list[JsonValue] = []
    rest: dict[str, int] = {}
    for name in splits_of(job.corpus):
        sizes = [int(one["tokens"][name]) for one in gathered]
        splits[name] = cut_into_shards(name, sum(sizes), context_length)
        rest[name] = sum(sizes) - splits[name].num_sequences * context_length
        streams = [
            (str(one / stream_name(name)), size) for one, size in zip(ranges, sizes, strict=True)
        ]
        first = 0
        for shard in splits[name].shards:
            num_tokens = shard.num_sequences * context_length
            pieces: list[JsonValue] = [
                list(piece) for piece in pieces_of(first, num_tokens, streams)
            ]
            work.append({"folder": str(folder), "path": shard.path, "pieces": pieces})
            first += num_tokens
    require_sequences(job.corpus, splits, context_length)
    digests: dict[str, str] = {}
    with track(f"pack {job.corpus}", len(work), "shards") as advance:
        for path, digest in run_tasks(_pack, work, place, in_threads=True):
            digests[path] = digest
            advance(1)
    return (
        Index(
            corpus=job.corpus,
            context_length=context_length,
            eot_id=encoder.eot_id,
            num_ids=encoder.num_ids,
            splits={name: split.with_digests(digests) for name, split in splits.items()},
        ),
        rest,
    )


def _pack(work: Any) -> JsonValue:
    """Third round: one shard. Returns its path and SHA-256."""
    return [
        work["path"],
        write_shard(
            Path(work["folder"]) / work["path"], [TokenSlice(*piece) for piece in work["pieces"]]
        ),
    ]


# -- tables ------------------------------------------------------------------------------------------------------------


def _write_lines(
    path: Path, job: PrepareJob, partitions: Sequence[Partition], name: str
) -> list[dict[str, Any]]:
    """The lines that the partitions left under a name, each once, in an order that does not depend on partitioning."""
    lines = {
        json.dumps(line, sort_keys=True): line
        for one in partitions
        for line in read_jsonl(job.scattered(one) / name)
    }
    chosen = [lines[text] for text in sorted(lines)]
    write_jsonl(path, chosen)
    return chosen


def _num_by_benchmark(matches: Sequence[dict[str, Any]], job: PrepareJob) -> dict[str, JsonValue]:
    """How many different documents hold a part of each benchmark; one that was not looked for is absent, never 0."""
    pairs = {(one["benchmark"], one["sha256"]) for one in matches}
    looked_for = (
        {one.benchmark for one in job.benchmarks} if job.data.decontamination.enabled else set()
    )
    return {name: sum(benchmark == name for benchmark, _ in pairs) for name in sorted(looked_for)}
