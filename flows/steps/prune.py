"""Pruning of the store and of MLflow's copies of weights: `codegen artifacts prune`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from components.core.errors import ConfigError
from components.core.prune import (
    PrunePlan,
    artifact_size,
    exclude_users,
    finish_remote_removals,
    kept_builds,
    plan_prune,
    remove_artifact,
    remove_leftover,
)
from components.core.store import Store
from flows.runtime.stale_runs import active_run_ids
from flows.settings.execution import Execution

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.pruning import ModelCopy
    from components.registry.tracking import Tracking


class Removal(NamedTuple):
    """Something that pruning removes."""

    name: str
    """Label of an artifact, versions of a model, or a folder."""
    size_bytes: int
    reason: str


class PruneResult(NamedTuple):
    """What was removed, or would be."""

    removals: tuple[Removal, ...]
    kept_labels: tuple[str, ...]
    """Labels of the kept artifacts."""
    in_use: tuple[str, ...] = ()
    """Names of removals that were skipped: a process builds them, or a version got an alias."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all removals."""
        return sum(removal.size_bytes for removal in self.removals)


def prune(execution: Execution, *, keep: int, dry_run: bool) -> PruneResult:
    """Remove the artifacts, copies of weights and unfinished builds that nothing needs.

    Kept are: artifacts of model versions with an alias; checkpoints that a stage gate stopped; the
    newest artifacts of each recipe, kind and name; artifacts that no run of this MLflow has
    recorded; the inputs of the trainings that can be resumed; and everything that these need (see
    `needed_labels`).

    Args:
        keep: number of newest artifacts of each recipe, kind and name.
        dry_run: only return what would be removed.

    Raises:
        ConfigError, ArtifactError: a flow run is active.
        TrackingError: MLflow does not answer.
        JsonError, TrainingError: the inputs of a training that can be resumed cannot be read.
        RemoteError: the store does not answer or refuses.
    """
    store = execution.open_store()
    tracking = execution.open_tracking()
    tracking.check()
    if dry_run:
        plan, copies = _plan(store, tracking, keep)
        return _result(plan, copies)
    _require_no_active_run(execution)
    with exclude_users(store):
        finish_remote_removals(store)
        plan, copies = _plan(store, tracking, keep)
        return _result(plan, copies, in_use=tuple(_remove(store, tracking, plan, copies)))


def _plan(store: Store, tracking: Tracking, keep: int) -> tuple[PrunePlan, list[ModelCopy]]:
    from components.registry.pruning import (
        digests_with_alias,
        find_model_copies,
        recorded_artifacts,
        stopped_checkpoints,
    )
    from components.training.run_file import input_digests

    recorded = recorded_artifacts(tracking, keep)
    with_alias = digests_with_alias(tracking)
    roots = recorded.newest | stopped_checkpoints(tracking)
    resumable = kept_builds(store, "checkpoint", keep)
    inputs: set[str] = set().union(*map(input_digests, resumable))
    for artifact in store.list_artifacts():
        is_aliased = artifact.kind == "checkpoint" and artifact.digest in with_alias
        if is_aliased or artifact.digest in inputs:
            roots |= {artifact.label}
    plan = plan_prune(store, roots, recorded.labels, keep)
    kept_digests = with_alias | {artifact.digest for artifact in plan.kept_artifacts}
    digests = {artifact.digest for artifact in plan.removed_artifacts} - kept_digests
    return plan, find_model_copies(tracking, digests)


def _remove(
    store: Store, tracking: Tracking, plan: PrunePlan, copies: list[ModelCopy]
) -> Iterator[str]:
    """Remove everything of a plan; yields the names of removals that were skipped."""
    from components.registry.pruning import remove_model_copy

    skipped_digests = set()
    for copy in copies:
        if not remove_model_copy(tracking, copy):
            skipped_digests.add(copy.digest)
            yield _copy_name(copy)
    for artifact in plan.removed_artifacts:
        # After its copies: an interrupted prune finds them by the artifacts that it removes.
        if artifact.digest in skipped_digests or not remove_artifact(store, artifact):
            yield artifact.label
    for leftover in plan.leftovers:
        if not remove_leftover(store, leftover):
            yield str(leftover.path)


def _result(plan: PrunePlan, copies: list[ModelCopy], in_use: tuple[str, ...] = ()) -> PruneResult:
    sizes = {artifact.digest: artifact_size(artifact) for artifact in plan.removed_artifacts}
    removals = [
        *(Removal(_copy_name(copy), sizes[copy.digest], "copy in MLflow") for copy in copies),
        *(
            Removal(item.label, artifact_size(item), "not needed")
            for item in plan.removed_artifacts
        ),
        *(Removal(str(item.path), item.size_bytes, item.reason) for item in plan.leftovers),
    ]
    done = tuple(removal for removal in removals if removal.name not in in_use)
    return PruneResult(done, tuple(artifact.label for artifact in plan.kept_artifacts), in_use)


def _copy_name(copy: ModelCopy) -> str:
    return ", ".join(copy.versions) or f"model {copy.model_id}"


def _require_no_active_run(execution: Execution) -> None:
    if active := active_run_ids(execution):
        raise ConfigError(
            f"flow runs are active: {', '.join(active)}",
            expected="no running flow while artifacts are removed",
            fix="wait until they have finished, or cancel them; if a run of another host is gone, "
            f"remove its file in {execution.workspace_path / 'active-runs'}",
        )
