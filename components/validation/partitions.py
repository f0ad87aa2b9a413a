"""Profile a corpus of any size: one task a partition, run by the engine of `components.data`, and the profiles merged.

Design decision: what cannot be read is set aside here as it is in preparation, counted in the profile, and shown; whether it
is too much is decided when the corpus is prepared. What is not covered: the corpora in `data/`, whose records have to be
readable one and all (`raw.profile_folder`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import JsonValue

from components.core.progress import track
from components.data.config import DataConfig, DataPlace
from components.data.engine import run_tasks
from components.data.sources.config import Source, extensions_with
from components.data.sources.partitions import Partition, list_partitions
from components.data.sources.reading import Bad, read_partition
from components.validation.config import ValidationConfig
from components.validation.profile import Limits, Profile, merge, profile_corpus

_SHOWN = 20
"""Quarantined records of a partition that Data Docs show."""


class Profiled(NamedTuple):
    """A corpus, as far as it could be read."""

    profile: Profile
    quarantined: list[dict[str, JsonValue]]
    """Some of the records that were set aside: `file`, `offset`, `reason`, `excerpt`."""


def profile_sources(
    corpus: str, sources: Sequence[Source], config: ValidationConfig, data: DataConfig, place: DataPlace
) -> Profiled:
    """The profile of everything that the sources of a corpus hold.

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
    work: list[JsonValue] = [{**common, "partition": one.model_dump(mode="json")} for one in partitions]
    profiles, quarantined, num_bad = [Profile(limits=limits)], [], 0
    with track(f"profile {corpus}", sum(one.size_bytes for one in partitions), "bytes") as advance:
        for result in run_tasks(profile_partition, work, place):
            profiles.append(Profile.parse(result["profile"]))
            quarantined += result["quarantined"]
            num_bad += result["num_bad"]
            advance(result["size_bytes"])
    shown = sorted(quarantined, key=lambda one: (one["file"], one["offset"]))
    return Profiled(merge(profiles).quarantining(num_bad), shown)


def profile_partition(work: Any) -> JsonValue:
    """The profile of the partition `work["partition"]`, and what was set aside in it."""
    partition, limits = Partition.parse(work["partition"]), Limits.parse(work["limits"])
    data = DataConfig.parse(work["data"])
    bad: list[Bad] = []
    num_bad = 0

    def records() -> Iterator[pa.RecordBatch]:
        nonlocal num_bad
        for batch in read_partition(partition, limits.languages, extensions_with(data.extensions), data.quarantine):
            num_bad += len(batch.bad)
            bad.extend(batch.bad[: _SHOWN - len(bad)])
            yield batch.records

    profile = profile_corpus(records(), limits)
    return {
        "profile": profile.model_dump(mode="json"),
        "quarantined": [one._asdict() for one in bad],
        "num_bad": num_bad,
        "size_bytes": partition.size_bytes,
    }
