"""Prepares a corpus: raw documents to packed shards, which training and evaluation read.

Runs the three stages (see `job`) with the engine of `components.data`; between them this process
checks counts, plans the next stage and writes tables. Memory holds a range of the corpus at a time.
The files of the artifact are the shards, `index.json`, `documents.parquet`, `rejects.parquet`,
`contamination.jsonl` and `quarantine.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from components.core.corpus_statistics import STATISTIC
from components.core.files import read_jsonl, require_disk_space, write_json, write_jsonl
from components.core.progress import track
from components.data.config import DataConfig, DataExecution
from components.data.engine import WorkUnit, run_tasks
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import Source
from components.data.sources.partitions import Partition, list_partitions
from components.dataset.manifests import (
    DOCUMENTS_PARQUET,
    DOCUMENTS_SCHEMA,
    QUARANTINE_JSONL,
    REJECTS_PARQUET,
    REJECTS_SCHEMA,
)
from components.dataset.shards import (
    INDEX_JSON,
    Index,
    Split,
    TokenSlice,
    plan_shards,
    token_slices,
    write_shard,
)
from components.preparation.dedup import exclusion_runs, find_near_duplicates
from components.preparation.input_checks import (
    check_quarantine,
    check_readable_records,
    load_encoder,
    require_documents,
    require_sequences,
)
from components.preparation.merge_stage import (
    DOCUMENTS_ARROW,
    REJECTS_ARROW,
    ordered_origins,
    run_merge_stage,
    split_names,
    stream_file,
)
from components.preparation.prepare_job import (
    PrepareJob,
    fits_single_process,
    read_done_marker,
    remove_done_dir,
    write_done_marker,
)
from components.preparation.sorted_runs import read_arrow
from components.preparation.step_statistics import corpus_steps, sum_nested_counts
from components.preparation.tokenize_stage import MATCHES_JSONL, run_tokenize_stage
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder

CODE_VERSION = 7
"""Raise it when the same recipe would give a different artifact."""

CONTAMINATION_JSONL = "contamination.jsonl"

_WORK_DIR = "work"
_ROW_GROUP_ROWS = 2**16
"""Fixed, so that the bytes of a table do not depend on how the work was divided."""
_DISK_BYTES_PER_RAW_BYTE = 3.0
"""Disk space per byte of raw text for runs, streams and shards: each 0.6 with all merges and 1.0
with 2,000 (measured)."""


def prepare_corpus(
    folder: Path,
    *,
    sources: Sequence[Source],
    corpus: str,
    data: DataConfig,
    tokenizer_folder: Path,
    tokenizer: TokenizerConfig,
    context_length: int,
    seed: int,
    execution: DataExecution | None = None,
    benchmarks: Sequence[BenchmarkText] = (),
    other_corpora: Sequence[Path] = (),
) -> dict[str, JsonValue]:
    """Fill the folder of a packed corpus, or resume an interrupted attempt.

    Args:
        folder: an existing folder.
        sources, corpus, data: the raw documents, the corpus's name and its rules.
        tokenizer_folder, tokenizer: the tokenizer artifact's files and its configuration.
        context_length: tokens in a sequence.
        seed: of the training order and the splits.
        execution: engine, workers and memory; does not change the output.
        benchmarks: problems whose text must not be in the corpus.
        other_corpora: packed corpora whose documents are rejected if `data.dedup_across_corpora`.

    Returns:
        Statistics: counts per language, per license and per split, the text after each step per
            source and language, rejects by reason, and the size of the verified sample.

    Raises:
        RecordError: no record can be read, or there are more quarantined records than tolerated.
        DataError: a source cannot be read, a language has no document or a split no full sequence;
            or the encoder differs from the reference.
        ConfigError: the tokenizer in the folder does not match its configuration.
        DiskFullError: the disk is too small.
    """
    work_dir = folder / _WORK_DIR
    statistics = read_done_marker(work_dir)
    if statistics is None:
        encoder = load_encoder(tokenizer_folder, tokenizer)
        execution = execution or DataExecution()
        partitions = list_partitions(sources)
        raw_bytes = sum(partition.text_bytes for partition in partitions)
        disk_bytes = int(_DISK_BYTES_PER_RAW_BYTE * raw_bytes)
        require_disk_space(folder, disk_bytes, f"preparing {corpus}")
        job = PrepareJob.create(
            work_dir,
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
        statistics = _run_stages(folder, job, partitions, encoder, execution, other_corpora)
        write_done_marker(work_dir, statistics)
    remove_done_dir(work_dir)
    return statistics


def _run_stages(
    folder: Path,
    job: PrepareJob,
    partitions: Sequence[Partition],
    encoder: Encoder,
    execution: DataExecution,
    other_corpora: Sequence[Path],
) -> dict[str, JsonValue]:
    """Run all stages and write the files of the artifact. Returns the statistics."""
    tokenized = run_tokenize_stage(
        job,
        partitions,
        execution,
        single_process=fits_single_process(partitions, execution),
        num_bytes=sum(partition.size_bytes for partition in partitions),
    )
    check_readable_records(job.corpus, tokenized)
    check_quarantine(tokenized, job.data.quarantine)
    runs = [run for partition in partitions for run in job.runs(partition)]
    near_duplicates = find_near_duplicates(job, runs)
    if job.data.dedup_across_corpora:
        runs = [*exclusion_runs(job, other_corpora), *runs]
    merged = run_merge_stage(job, runs, near_duplicates, execution)
    sources = sum_nested_counts(result["sources"] for result in merged)
    languages = sum_nested_counts(sources.values())
    require_documents(job.corpus, languages)
    index, dropped_tokens = _run_pack_stage(folder, job, encoder, merged, execution)
    ranges = job.merged_dirs(len(merged))
    _write_table(
        folder / DOCUMENTS_PARQUET, [r / DOCUMENTS_ARROW for r in ranges], DOCUMENTS_SCHEMA
    )
    _write_table(folder / REJECTS_PARQUET, [r / REJECTS_ARROW for r in ranges], REJECTS_SCHEMA)
    tokenized_dirs = [job.tokenized_dir(partition) for partition in partitions]
    matches = [d / MATCHES_JSONL for d in tokenized_dirs]
    contaminated = _merge_jsonl(folder / CONTAMINATION_JSONL, matches)
    _merge_jsonl(folder / QUARANTINE_JSONL, [d / QUARANTINE_JSONL for d in tokenized_dirs])
    write_json(folder / INDEX_JSON, index.model_dump(mode="json"))
    steps = corpus_steps(sources, ordered_origins(job, sources), job.rules.languages)
    splits: dict[str, JsonValue] = {
        name: {"num_sequences": split.num_sequences, "dropped_tokens": dropped_tokens[name]}
        for name, split in index.splits.items()
    }
    return {
        "languages": languages,
        STATISTIC: [row.model_dump(mode="json") for row in steps],
        "licenses": _license_rows(result["licenses"] for result in merged),
        "splits": splits,
        "contaminated": _contamination_counts(contaminated, job),
        "quarantined": sum_nested_counts(result["quarantined"] for result in tokenized),
        "skipped": sum_nested_counts(result["skipped"] for result in tokenized),
        "redacted": sum_nested_counts(result["redacted"] for result in tokenized),
        "verified_documents": sum(result.get("verified_documents", 0) for result in tokenized),
        "verified_tokens": sum(result.get("verified_tokens", 0) for result in tokenized),
    }


# -- pack stage --------------------------------------------------------------------------------


def _run_pack_stage(
    folder: Path,
    job: PrepareJob,
    encoder: Encoder,
    merged: Sequence[dict[str, Any]],
    execution: DataExecution,
) -> tuple[Index, dict[str, int]]:
    """Write all shards. Returns their index, and the tokens of each split that fill no sequence."""
    context_length = job.context_length
    ranges = job.merged_dirs(len(merged))
    splits: dict[str, Split] = {}
    tasks: list[WorkUnit] = []
    dropped_tokens: dict[str, int] = {}
    for name in split_names(job.rules.languages):
        sizes = [int(result["tokens"][name]) for result in merged]
        paths = [str(range_dir / stream_file(name)) for range_dir in ranges]
        streams = list(zip(paths, sizes, strict=True))
        split = plan_shards(name, sum(sizes), context_length)
        splits[name] = split
        dropped_tokens[name] = sum(sizes) - split.num_sequences * context_length
        first = 0
        for shard in split.shards:
            num_tokens = shard.num_sequences * context_length
            slices: list[JsonValue] = [list(s) for s in token_slices(first, num_tokens, streams)]
            unit: JsonValue = {"folder": str(folder), "path": shard.path, "slices": slices}
            tasks.append((shard.path, unit))
            first += num_tokens
    require_sequences(job.corpus, splits, context_length)
    digests: dict[str, str] = {}
    with track(f"pack {job.corpus}", len(tasks), "shards") as advance:
        for path, digest in run_tasks(_pack_shard, tasks, execution, in_threads=True):
            digests[path] = digest
            advance(1)
    index = Index(
        corpus=job.corpus,
        context_length=context_length,
        eot_id=encoder.eot_id,
        num_ids=encoder.num_ids,
        splits={name: split.with_digests(digests) for name, split in splits.items()},
    )
    return index, dropped_tokens


def _pack_shard(task: Any) -> JsonValue:
    """Write a shard. Returns its path and SHA-256."""
    slices = [TokenSlice(*token_slice) for token_slice in task["slices"]]
    return [task["path"], write_shard(Path(task["folder"]) / task["path"], slices)]


# -- tables and counts -------------------------------------------------------------------------


def _write_table(path: Path, parts: Iterable[Path], schema: pa.Schema) -> None:
    """Concatenate Arrow files into a Parquet file with row groups of a fixed size."""
    with pq.ParquetWriter(path, schema) as writer:
        pending = schema.empty_table()
        for arrow_file in parts:
            pending = pa.concat_tables([pending, read_arrow(arrow_file)])
            num_full = pending.num_rows // _ROW_GROUP_ROWS * _ROW_GROUP_ROWS
            for start in range(0, num_full, _ROW_GROUP_ROWS):
                group = pending.slice(start, _ROW_GROUP_ROWS).combine_chunks()
                writer.write_table(group, _ROW_GROUP_ROWS)
            pending = pending.slice(num_full)
        if pending.num_rows:
            writer.write_table(pending.combine_chunks(), _ROW_GROUP_ROWS)


def _merge_jsonl(path: Path, parts: Iterable[Path]) -> list[dict[str, Any]]:
    """Merge JSON Lines files into sorted records without repetitions. Returns the records."""
    records = {
        json.dumps(record, sort_keys=True): record for file in parts for record in read_jsonl(file)
    }
    merged = [records[text] for text in sorted(records)]
    write_jsonl(path, merged)
    return merged


def _contamination_counts(
    matches: Sequence[dict[str, Any]], job: PrepareJob
) -> dict[str, JsonValue]:
    """Number of distinct documents that contain a part of each benchmark.

    Empty if benchmarks were not searched.
    """
    if not job.rules.decontamination.enabled:
        return {}
    documents: dict[str, set[str]] = {benchmark.benchmark: set() for benchmark in job.benchmarks}
    for match in matches:
        documents[match["benchmark"]].add(match["sha256"])
    return {name: len(digests) for name, digests in sorted(documents.items())}


def _license_rows(counts: Iterable[dict[str, Any]]) -> list[JsonValue]:
    """Return a row per license, the largest first."""
    totals = cast(dict[str, dict[str, int]], sum_nested_counts(counts))
    names = sorted(totals, key=lambda name: (-totals[name]["tokens"], name))
    return [{"license": name, **totals[name]} for name in names]
