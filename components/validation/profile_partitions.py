"""Profile a corpus of any size: one task a partition, run by the engine of `components.data`, and the profiles merged.

Design decision: what cannot be read is set aside here as it is in preparation, counted in the profile, and shown. Whether it
is too much is for the caller to say, once all of it is shown (`quarantine.require_tolerable`). What is not covered: the
corpora in `data/`, whose records have to be readable one and all (`raw.profile_folder`).
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
from components.data.engine import run_tasks
from components.data.sources.config import Source, extensions_with
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import Partition, list_partitions
from components.data.task_progress import ProgressAggregator, ProgressReporter, TaskCounts
from components.validation.config import ValidationConfig
from components.validation.profile import Limits, Profile, merge, profile_corpus
from components.validation.quarantine_page import MAX_EXAMPLES, QuarantineSummary, merge_quarantined


class ProfileResult(NamedTuple):
    """A corpus, as far as it could be read."""

    profile: Profile
    quarantined: QuarantineSummary
    """The records that were set aside."""
    num_read: int
    """All records: good, set aside, and left out for their language."""


def profile_sources(
    corpus: str,
    sources: Sequence[Source],
    config: ValidationConfig,
    data: DataConfig,
    place: DataExecution,
    folder: Path,
) -> ProfileResult:
    """The profile of everything that the sources of a corpus hold.

    `folder` is one that all workers share and nobody else uses; in it they tell how far they are, and it is removed.

    Raises:
        DataError: a source has no file, or one that is damaged.
        ConfigError: a corpus that is not one of ours.
    """
    limits = Limits.of(corpus, config)
    common: dict[str, JsonValue] = {
        "limits": limits.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
    }
    partitions = sorted(list_partitions(sources), key=lambda one: -one.size_bytes)
    work: list[JsonValue] = [
        {**common, "partition": one.model_dump(mode="json"), "tells": str(folder / str(number))}
        for number, one in enumerate(partitions)
    ]
    profiles, quarantined, num_read = [Profile(limits=limits)], QuarantineSummary({}, []), 0
    board, num_bytes = ProgressAggregator(folder), sum(one.size_bytes for one in partitions)
    try:
        with poll_progress(f"profile {corpus}", num_bytes, "bytes", board.snapshot, flow="text"):
            for result in run_tasks(profile_partition, work, place):
                profiles.append(Profile.parse(result["profile"]))
                quarantined = merge_quarantined(
                    [quarantined, QuarantineSummary(result["nums"], result["examples"])]
                )
                num_read += result["num_read"]
                board.finish(Path(result["tells"]).name, TaskCounts(*result["counts"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ProfileResult(merge(profiles).with_quarantined(quarantined.num), quarantined, num_read)


def profile_partition(work: Any) -> JsonValue:
    """The profile of the partition `work["partition"]`, and what was set aside in it."""
    partition, limits = Partition.parse(work["partition"]), Limits.parse(work["limits"])
    data = DataConfig.parse(work["data"])
    nums: Counter[str] = Counter()
    examples: list[JsonValue] = []
    counts, teller, num_skipped = TaskCounts(), ProgressReporter(Path(work["tells"])), 0

    def records() -> Iterator[pa.RecordBatch]:
        nonlocal counts, num_skipped
        for batch in read_partition(
            partition, limits.languages, extensions_with(data.extensions), data.quarantine
        ):
            for bad in batch.bad:
                if nums[bad.kind] < MAX_EXAMPLES:
                    examples.append({**bad._asdict(), "kind": bad.kind})
                nums[bad.kind] += 1
            num_skipped += sum(batch.num_skipped.values())
            texts = batch.records["text"]
            text_bytes = int(pc.sum(pc.binary_length(texts)).as_py() or 0)
            counts = TaskCounts(
                batch.stored_bytes,
                counts.documents + len(texts),
                counts.text_bytes + text_bytes,
                nums.total(),
            )
            teller.report(counts)
            yield batch.records

    profile = profile_corpus(records(), limits)
    return {
        "profile": profile.model_dump(mode="json"),
        "nums": dict(nums),
        "examples": examples,
        "num_read": counts.documents + nums.total() + num_skipped,
        "counts": counts,
        "tells": work["tells"],
    }
