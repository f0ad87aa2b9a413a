"""What the gate is told of a checkpoint, gathered from its artifacts: figures, how they were measured, its corpora."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from components.core.artifact import Artifact, Parent
from components.core.files import read_json
from components.core.fingerprint import fingerprint
from components.core.store import Store

if TYPE_CHECKING:  # It would import numpy.
    from components.registry.evidence import Evidence

_WITH_PROBLEMS = ("humaneval", "mtpb")
"""Benchmarks whose problems can be in a corpus."""


def collect_evidence(
    store: Store, checkpoint: Artifact, measured: dict[str, Artifact], logit_difference: float
) -> Evidence:
    """The evidence about a checkpoint.

    Args:
        measured: its evaluations by benchmark.

    Raises:
        ArtifactError: an evaluation is damaged.
    """
    from components.evaluation.scoring.statistics import metrics_by_problem
    from components.registry.evidence import Evidence
    from components.registry.gate import metrics_of
    from components.registry.lineage import is_dirty

    results: dict[str, Any] = {
        name: read_json(store.fetch_verified(one) / "results.json")
        for name, one in measured.items()
    }
    return Evidence(
        digest=checkpoint.digest,
        metrics=metrics_of(measured),
        protocols={name: protocol_fingerprint(one) for name, one in measured.items()},
        settings={
            name: {**results[name]["protocol_settings"], "inputs": _inputs(one)}
            for name, one in measured.items()
        },
        by_problem={
            f"{name}/{figure}": values
            for name, result in results.items()
            for figure, values in metrics_by_problem(result).items()
        },
        contamination={
            name: contamination(store, checkpoint, name)
            for name in measured
            if name in _WITH_PROBLEMS
        },
        logit_difference=logit_difference,
        sandboxed=_sandboxed(measured),
        git_dirty=is_dirty(checkpoint),
    )


def protocol_fingerprint(evaluation: Artifact) -> str:
    """The fingerprint of how a benchmark was run: its recipe and its inputs, all but the model that it measured."""
    return fingerprint(
        {"settings": evaluation.statistics.get("protocol"), "inputs": _inputs(evaluation)}
    )


def _inputs(evaluation: Artifact) -> dict[str, Any]:
    return {
        one.role: one.digest
        for one in evaluation.parents
        if one.kind not in ("checkpoint", "samples")
    }


def contamination(store: Store, checkpoint: Artifact, benchmark: str) -> dict[str, int | None]:
    """How many documents held a part of a benchmark, in everything that a checkpoint learnt from.

    By the version of each corpus, `mono-6600f0dd1cf2`: a model that goes on from another one may have learnt from two of one
    name. None: nobody looked for it, or it cannot be known: what a model that came from elsewhere learnt from, or a corpus
    that this store no longer has.
    """
    counts: dict[str, int | None] = {}
    lineage = store.lineage(checkpoint)
    for one in lineage:
        if one.kind == "prepared-corpus":
            found: Any = one.statistics.get("contaminated", {})
            counts[_version(one)] = found.get(benchmark)
        elif one.kind == "checkpoint" and one.statistics.get("imported"):
            counts[_version(one)] = None
    return counts | {
        _version(parent): None
        for parent in _learnt_from(lineage)
        if parent.address not in _addresses(lineage)
    }


def _version(one: Artifact | Parent) -> str:
    return PurePosixPath(one.address).name


def _learnt_from(lineage: list[Artifact]) -> Iterator[Parent]:
    for one in lineage:
        yield from (
            parent for parent in one.parents if parent.kind in ("prepared-corpus", "checkpoint")
        )


def _addresses(lineage: list[Artifact]) -> set[str]:
    return {one.address for one in lineage}


def _sandboxed(measured: dict[str, Artifact]) -> bool | None:
    """Whether every program that ran was isolated; none where no program ran."""
    isolated = [
        one.statistics.get("isolated") is True
        for one in measured.values()
        if one.statistics.get("executed")
    ]
    return all(isolated) if isolated else None
