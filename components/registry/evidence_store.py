"""The evidence that a gate last saw of a version, kept with it: in short as a tag, as a whole with the run that judged it.

Design decision: a tag holds a few thousand characters, and figures of every problem are more. What a run keeps may be
removed (`mlflow gc`); what a tag says is there as long as the version.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from components.registry.client.connection import none_if_deleted, wrap_mlflow_errors
from components.registry.evidence import Evidence
from components.registry.runs import TrackedRun
from components.registry.tracking import Tracking

_EVIDENCE_FILE = "evidence.json"
"""The file of a run with the `Evidence` that it judged a version by: what is long is too long for a tag."""
_EVIDENCE, _EVIDENCE_RUN = "evidence", "evidence_run"
"""Tags of a version with the `Evidence` (JSON) that the gate last saw of it, but for what is long; and with that run."""
_LONG = {"by_problem", "settings"}


def evidence_of(version: ModelVersion | None) -> Evidence | None:
    """What the gate last saw of a version, but for what is long: no figures where it never judged it, None of no version."""
    if version is None:
        return None
    if (
        _EVIDENCE not in version.tags
    ):  # Made champion by hand: to be measured before it can be compared with.
        return Evidence(digest=version.tags.get("checkpoint_digest", ""), metrics={}, protocols={})
    return Evidence.model_validate_json(version.tags[_EVIDENCE])


def load_full_evidence(tracking: Tracking, version: ModelVersion | None) -> Evidence | None:
    """The same with everything, where the run that judged it still has it.

    Raises:
        TrackingError: MLflow refused.
    """
    known = evidence_of(version)
    if version is None or known is None or _EVIDENCE_RUN not in version.tags:
        return known
    found = download_run_file(tracking, version.tags[_EVIDENCE_RUN], _EVIDENCE_FILE)
    return known if found is None else Evidence.parse(json.loads(found.read_text(encoding="utf-8")))


def download_run_file(tracking: Tracking, run_id: str, name: str) -> Path | None:
    """A file that a run keeps; None where it is gone, or the run is.

    Raises:
        TrackingError: MLflow refused.
    """
    with wrap_mlflow_errors(f"reading {name} of the run {run_id}"):
        files = none_if_deleted(lambda: tracking.client.list_artifacts(run_id)) or []
        if not any(one.path == name for one in files):
            return None
        return Path(
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=name, tracking_uri=tracking.uri
            )
        )


def save_evidence(run: TrackedRun, name: str, version: int, evidence: Evidence) -> None:
    """Keep what a run has judged a version by; nothing is written where that is known already.

    Raises:
        TrackingError: MLflow refused.
    """
    with wrap_mlflow_errors(f"looking for {name}/{version}"):
        judged = run.tracking.client.get_model_version(name, str(version))
    if load_full_evidence(run.tracking, judged) == evidence:
        return
    run.json(_EVIDENCE_FILE, evidence.model_dump(mode="json"))
    # The run last: it is what the comparison above reads, so what a kill left half written is written again.
    tags = {_EVIDENCE: evidence.model_dump_json(exclude=_LONG), _EVIDENCE_RUN: run.id}
    with wrap_mlflow_errors(f"keeping the evidence of {name}"):
        for key, value in tags.items():
            run.tracking.client.set_model_version_tag(name, str(version), key, value)
