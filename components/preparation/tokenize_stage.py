"""Tokenize stage: a partition of the raw corpus, from records to sorted runs of tokens.

Records are processed in batches of a few megabytes: filter, decontaminate, redact if enabled,
encode, add to runs.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.files import write_jsonl
from components.core.progress import poll_progress
from components.data.config import DataExecution
from components.data.engine import WorkUnit, run_tasks
from components.data.filters.decontamination import Decontaminator
from components.data.filters.documents import (
    DIGEST,
    NOT_SAMPLED_OCCURRENCE,
    annotate_documents,
    in_hash_sample,
    num_occurrences,
    order_key,
)
from components.data.filters.minhash import compute_signatures
from components.data.filters.ngrams import Counts
from components.data.filters.quality import CONTAMINATED, NOT_SAMPLED
from components.data.filters.redaction import redact
from components.data.sources.config import merge_extensions
from components.data.sources.partition_reader import Batch, read_partition
from components.data.sources.partitions import Partition
from components.data.task_progress import ProgressAggregator, ProgressReporter, TaskCounts
from components.dataset.manifests import QUARANTINE_JSONL
from components.dataset.shards import TOKEN_DTYPE
from components.preparation.prepare_job import PrepareJob, read_done_marker, run_once
from components.preparation.sorted_runs import ROW_SCHEMA, SortedRunWriter
from components.tokenizer.encoder import Encoder, RaggedIds, verify_edge_cases

MATCHES_JSONL = "matches.jsonl"
_EXCERPT_CHARACTERS = 200
_MAX_QUARANTINED = 1000
"""Quarantined records of a partition that are stored; all are counted."""
_MAX_GROUPS = 1000
"""Groups of a source in statistics (assumption: more rows are not readable)."""
_NUM_EXAMPLES = 3
"""Quarantined records of a partition that an error may quote."""


def run_tokenize_stage(
    job: PrepareJob,
    partitions: Sequence[Partition],
    execution: DataExecution,
    *,
    single_process: bool,
    num_bytes: int | None,
) -> list[dict[str, Any]]:
    """Tokenize all partitions; returns the results of `tokenize_partition` in their order.

    Args:
        single_process: whether this process runs all tasks, encoding on all cores.
        num_bytes: stored size of the partitions, for progress; None if unknown.
    """
    by_name = {job.tokenized_dir(partition).name: partition for partition in partitions}
    progress = ProgressAggregator(job.progress_dir)
    results: dict[str, dict[str, Any]] = {}
    # Counted before the clock starts: work of an earlier attempt is not part of the throughput.
    for name, partition in by_name.items():
        result = read_done_marker(job.tokenized_dir(partition))
        if result is not None:
            results[name] = result
            progress.finish(name, progress_counts(result))
    remaining = [partition for name, partition in by_name.items() if name not in results]
    remaining.sort(key=lambda partition: -partition.size_bytes)
    tasks: list[WorkUnit] = [
        (
            partition.name,
            {
                "job": job.path,
                "partition": partition.model_dump(mode="json"),
                "single_process": single_process,
            },
        )
        for partition in remaining
    ]
    if single_process:
        execution = execution.replace(num_workers=1)
    label = f"tokenize {job.corpus}"
    with poll_progress(label, num_bytes, "bytes", progress.snapshot, throughput_of="text"):
        for result in run_tasks(tokenize_partition, tasks, execution):
            results[result["name"]] = result
            progress.finish(result["name"], progress_counts(result))
    return [results[name] for name in by_name]


def progress_counts(counts: Mapping[str, Any]) -> TaskCounts:
    """The counts of a partition that progress shows."""
    names = ("stored_bytes", "documents", "bytes", "rejected")
    return TaskCounts(*(int(counts.get(name, 0)) for name in names))


def tokenize_partition(task: Any) -> JsonValue:
    """Turn a `partition` of a `job` into runs; with `single_process`, encode on all cores.

    Returns:
        `name` of the output folder; `seconds`; and counts: stored_bytes (read from the partition),
        documents, bytes, rejected, quarantined (by kind), skipped (by reason), redacted (by kind),
        verified_documents, verified_tokens, and quarantined_examples.

    Raises:
        ConfigError: a source has too many groups in statistics.
        DataError: the file cannot be read, or the encoder differs from the reference.
    """
    tools = _load_tools(Path(task["job"]).read_text(encoding="utf-8"))
    partition = Partition.parse(task["partition"])
    output = tools.job.tokenized_dir(partition)

    def tokenize(folder: Path) -> dict[str, Any]:
        started_s = time.perf_counter()
        tokenizer = _PartitionTokenizer(
            tools, partition, folder, parallel=bool(task["single_process"])
        )
        counts = tokenizer.run(ProgressReporter(tools.job.progress_dir / output.name))
        return {"name": output.name, "seconds": time.perf_counter() - started_s, **counts}

    return run_once(output, tokenize)


class _Tools:
    """Objects that a process creates once per job."""

    def __init__(self, job: PrepareJob) -> None:
        self.job = job
        self.encoder = Encoder(Path(job.tokenizer_folder))
        verify_edge_cases(self.encoder)
        self.decontaminator = Decontaminator(job.benchmarks, job.rules.decontamination)
        self.prefixes = job.rules.language_prefix


@functools.lru_cache(maxsize=1)
def _load_tools(job_json: str) -> _Tools:
    """Cached by the content of the job file: its path may be reused for another job."""
    return _Tools(PrepareJob.parse(json.loads(job_json)))


class _PartitionTokenizer:
    """Tokenizes a partition into a folder and counts."""

    def __init__(
        self, tools: _Tools, partition: Partition, folder: Path, *, parallel: bool
    ) -> None:
        self._tools, self._job = tools, tools.job
        self._folder = folder
        self._parallel = parallel
        self._runs = SortedRunWriter(folder, tools.job.run_bytes)
        self._matches: list[dict[str, JsonValue]] = []
        self._quarantined: list[dict[str, JsonValue]] = []
        self._partition = partition
        self._groups: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._num_quarantined: Counter[str] = Counter()
        self._num_skipped: Counter[str] = Counter()
        self._num_redacted: Counter[str] = Counter()

    def run(self, progress: ProgressReporter) -> dict[str, JsonValue]:
        """Tokenize the partition; returns the counts."""
        data = self._job.data
        languages, extensions = self._job.rules.languages, merge_extensions(data.extensions)
        for batch in read_partition(self._partition, languages, extensions, data.quarantine):
            self._add(batch)
            progress.report(progress_counts(self._counts))
        self._runs.flush()
        write_jsonl(self._folder / MATCHES_JSONL, self._matches)
        write_jsonl(self._folder / QUARANTINE_JSONL, self._quarantined)
        return {
            **self._counts,
            "quarantined": dict(self._num_quarantined),
            "skipped": dict(self._num_skipped),
            "redacted": dict(self._num_redacted),
            "quarantined_examples": list[JsonValue](self._quarantined[:_NUM_EXAMPLES]),
        }

    def _add(self, batch: Batch) -> None:
        self._counts["stored_bytes"] = batch.stored_bytes
        self._num_skipped.update(batch.num_skipped)
        for record in batch.quarantined:
            self._num_quarantined[record.kind] += 1
            if len(self._quarantined) < _MAX_QUARANTINED:
                self._quarantined.append(record._asdict())
        if batch.records.num_rows:
            self._add_records(batch.records)

    def _add_records(self, records: pa.RecordBatch) -> None:
        texts = records["text"]
        num_bytes = pc.binary_length(texts)
        documents = annotate_documents(
            texts, self._job.rules.filters, self._job.data.held_out_fraction, self._job.seed
        )
        reasons = self._decontaminate(records, documents)
        counts = self._num_occurrences(documents, reasons)
        is_sampled = counts > 0
        reasons = pc.if_else(pa.array(is_sampled), reasons, pa.scalar(NOT_SAMPLED, reasons.type))
        is_accepted = pc.is_null(reasons)
        self._counts["documents"] += len(texts)
        self._counts["bytes"] += int(pc.sum(num_bytes).as_py())
        self._counts["rejected"] += len(texts) - int(pc.sum(is_accepted).as_py() or 0)
        tokens = self._encode(records.filter(is_accepted), documents.filter(is_accepted))
        occurrence = np.where(is_sampled, 0, NOT_SAMPLED_OCCURRENCE)
        columns = {
            "order": documents["order"],
            "sha256": documents["sha256"],
            "held_out": documents["held_out"],
            "reason": reasons,
            "occurrence": pa.array(occurrence, type=pa.int16()),
            "origin": self._origins(records["source"]),
            "language": records["language"],
            "license": records["license"],
            "source": records["source"],
            "path": records["path"],
            "num_bytes": num_bytes.cast(pa.int64()),
            "excerpt": self._excerpts(texts, pc.invert(is_accepted)),
            "tokens": _expand_to_all_rows(tokens, is_accepted),
            "bands": self._bands(texts),
        }
        rows = pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)
        self._runs.add(rows)
        for number in range(1, counts.max(initial=0)):
            self._runs.add(_repeat(rows.filter(pa.array(counts > number)), number, self._job.seed))

    def _origins(self, names: pa.LargeStringArray) -> pa.Array:
        """The name of each document's source in statistics."""
        source = self._partition.source
        label = pa.scalar(source.label, pa.large_string())
        if not source.group_by_name:
            return pa.repeat(label, len(names))
        origins = pc.if_else(pc.equal(names, ""), label, names)
        self._groups.update(origins.unique().to_pylist())
        if len(self._groups) > _MAX_GROUPS:
            raise ConfigError(
                f"{self._partition.name} has more than {_MAX_GROUPS:,} values of "
                f"{source.name or 'its name'}, and its source has group_by_name",
                expected="a few values, each a row of the statistics",
                fix=f"set group_by_name of the source {source.uri} to false",
            )
        return origins

    def _excerpts(self, texts: pa.LargeStringArray, is_rejected: pa.Array) -> pa.Array:
        """The beginnings of rejected documents, redacted as accepted documents are; else null."""
        rejected = redact(texts.filter(is_rejected), self._job.rules.redaction).texts
        excerpts = pc.utf8_slice_codeunits(rejected, 0, _EXCERPT_CHARACTERS)
        return _expand_to_all_rows(excerpts, is_rejected)

    def _num_occurrences(self, documents: pa.RecordBatch, reasons: pa.Array) -> Counts:
        """How often each document occurs: rejected and held-out documents once."""
        epochs = self._partition.source.epochs
        if epochs == 1:
            return np.ones(len(reasons), dtype=np.int64)
        occurs_once = pc.or_(pc.is_valid(reasons), documents["held_out"])
        return np.array(
            [
                1 if once else num_occurrences(digest, epochs, self._job.seed)
                for once, digest in zip(
                    occurs_once.to_pylist(), documents["sha256"].to_pylist(), strict=True
                )
            ],
            dtype=np.int64,
        )

    def _decontaminate(self, records: pa.RecordBatch, documents: pa.RecordBatch) -> pa.Array:
        """Reject documents that contain a part of a benchmark. Returns all reasons."""
        matches = self._tools.decontaminator.find(records["text"])
        if not matches:
            return documents["reason"]
        reasons = documents["reason"].to_pylist()
        for match in matches:
            index = match.document
            if reasons[index] not in (None, CONTAMINATED):
                continue
            reasons[index] = CONTAMINATED
            fields = match._asdict()
            del fields["document"]
            self._matches.append(
                {
                    "sha256": documents["sha256"][index].as_py().hex(),
                    "source": records["source"][index].as_py(),
                    "path": records["path"][index].as_py(),
                    **fields,
                }
            )
        return pa.array(reasons, type=pa.large_string())

    def _encode(self, records: pa.RecordBatch, documents: pa.RecordBatch) -> pa.LargeBinaryArray:
        """The tokens of each document: language prefix, text, separator."""
        texts = records["text"]
        redaction = self._job.rules.redaction
        if redaction.enabled:
            texts, counts = redact(texts, redaction)
            self._num_redacted.update({kind: int(count.sum()) for kind, count in counts.items()})
        languages = records["language"].to_pylist()
        prefixed = [
            self._tools.prefixes.get(language, "") + text
            for language, text in zip(languages, texts.to_pylist(), strict=True)
        ]
        encoded = self._tools.encoder.encode_batch(prefixed, parallel=self._parallel)
        self._verify_sample(records, documents["sha256"].to_pylist(), prefixed, encoded)
        return _with_separators(encoded, self._tools.encoder.eot_id)

    def _verify_sample(
        self, records: pa.RecordBatch, digests: list[bytes], texts: list[str], encoded: RaggedIds
    ) -> None:
        """Compare a sample, chosen by content, with the reference encoder."""
        fraction, seed = self._job.verify_fraction, self._job.seed
        is_sampled = [in_hash_sample("verify", digest, fraction, seed) for digest in digests]
        sample = [index for index, sampled in enumerate(is_sampled) if sampled]
        ids = [encoded[index] for index in sample]
        names = [f"{records['path'][index]} of {records['source'][index]}" for index in sample]
        self._tools.encoder.verify_against_reference([texts[index] for index in sample], ids, names)
        self._counts["verified_documents"] += len(sample)
        self._counts["verified_tokens"] += sum(len(document_ids) for document_ids in ids)

    def _bands(self, texts: pa.LargeStringArray) -> pa.Array:
        config = self._job.rules.near_duplicates
        bands_type = ROW_SCHEMA.field("bands").type
        if not config.enabled:
            return pa.nulls(len(texts), type=bands_type)
        return pa.array(compute_signatures(texts, config).tolist(), type=bands_type)


def _repeat(rows: pa.RecordBatch, occurrence: int, seed: int) -> pa.RecordBatch:
    """Return the rows of a further occurrence of documents, at other places of the order."""
    keys = [order_key(digest, occurrence, seed) for digest in rows["sha256"].to_pylist()]
    columns = {
        **dict(zip(rows.schema.names, rows.columns, strict=True)),
        "order": pa.array(keys, type=DIGEST),
        "occurrence": pa.repeat(pa.scalar(occurrence, pa.int16()), rows.num_rows),
        "bands": pa.nulls(rows.num_rows, type=ROW_SCHEMA.field("bands").type),
    }
    return pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)


def _with_separators(encoded: RaggedIds, eot_id: int) -> pa.LargeBinaryArray:
    """The tokens of each text followed by the separator, little-endian uint16."""
    offsets = encoded.offsets + np.arange(len(encoded) + 1)
    tokens = np.empty(offsets[-1], dtype=TOKEN_DTYPE)
    for index, (start, end) in enumerate(pairwise(offsets.tolist())):
        tokens[start : end - 1] = encoded[index]
        tokens[end - 1] = eot_id
    buffers = [None, pa.py_buffer(offsets * TOKEN_DTYPE.itemsize), pa.py_buffer(tokens)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(encoded), buffers)


def _expand_to_all_rows(values: pa.Array, is_selected: pa.Array) -> pa.Array:
    """Put the values of selected rows at their rows, null elsewhere."""
    mask = is_selected.to_numpy(zero_copy_only=False)
    indices = np.cumsum(mask) - 1
    return values.take(pa.array(indices, mask=~mask))
