"""Registered models: a checkpoint becomes a version, once, and can be had back with its digest checked.

Design decision: a checkpoint's digest is the key. Its logged model (`checkpoints`) is filled and tagged as complete; only
then does a version name it, in one transaction with its tags. So what a killed registration leaves is either found and
finished by the next one, or invisible to whoever loads by name. One user's processes on one host register one after
another.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from components.core.artifact import Artifact, content_digest
from components.core.errors import ArtifactError, TrackingError
from components.core.fingerprint import fingerprint, list_files
from components.core.provenance import provenance
from components.core.store import MANIFEST
from components.registry.card import Learnt, model_card
from components.registry.client.connection import wrap_mlflow_errors
from components.registry.client.naming import renamed
from components.registry.flavor import CHECKPOINT_FOLDER, require_checkpoint, write_model_files
from components.registry.gate import metrics_of
from components.registry.runs import TrackedRun
from components.registry.tags import artifact_tags, git_tags
from components.registry.tracking import Tracking

CODE_VERSION = 1
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for a model or version, and for an alias, that is not there."""

_PARITY = "logit_parity"
"""Tag of a version: the largest difference that was found, and with which code and packages."""
_FILES, _COMPLETE = "files", "complete"
"""Tag of a logged model that has all of its files."""


class VersionRef(NamedTuple):
    """A version, once looked up: an alias may move at any moment, this stays what it is."""

    uri: str
    """`models:/NAME/VERSION`."""
    digest: str
    """SHA-256 of its checkpoint's files."""


def register(
    checkpoint: Artifact,
    folder: Path,
    *,
    name: str,
    stage: str,
    run: TrackedRun,
    evaluations: Mapping[str, Artifact],
    dvc_md5: str,
    parity: Callable[[Path], float],
    parity_environment: str = "",
    max_logit_difference: float,
    learnt: Sequence[Learnt] = (),
    not_measured: Mapping[str, str] | None = None,
) -> Artifact:
    """Make a checkpoint a version of the model `name`, or find the version that it is already.

    Nothing is registered that `transformers` would compute otherwise than we do: that is measured here, on the very files.

    Args:
        folder: the checkpoint's files (`Store.open`).
        run: the run that registers; its metrics are linked to the model.
        evaluations: evaluation artifacts by benchmark; their numeric statistics become metrics `benchmark/...`, tags and
            the model card. Given again with other figures, they replace the former ones.
        dvc_md5: of `data.dvc`, the root of the lineage.
        parity: the largest absolute difference between our logits and those of `transformers` for a folder
            (`components.model.huggingface.logit_parity`; this room does not know the model's).
        parity_environment: the code and the packages that measure it. A version that names the same is not measured again; empty
            where they are not known exactly, and then it always is.
        max_logit_difference: what it may be.
        learnt: the corpora that it learnt from, for the model card.
        not_measured: benchmarks that were left out, and why; for the model card.

    Returns:
        An artifact of kind `registered-model` whose address is `models:/NAME/VERSION` and whose digest is the checkpoint's;
        its statistics state `logit_difference`.

    Raises:
        ArtifactError: the folder is no complete CodeGen checkpoint, or the logits differ by more.
        TrackingError: MLflow refused.
    """
    require_checkpoint(folder)
    client, tracking = run.tracking.client, run.tracking
    known_difference = _known_difference(
        find_version(tracking, name, checkpoint.digest), parity_environment
    )
    logit_difference = parity(folder) if known_difference is None else known_difference
    _require_parity(folder, logit_difference, max_logit_difference)
    card = model_card(name, checkpoint, evaluations, dvc_md5, tracking.uri, learnt, not_measured)
    metrics = metrics_of(evaluations)
    tags = _version_tags(checkpoint, stage, dvc_md5, metrics) | {
        _PARITY: f"{logit_difference!r} {parity_environment}".strip()
    }
    with wrap_mlflow_errors(f"registering {name}"), tracking.model_lock(name):
        version = find_version(tracking, name, checkpoint.digest)
        if version is None:
            model = _upload_model_files(run, checkpoint, folder, card)
            version = _new_version(tracking, name, model, run.id, tags, card)
        for key, value in tags.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(name, version.version, key, value)
        if version.description != card:
            client.update_model_version(name, version.version, card)
        model_id = version.tags["model_id"]
        known = run.log_output_model(checkpoint)
        _link(tracking, known, name, str(version.version))
    # A version of before may name another logged model of the same checkpoint than the one that has its figures.
    run.log_metrics(metrics, model=known)
    inputs = (
        checkpoint.as_parent("checkpoint"),
        *(one.as_parent(role) for role, one in sorted(evaluations.items())),
    )
    return Artifact(
        kind="registered-model",
        name=name,
        address=f"models:/{name}/{version.version}",
        recipe_hash=fingerprint(
            {"name": name, "checkpoint": checkpoint.digest, "code_version": CODE_VERSION}
        ),
        digest=checkpoint.digest,
        parents=inputs,
        statistics={
            "version": int(version.version),
            "stage": stage,
            "logit_difference": logit_difference,
        },
        provenance={**provenance(), "run_id": run.id, "model_id": model_id, "dvc_md5": dvc_md5},
    )


def _known_difference(version: ModelVersion | None, measured_by: str) -> float | None:
    """What the same code found of these files when they were registered; None where it did not."""
    difference, _, by = (version.tags.get(_PARITY, "") if version else "").partition(" ")
    return float(difference) if by and by == measured_by else None


def _require_parity(folder: Path, found: float, max_difference: float) -> None:
    if not found <= max_difference:  # NaN, too.
        raise ArtifactError(
            f"the logits that transformers computes from {folder} differ from ours by {found:.3g}",
            expected=f"at most {max_difference:g}; nothing was registered",
            fix="install the versions of constraints.txt; if they are, keep the checkpoint and report it",
        )


def _version_tags(
    checkpoint: Artifact, stage: str, dvc_md5: str, metrics: Mapping[str, float]
) -> dict[str, str]:
    return {
        "checkpoint_digest": checkpoint.digest,
        "recipe": checkpoint.recipe_hash,
        "dvc_md5": dvc_md5,
        **artifact_tags(checkpoint),
        **git_tags(checkpoint),
        "stage": stage,
        **renamed({metric: f"{value:.6g}" for metric, value in metrics.items()}),
    }


def find_version(tracking: Tracking, name: str, digest: str) -> ModelVersion | None:
    """The version of a model that has a checkpoint's digest, or None."""
    with wrap_mlflow_errors(f"looking for {name}"):
        found = tracking.client.search_model_versions(
            f"name = '{name}' and tags.checkpoint_digest = '{digest}'"
        )
    return min(found, key=lambda version: int(version.version), default=None)


def download(tracking: Tracking, uri: str, into: Path) -> Path:
    """Fetch a registered model as a plain Hugging Face folder and return that folder.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        into: where to put it.

    Raises:
        ArtifactError: what was fetched does not have the digest that was registered.
        TrackingError: there is no such model.
    """
    found = resolve_version(tracking, uri)
    with wrap_mlflow_errors(f"fetching {uri}"):
        into.mkdir(parents=True, exist_ok=True)
        got = mlflow.artifacts.download_artifacts(
            found.uri, dst_path=str(into), tracking_uri=tracking.uri
        )
    folder = Path(got) / CHECKPOINT_FOLDER
    digest = digest_in(folder)
    if digest != found.digest:
        raise ArtifactError(
            f"{uri} was fetched with SHA-256 {digest[:12]}",
            expected=f"{found.digest[:12]}, as it was registered",
            fix="register the checkpoint again from the store, under a new version",
        )
    return folder


def digest_in(folder: Path) -> str:
    """The digest of a checkpoint in a folder, whether it lies in a store or was fetched."""
    return content_digest(tuple(file for file in list_files(folder) if file.path != MANIFEST))


def resolve_version(tracking: Tracking, uri: str) -> VersionRef:
    """The version that a URI names now, as in `download`.

    Raises:
        TrackingError: there is no such model, or it is no checkpoint of ours.
    """
    with wrap_mlflow_errors(f"looking for {uri}"):
        version = version_of(tracking, uri)
    exact, digest = (
        f"models:/{version.name}/{version.version}",
        version.tags.get("checkpoint_digest"),
    )
    if not digest:
        raise TrackingError(
            f"{exact} does not state the digest of a checkpoint",
            expected="a version that this platform registered",
            fix="look at `codegen models list`; `codegen promote` registers a recipe's checkpoints",
        )
    return VersionRef(exact, digest)


def version_of(tracking: Tracking, uri: str) -> ModelVersion:
    """The version that a URI names, as in `download`.

    Raises:
        TrackingError: there is no such version.
    """
    name, _, version = uri.removeprefix("models:/").partition("/")
    try:
        if version:
            return tracking.client.get_model_version(name, version)
        name, _, alias = name.partition("@")
        return tracking.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        raise TrackingError(
            f"the registry has no {uri.removeprefix('models:/')}",
            expected="NAME@ALIAS or NAME/VERSION of a registered model",
            fix="look at `codegen models list`; `codegen promote` registers a recipe's checkpoints",
        ) from error


def _upload_model_files(
    run: TrackedRun, checkpoint: Artifact, folder: Path, card: str
) -> LoggedModel:
    """A checkpoint's logged model with its files, which a killed registration may have left in part."""
    client, model = run.tracking.client, run.log_output_model(checkpoint)
    if model.tags.get(_FILES) == _COMPLETE:
        return model
    described = Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=run.id,
        model_id=model.model_id,
    )
    with tempfile.TemporaryDirectory() as scratch:
        write_model_files(folder, Path(scratch), model=described, card=card)
        client.log_model_artifacts(model.model_id, str(folder), CHECKPOINT_FOLDER)
        client.log_model_artifacts(model.model_id, scratch)
    client.set_logged_model_tags(model.model_id, {_FILES: _COMPLETE})
    return model


def _link(tracking: Tracking, model: LoggedModel, name: str, version: str) -> None:
    """Let a logged model's page name its version: MLflow's `register_model` keeps that in a tag, its client does not."""
    linked = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    one = {"name": name, "version": version}
    if one not in linked:
        tracking.client.set_logged_model_tags(
            model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*linked, one])}
        )


def _new_version(
    tracking: Tracking,
    name: str,
    model: LoggedModel,
    run_id: str,
    tags: Mapping[str, str],
    card: str,
) -> ModelVersion:
    try:
        tracking.client.create_registered_model(
            name, description="A CodeGen model; see the versions for what they are."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return tracking.client.create_model_version(
        name,
        f"models:/{model.model_id}",
        run_id=run_id,
        tags={**tags, "model_id": model.model_id},
        description=card,
        model_id=model.model_id,
    )
