"""What MLflow knows about artifacts of the store, and removal of its copies of weights.

Runs, metrics, decisions and logged models stay. Only the files of a model are deleted, and its
versions without an alias, since they could no longer be loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from components.core.prune import label_group
from components.registry.client.connection import (
    list_experiment_ids,
    read_pages,
    wrap_mlflow_errors,
)
from components.registry.flavor import CHECKPOINT_FOLDER
from components.registry.promotion import CHAMPION, derive_aliases, version_at
from components.registry.queries import list_versions
from components.registry.stage_gate import CHECKPOINT_TAG, OUTCOME_TAG
from components.registry.tracking import Tracking
from components.registry.versions import FILES_COMPLETE, FILES_TAG

_MAX_RESULTS = 1000
_FILES_INCOMPLETE = "incomplete"
_FILES_REMOVED = "removed"


class ModelCopy(NamedTuple):
    """The files of a checkpoint in MLflow, and its registered versions."""

    digest: str
    """Of the checkpoint."""
    model_id: str
    versions: tuple[str, ...]
    """`NAME/NUMBER`."""


class RecordedArtifacts(NamedTuple):
    """The artifacts that runs of MLflow have recorded."""

    labels: frozenset[str]
    """Of all runs, deleted runs included."""
    newest: frozenset[str]
    """The newest of each experiment, kind and name, by the last run that built or reused them. All
    checkpoints inside a stage count as one name."""


def recorded_artifacts(tracking: Tracking, keep: int) -> RecordedArtifacts:
    """Return the artifacts that runs have recorded.

    Args:
        keep: number of newest artifacts of each experiment (a recipe), kind and name.
    """
    labels = set()
    last_used: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for run in _search_runs(tracking, "tags.artifact LIKE '%/%'", ViewType.ALL):
        label = run.data.tags["artifact"]
        labels.add(label)
        if run.info.lifecycle_stage == "active":
            group = run.info.experiment_id, label_group(label)
            times = last_used[group]
            times[label] = max(times.get(label, 0), run.info.start_time)
    newest: set[str] = set()
    for times in last_used.values():
        by_time = sorted(times, key=lambda label: (times[label], label), reverse=True)
        newest.update(by_time[:keep])
    return RecordedArtifacts(frozenset(labels), frozenset(newest))


def stopped_checkpoints(tracking: Tracking) -> set[str]:
    """Return the labels of the checkpoints whose last decision at a stage gate is `stopped`."""
    last: dict[str, Run] = {}
    query = f"tags.{OUTCOME_TAG} != '' and tags.{CHECKPOINT_TAG} LIKE '%/%'"
    for run in _search_runs(tracking, query, ViewType.ACTIVE_ONLY):
        label = run.data.tags[CHECKPOINT_TAG]
        if label not in last or run.info.start_time > last[label].info.start_time:
            last[label] = run
    return {label for label, run in last.items() if run.data.tags[OUTCOME_TAG] == "stopped"}


def _search_runs(tracking: Tracking, query: str, view_type: int) -> Iterator[Run]:
    """Yield the runs that match a query; `view_type` says whether deleted runs count."""
    with wrap_mlflow_errors("reading the recorded artifacts"):
        ids = list_experiment_ids(tracking.client, view_type)
        if not ids:
            return
        yield from read_pages(
            lambda token: tracking.client.search_runs(
                ids,
                query,
                run_view_type=view_type,
                max_results=_MAX_RESULTS,
                page_token=token,
            )
        )


def digests_with_alias(tracking: Tracking) -> set[str]:
    """Return the digests of the checkpoints whose versions have an alias, e.g. champion, previous,
    candidate."""
    return {version.digest for version in list_versions(tracking) if version.aliases}


def find_model_copies(tracking: Tracking, digests: Collection[str]) -> list[ModelCopy]:
    """Return the files that MLflow stores for checkpoints, and their registered versions."""
    versions: dict[str, list[str]] = defaultdict(list)
    for version in list_versions(tracking):
        versions[version.digest].append(f"{version.model}/{version.version}")
    copies = []
    for model in _logged_models(tracking):
        digest = model.tags.get("checkpoint_digest", "")
        has_files = model.tags.get(FILES_TAG) in (FILES_COMPLETE, _FILES_INCOMPLETE)
        if digest in digests and has_files:
            copies.append(ModelCopy(digest, model.model_id, tuple(versions[digest])))
    return copies


def _logged_models(tracking: Tracking) -> Iterator[LoggedModel]:
    with wrap_mlflow_errors("listing the logged models"):
        ids = list_experiment_ids(tracking.client)
        if ids:
            yield from read_pages(
                lambda token: tracking.client.search_logged_models(ids, page_token=token)
            )


def remove_model_copy(tracking: Tracking, copy: ModelCopy) -> bool:
    """Delete the versions of a checkpoint, then its files in MLflow.

    Returns:
        False if a version has received an alias in the meantime; nothing more is removed.
    """
    for label in copy.versions:
        name, _, number = label.rpartition("/")
        with wrap_mlflow_errors(f"removing {label}"), tracking.model_lock(name):
            aliases = tracking.client.get_registered_model(name).aliases
            champion = version_at(tracking, name, CHAMPION)
            if int(number) in map(int, derive_aliases(aliases, champion).values()):
                return False
            tracking.client.delete_model_version(name, number)
    with wrap_mlflow_errors(f"removing the files of {copy.digest[:12]}"):
        model = tracking.client.get_logged_model(copy.model_id)
        tracking.client.set_logged_model_tags(copy.model_id, {FILES_TAG: _FILES_INCOMPLETE})
        repository: Any = get_artifact_repository(model.artifact_location, tracking.uri)
        repository.delete_artifacts(CHECKPOINT_FOLDER)
        tracking.client.set_logged_model_tags(copy.model_id, {FILES_TAG: _FILES_REMOVED})
    return True
