"""First round of a preparation: one partition of the raw corpus, from records to sorted runs of tokens.

Records stream through in batches of a few megabytes: judged, looked at for benchmarks, redacted where that is wanted,
encoded, and gathered into runs. What a process needs for that (the tokenizer, the benchmarks' n-grams) is made once a job.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.core.files import write_jsonl
from components.data.config import LANGUAGES
from components.data.filters.decontamination import Decontaminator
from components.data.filters.documents import annotate_documents, in_hash_sample
from components.data.filters.minhash import compute_signatures
from components.data.filters.quality import CONTAMINATED
from components.data.filters.redaction import redact
from components.data.sources.config import merge_extensions
from components.data.sources.partition_reader import Batch, read_partition
from components.data.sources.partitions import Partition
from components.data.task_progress import ProgressReporter, TaskCounts
from components.dataset.shards import TOKEN_DTYPE
from components.preparation.job import PrepareJob, read_done_marker, staging_dir, write_done_marker
from components.preparation.sorted_runs import ROW_SCHEMA, RunWriter
from components.tokenizer.encoder import Encoder, RaggedIds
from components.tokenizer.self_check import verify_edge_cases

PREFIXED_CORPUS = "multi"
"""The corpus whose documents begin with their language (docs/paper.md, section 1)."""
MATCHES, QUARANTINE = "matches.jsonl", "quarantine.jsonl"
_EXCERPT_CHARACTERS = 200
_MAX_QUARANTINED = 1000
"""Bad records of a partition that are kept to be looked at; all are counted."""
_NUM_EXAMPLES = 3
"""Bad records of a partition that an error may name."""


def tokenize_partition(work: Any) -> JsonValue:
    """Turn the partition `work["partition"]` of the job `work["job"]` into runs; `work["single_process"]`: on all cores.

    Returns:
        `name`, that of its folder; `seconds`; and counts: stored_bytes (read of the partition), documents, bytes, rejected,
        bad (by kind of reason), skipped (by reason), redacted (by kind), what was proved, and bad_examples.

    Raises:
        DataError: the file cannot be read, or the encoder is not the reference's equal.
    """
    scatterer, partition = (
        _scatterer(Path(work["job"]).read_text(encoding="utf-8")),
        Partition.parse(work["partition"]),
    )
    place = scatterer.job.scattered(partition)
    if (result := read_done_marker(place)) is None:
        teller = ProgressReporter(scatterer.job.under_way / place.name)
        with staging_dir(place) as folder:
            started_s = time.perf_counter()
            counts = scatterer.run(
                partition, folder, parallel=bool(work["single_process"]), teller=teller
            )
            result = {"name": place.name, "seconds": time.perf_counter() - started_s, **counts}
            write_done_marker(folder, result)
    return result


@functools.lru_cache(maxsize=1)
def _scatterer(job: str) -> _PartitionTokenizer:
    """By the content of the job's file: another one may lie at the same path some day."""
    return _PartitionTokenizer(PrepareJob.parse(json.loads(job)))


class _PartitionTokenizer:
    """A process's tools for one job."""

    def __init__(self, job: PrepareJob) -> None:
        self.job = job
        self.encoder = Encoder(Path(job.tokenizer_folder))
        verify_edge_cases(self.encoder)
        self.decontaminator = Decontaminator(job.benchmarks, job.data.decontamination)
        prefixes: Mapping[Any, str] = (
            job.data.language_prefix if job.corpus == PREFIXED_CORPUS else {}
        )
        self.prefixes = dict(prefixes)

    def run(
        self, partition: Partition, folder: Path, *, parallel: bool, teller: ProgressReporter
    ) -> dict[str, JsonValue]:
        """Fill a folder from a partition."""
        one = _Partition(self, RunWriter(folder, self.job.run_bytes), parallel)
        data = self.job.data
        for batch in read_partition(
            partition,
            LANGUAGES[self.job.corpus],
            merge_extensions(data.extensions),
            data.quarantine,
        ):
            one.add(batch)
            teller.report(progress_counts(one.counts()))
        one.runs.close()
        write_jsonl(folder / MATCHES, one.matches)
        write_jsonl(folder / QUARANTINE, one.quarantined)
        return one.counts()


def progress_counts(counts: Mapping[str, Any]) -> TaskCounts:
    """What progress shows of the counts of a partition."""
    return TaskCounts(
        *(int(counts.get(name, 0)) for name in ("stored_bytes", "documents", "bytes", "rejected"))
    )


class _Partition:
    """One partition on its way through."""

    def __init__(self, tools: _PartitionTokenizer, runs: RunWriter, parallel: bool) -> None:
        self._tools, self.runs, self._parallel = tools, runs, parallel
        self.matches: list[dict[str, JsonValue]] = []
        self.quarantined: list[dict[str, JsonValue]] = []
        self._num: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._redacted: Counter[str] = Counter()

    def counts(self) -> dict[str, JsonValue]:
        """What came of it."""
        groups = {"bad": self._bad, "skipped": self._skipped, "redacted": self._redacted}
        examples = self.quarantined[:_NUM_EXAMPLES]
        return {
            **self._num,
            "bad_examples": list[JsonValue](examples),
            **{name: dict(group) for name, group in groups.items()},
        }

    def add(self, batch: Batch) -> None:
        """Take the next records."""
        self._num["stored_bytes"] = batch.stored_bytes
        self._skipped.update(batch.num_skipped)
        for bad in batch.bad:
            self._bad[bad.kind] += 1
            if len(self.quarantined) < _MAX_QUARANTINED:
                self.quarantined.append(bad._asdict())
        if batch.records.num_rows:
            self._add_records(batch.records)

    def _add_records(self, records: pa.RecordBatch) -> None:
        texts, job = records["text"], self._tools.job
        judged = annotate_documents(texts, job.data, job.seed)
        reasons = self._decontaminated(records, judged)
        is_kept = pc.is_null(reasons)
        self._num["documents"] += len(texts)
        self._num["bytes"] += int(pc.sum(pc.binary_length(texts)).as_py())
        self._num["rejected"] += len(texts) - int(pc.sum(is_kept).as_py() or 0)
        kept = records.filter(is_kept)
        excerpts = pc.utf8_slice_codeunits(texts, 0, _EXCERPT_CHARACTERS)
        columns = {
            **{name: judged[name] for name in ("order", "sha256", "held_out")},
            "reason": reasons,
            **{name: records[name] for name in ("language", "source", "path")},
            "num_bytes": pc.binary_length(texts).cast(pa.int64()),
            "excerpt": pc.if_else(is_kept, pa.scalar(None, type=pa.large_string()), excerpts),
            "tokens": _expand_to_all_rows(self._encoded(kept, judged.filter(is_kept)), is_kept),
            "bands": self._bands(texts),
        }
        self.runs.add(pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA))

    def _decontaminated(self, records: pa.RecordBatch, judged: pa.RecordBatch) -> pa.Array:
        """The reasons, with one for each document that holds a part of a benchmark."""
        matches = self._tools.decontaminator.find(records["text"])
        if not matches:
            return judged["reason"]
        reasons = judged["reason"].to_pylist()
        for match in matches:
            if reasons[match.document] in (None, CONTAMINATED):
                reasons[match.document] = CONTAMINATED
                place = {name: records[name][match.document].as_py() for name in ("source", "path")}
                found = {
                    "sha256": judged["sha256"][match.document].as_py().hex(),
                    **place,
                    **match._asdict(),
                }
                self.matches.append(
                    {name: value for name, value in found.items() if name != "document"}
                )
        return pa.array(reasons, type=pa.large_string())

    def _encoded(self, records: pa.RecordBatch, judged: pa.RecordBatch) -> pa.LargeBinaryArray:
        """The tokens of each document, its language's prefix first, the separator last."""
        texts = records["text"]
        if self._tools.job.data.redaction.enabled:
            texts, counts = redact(texts, self._tools.job.data.redaction)
            self._redacted.update({kind: int(count.sum()) for kind, count in counts.items()})
        languages, encoder = records["language"].to_pylist(), self._tools.encoder
        whole = [
            self._tools.prefixes.get(name, "") + text
            for name, text in zip(languages, texts.to_pylist(), strict=True)
        ]
        encoded = encoder.encode_batch(whole, parallel=self._parallel)
        self._verify_sample(records, judged, whole, encoded)
        return _with_separators(encoded, encoder.eot_id)

    def _verify_sample(
        self, records: pa.RecordBatch, judged: pa.RecordBatch, texts: list[str], encoded: Any
    ) -> None:
        """Hold those that were chosen by their content against the reference."""
        fraction, seed = self._tools.job.verify_fraction, self._tools.job.seed
        digests = judged["sha256"].to_pylist()
        chosen = [
            at
            for at, digest in enumerate(digests)
            if in_hash_sample("proof", digest, fraction, seed)
        ]
        names = [f"{records['path'][at]} of {records['source'][at]}" for at in chosen]
        self._tools.encoder.verify_against_reference(
            [texts[at] for at in chosen], [encoded[at] for at in chosen], names
        )
        self._num["proved_documents"] += len(chosen)
        self._num["proved_tokens"] += sum(len(encoded[at]) for at in chosen)

    def _bands(self, texts: pa.LargeStringArray) -> pa.Array:
        config = self._tools.job.data.near_duplicates
        if not config.enabled:
            return pa.nulls(len(texts), type=ROW_SCHEMA.field("bands").type)
        return pa.array(
            compute_signatures(texts, config).tolist(), type=ROW_SCHEMA.field("bands").type
        )


def _with_separators(encoded: RaggedIds, eot_id: int) -> pa.LargeBinaryArray:
    """The tokens of each text with the separator behind them, little-endian uint16."""
    offsets = encoded.offsets + np.arange(len(encoded) + 1)
    tokens = np.empty(offsets[-1], dtype=TOKEN_DTYPE)
    for at, (start, end) in enumerate(pairwise(offsets.tolist())):
        tokens[start : end - 1] = encoded[at]
        tokens[end - 1] = eot_id
    buffers = [None, pa.py_buffer(offsets * TOKEN_DTYPE.itemsize), pa.py_buffer(tokens)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(encoded), buffers)


def _expand_to_all_rows(values: pa.Array, is_kept: pa.Array) -> pa.Array:
    """The values of the kept rows at their places among all rows, null elsewhere."""
    places = np.cumsum(is_kept.to_numpy(zero_copy_only=False)) - 1
    return values.take(pa.array(places, mask=~is_kept.to_numpy(zero_copy_only=False)))
