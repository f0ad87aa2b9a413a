"""How long a step took: to make at all, and within this run. The two differ for what was killed and resumed.

One decision: a time that is not known is None and stays so in every sum, never a zero. The store times an attempt, so of
a resumed step it knows only the last; the trainer carries its own time from one attempt to the next.
"""

from __future__ import annotations

from collections.abc import Iterable

from components.core.artifact import Artifact
from components.core.files import read_jsonl
from components.core.store import Store

METRICS = "observed/metrics.jsonl"
"""One record a step, written by the trainer."""


def num_attempts(artifact: Artifact) -> int:
    """How many attempts had a part in an artifact; 1 where none was noted."""
    attempts = artifact.provenance.get("attempts")
    return max(1, len(attempts)) if isinstance(attempts, list) else 1


def seconds_to_make(artifact: Artifact, store: Store) -> float | None:
    """How long an artifact took to make, all attempts together; of a resumed stage, the time of its steps.

    None where only the last of several attempts was timed.
    """
    if num_attempts(artifact) == 1:
        return seconds_of_last_attempt(artifact)
    if artifact.kind != "checkpoint":
        return None
    steps = list(read_jsonl(store.fetch_verified(artifact) / METRICS))
    return float(steps[-1]["elapsed_s"]) if steps else None


def seconds_of_last_attempt(artifact: Artifact) -> float | None:
    """What the store timed: the attempt that published the artifact. Of an artifact made in a run, that run's part."""
    seconds = artifact.provenance.get("duration_s")
    return float(seconds) if isinstance(seconds, int | float) else None


def total(seconds: Iterable[float | None]) -> float | None:
    """The sum, or None where a part of it is not known."""
    known = list(seconds)
    return None if None in known else sum(one for one in known if one is not None)
