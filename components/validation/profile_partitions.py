"""Profile a corpus of any size: a task per partition on the engine of `components.data`.

Records that cannot be read are quarantined as in preparation, and counted in the profile. The
caller decides whether there are too many (`quarantine.check_quarantine_limit`), after all of
them were reported. Corpora in `data/`, whose records must all be readable, are profiled by
`raw.profile_folder`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from components.core.progress import poll_progress
from components.data.config import DataConfig, DataExecution
from components.data.engine import WorkUnit, run_tasks
from components.data.sources.config import Source, merge_extensions
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import Partition, list_partitions
from components.data.sources.quarantine import require_readable_records
from components.data.task_progress import ProgressAggregator, ProgressReporter, TaskCounts
from components.validation.config import ValidationConfig
from components.validation.profile import (
    MAX_QUARANTINED_EXAMPLES,
    Profile,
    ProfileLimits,
    QuarantineSummary,
    merge_profiles,
    merge_quarantined,
    profile_corpus,
)


class ProfileResult(NamedTuple):
    """The profile of a corpus and its quarantined records."""

    profile: Profile
    quarantined: QuarantineSummary
    num_read: int
    """All records: documents, quarantined records, and records skipped for their language."""


def profile_sources(
    corpus: str,
    sources: Sequence[Source],
    config: ValidationConfig,
    data: DataConfig,
    execution: DataExecution,
    folder: Path,
) -> ProfileResult:
    """Profile all documents in the sources of a corpus.

    `folder` is shared by all workers for progress files, used by nothing else, and removed.

    Raises:
        DataError: a source has no file, or a damaged file, or no record can be read.
    """
    limits = ProfileLimits.for_corpus(data.corpora[corpus].languages, config.for_corpus(corpus))
    partitions = sorted(list_partitions(sources), key=lambda item: -item.size_bytes)
    tasks: list[WorkUnit] = [
        (
            partition.name,
            {
                "limits": limits.model_dump(mode="json"),
                "data": data.model_dump(mode="json"),
                "partition": partition.model_dump(mode="json"),
                "progress_file": str(folder / str(number)),
            },
        )
        for number, partition in enumerate(partitions)
    ]
    profiles = [Profile(limits=limits)]
    quarantined = QuarantineSummary({}, [])
    skipped = Counter[str]()
    num_read = 0
    progress = ProgressAggregator(folder)
    num_bytes = sum(partition.size_bytes for partition in partitions)
    try:
        with poll_progress(
            f"profile {corpus}", num_bytes, "bytes", progress.snapshot, throughput_of="text"
        ):
            for result in run_tasks(profile_partition, tasks, execution):
                profiles.append(Profile.parse(result["profile"]))
                quarantined = merge_quarantined(
                    [quarantined, QuarantineSummary(*result["quarantined"])]
                )
                skipped.update(result["skipped"])
                num_read += result["num_read"]
                progress.finish(Path(result["progress_file"]).name, TaskCounts(*result["counts"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    num_documents = num_read - quarantined.num - skipped.total()
    require_readable_records(
        corpus, num_documents, quarantined.counts, skipped, quarantined.records()
    )
    profile = merge_profiles(profiles).with_quarantined(quarantined.num)
    return ProfileResult(profile, quarantined, num_read)


def profile_partition(task: Any) -> JsonValue:
    """Profile the partition `task["partition"]` and summarize its quarantined records."""
    partition = Partition.parse(task["partition"])
    limits = ProfileLimits.parse(task["limits"])
    data = DataConfig.parse(task["data"])
    progress = ProgressReporter(Path(task["progress_file"]))
    num_by_kind: Counter[str] = Counter()
    examples: list[JsonValue] = []
    counts = TaskCounts()
    num_skipped = Counter[str]()

    def read_records() -> Iterator[pa.RecordBatch]:
        nonlocal counts
        for batch in read_partition(
            partition, limits.languages, merge_extensions(data.extensions), data.quarantine
        ):
            for record in batch.quarantined:
                if num_by_kind[record.kind] < MAX_QUARANTINED_EXAMPLES:
                    examples.append({**record._asdict(), "kind": record.kind})
                num_by_kind[record.kind] += 1
            num_skipped.update(batch.num_skipped)
            texts = batch.records["text"]
            counts = TaskCounts(
                batch.stored_bytes,
                counts.documents + len(texts),
                counts.text_bytes + int(pc.sum(pc.binary_length(texts)).as_py() or 0),
                num_by_kind.total(),
            )
            progress.report(counts)
            yield batch.records

    profile = profile_corpus(read_records(), limits)
    return {
        "profile": profile.model_dump(mode="json"),
        "quarantined": [dict(num_by_kind), examples],
        "skipped": dict(num_skipped),
        "num_read": counts.documents + num_by_kind.total() + num_skipped.total(),
        "counts": counts,
        "progress_file": task["progress_file"],
    }
