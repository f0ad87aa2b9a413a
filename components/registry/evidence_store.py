"""Storage of a version's evidence: short form in a tag, full form in the run that evaluated it.

MLflow limits a tag to a few thousand characters, less than the values of all problems. Files of a
run can be deleted (`mlflow gc`); a tag exists as long as the version.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config
from components.core.errors import ConfigError, TrackingError
from components.core.files import read_json
from components.registry.client.connection import none_if_deleted, wrap_mlflow_errors
from components.registry.evidence import Evidence
from components.registry.tracking import TrackedRun, Tracking

_EVIDENCE_FILE = "evidence.json"
_EVIDENCE_TAG = "evidence"
"""Tag of a version: its evidence as JSON, without the fields in `_LONG_FIELDS`."""
_RUN_TAG = "evidence_run"
"""Tag of a version: the run with the full evidence."""
_LONG_FIELDS = {"by_problem", "settings"}

Record = TypeVar("Record", bound=Config)


def evidence_of(version: ModelVersion | None) -> Evidence | None:
    """Return the short evidence of a version; None for None.

    Evidence without metrics for a version that no gate has evaluated, such as a champion set by
    hand.
    """
    if version is None:
        return None
    if _EVIDENCE_TAG not in version.tags:
        return Evidence(digest=version.tags.get("checkpoint_digest", ""), metrics={}, protocols={})
    return Evidence.model_validate_json(version.tags[_EVIDENCE_TAG])


def load_full_evidence(tracking: Tracking, version: ModelVersion | None) -> Evidence | None:
    """Return the full evidence of a version, or the short evidence if the run is deleted."""
    short = evidence_of(version)
    if version is None or short is None or _RUN_TAG not in version.tags:
        return short
    path = download_run_file(tracking, version.tags[_RUN_TAG], _EVIDENCE_FILE)
    return short if path is None else Evidence.parse(read_json(path))


def download_run_file(tracking: Tracking, run_id: str, name: str) -> Path | None:
    """Download a file of a run; None if the file or the run has been deleted."""
    with wrap_mlflow_errors(f"reading {name} of the run {run_id}"):
        files = none_if_deleted(lambda: tracking.client.list_artifacts(run_id)) or []
        if name not in [file.path for file in files]:
            return None
        path = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=name, tracking_uri=tracking.uri
        )
    return Path(path)


def load_record(
    tracking: Tracking,
    run_id: str,
    name: str,
    record_type: type[Record],
    *,
    expected: str,
    fix: str,
) -> Record | None:
    """Return the record in a JSON file of a run; None if the file or the run has been deleted.

    Args:
        name: of the file.
        record_type: the class of the record.
        expected, fix: for the error.

    Raises:
        TrackingError: the file is not such a record.
    """
    path = download_run_file(tracking, run_id, name)
    if path is None:
        return None
    try:
        return record_type.parse(read_json(path))
    except ConfigError as error:
        raise TrackingError(
            f"{name} of the run {run_id} cannot be read: {error.got}", expected=expected, fix=fix
        ) from error


def save_evidence(run: TrackedRun, name: str, version: int, evidence: Evidence) -> None:
    """Store the evidence of a version in a run and in tags, unless it is stored already."""
    tracking = run.tracking
    with wrap_mlflow_errors(f"looking up {name}/{version}"):
        model_version = tracking.client.get_model_version(name, str(version))
    stored = load_full_evidence(tracking, model_version)
    if stored == evidence:
        return
    run.log_json(_EVIDENCE_FILE, evidence.model_dump(mode="json"))
    # The tag with the run is last: `load_full_evidence` reads it, so after an interruption the
    # comparison above fails and everything is written again.
    tags = {_EVIDENCE_TAG: evidence.model_dump_json(exclude=_LONG_FIELDS), _RUN_TAG: run.id}
    with wrap_mlflow_errors(f"storing the evidence of {name}"):
        tracking.set_version_tags(name, version, tags)
