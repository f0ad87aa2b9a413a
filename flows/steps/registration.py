"""Registration of a checkpoint as a model version, and the evidence that the gate evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from components.core.artifact import Artifact, Parent
from components.core.files import read_json
from components.core.fingerprint import fingerprint
from components.core.provenance import provenance
from components.core.store import Store
from flows.runtime.context import FlowContext
from flows.steps.prepare_corpora import training_corpora_of

if TYPE_CHECKING:  # Imports MLflow and numpy.
    from components.registry.evidence import Evidence
    from components.registry.tracking import TrackedRun

_BITS_PER_BYTE = "bits_per_byte"
"""The evaluation without problems that a corpus can contain."""


def register_checkpoint(
    context: FlowContext,
    stage: str,
    checkpoint: Artifact,
    raw: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
    evaluations: dict[str, Artifact],
    skipped: dict[str, str],
) -> tuple[int, Evidence]:
    """Register a checkpoint in a task; return its version and the evidence about it.

    Args:
        stage: the stage of the checkpoint.
        raw: raw corpora.
        prepared: prepared corpora.
        evaluations: by benchmark.
        skipped: reasons for skipped benchmarks.
    """
    from components.registry.versions import register

    corpus = context.recipe.training.corpus_of(stage)
    dvc_md5 = str(raw[corpus].provenance.get("dvc_md5", "none: not pinned by DVC"))

    def step(run: TrackedRun) -> Artifact:
        return register(
            checkpoint,
            context.store.fetch_verified(checkpoint),
            name=checkpoint.name,
            stage=stage,
            run=run,
            evaluations=evaluations,
            dvc_md5=dvc_md5,
            parity=_logit_parity,
            parity_environment=_parity_environment(),
            max_logit_difference=context.recipe.promotion.max_logit_difference,
            corpora=training_corpora_of(context.recipe, context.execution, stage, raw, prepared),
            not_measured=skipped,
        )

    registered = context.task(f"register {stage}", step, tags={"stage": stage}).statistics
    logit_difference = cast(float, registered["logit_difference"])
    evidence = collect_evidence(context.store, checkpoint, evaluations, logit_difference)
    return cast(int, registered["version"]), evidence


def _logit_parity(folder: Path) -> float:
    # PyTorch and transformers: needed only when a checkpoint is registered for the first time.
    from components.model.huggingface import logit_parity

    return logit_parity(folder)


def _parity_environment() -> str:
    """Return the commit and packages that measure parity; empty if the code is not committed."""
    code = provenance()
    if code["git_dirty"] is not False:
        return ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"commit {code['git_commit']}, {packages}"


def collect_evidence(
    store: Store, checkpoint: Artifact, evaluations: dict[str, Artifact], logit_difference: float
) -> Evidence:
    """Return the evidence about a checkpoint from its evaluations by benchmark.

    Raises:
        ArtifactError: an evaluation is damaged.
    """
    from components.evaluation.scoring.score_statistics import metrics_by_problem
    from components.registry.evidence import Evidence
    from components.registry.gate import metrics_of
    from components.registry.lineage import is_dirty

    settings: dict[str, dict[str, Any]] = {}
    by_problem: dict[str, dict[str, float]] = {}
    for name, evaluation in evaluations.items():
        results = read_json(store.fetch_verified(evaluation) / "results.json")
        settings[name] = {**results["protocol_settings"], "inputs": _input_digests(evaluation)}
        for metric, values in metrics_by_problem(results).items():
            by_problem[f"{name}/{metric}"] = values
    return Evidence(
        digest=checkpoint.digest,
        metrics=metrics_of(evaluations),
        protocols={
            name: protocol_fingerprint(evaluation) for name, evaluation in evaluations.items()
        },
        settings=settings,
        by_problem=by_problem,
        contamination={
            name: contamination(store, checkpoint, name)
            for name in evaluations
            if name != _BITS_PER_BYTE
        },
        logit_difference=logit_difference,
        sandboxed=is_sandboxed(evaluations),
        git_dirty=is_dirty(checkpoint),
    )


def protocol_fingerprint(evaluation: Artifact) -> str:
    """Return the fingerprint of an evaluation's protocol and inputs, without the model."""
    protocol = evaluation.statistics.get("protocol")
    return fingerprint({"settings": protocol, "inputs": _input_digests(evaluation)})


def _input_digests(evaluation: Artifact) -> dict[str, Any]:
    return {
        parent.role: parent.digest
        for parent in evaluation.parents
        if parent.kind not in ("checkpoint", "samples")
    }


def contamination(store: Store, checkpoint: Artifact, benchmark: str) -> dict[str, int | None]:
    """Return the number of documents with benchmark text in all training corpora of a checkpoint.

    Keys are versions such as `mono-6600f0dd1cf2`, since a model that was trained further can have
    two versions of a corpus. The value None means that the number is unknown: the corpus was not
    searched, was deleted from the store, or belongs to an imported checkpoint.
    """
    lineage = store.lineage(checkpoint)
    stored_addresses = {artifact.address for artifact in lineage}
    counts: dict[str, int | None] = {}
    for artifact in lineage:
        if artifact.kind == "prepared-corpus":
            contaminated: Any = artifact.statistics.get("contaminated", {})
            counts[_version_name(artifact)] = contaminated.get(benchmark)
        elif artifact.kind == "checkpoint" and artifact.statistics.get("imported"):
            counts[_version_name(artifact)] = None
        for parent in artifact.parents:
            is_training_input = parent.kind in ("prepared-corpus", "checkpoint")
            if is_training_input and parent.address not in stored_addresses:
                counts[_version_name(parent)] = None
    return counts


def _version_name(artifact: Artifact | Parent) -> str:
    return PurePosixPath(artifact.address).name


def is_sandboxed(evaluations: Mapping[str, Artifact]) -> bool | None:
    """Whether all executed programs were isolated; None if none were executed."""
    isolated = [
        evaluation.statistics.get("isolated") is True
        for evaluation in evaluations.values()
        if evaluation.statistics.get("executed")
    ]
    return all(isolated) if isolated else None
