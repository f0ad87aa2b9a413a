"""Versions of registered models: registration of a checkpoint, lookup, and verified download.

The key is the checkpoint's digest. The files of its logged model (`lineage`) are uploaded and the
model is tagged as complete; then a transaction creates the version with its tags. After an
interruption the next registration finishes the work, and no incomplete version can be loaded by
name. Registrations by the same user and host are serialized.
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
from components.core.files import parse_json
from components.core.fingerprint import fingerprint, list_files
from components.core.provenance import provenance
from components.core.store import MANIFEST
from components.registry.card import TrainingCorpus, model_card
from components.registry.client.connection import wrap_mlflow_errors
from components.registry.client.naming import with_mlflow_names
from components.registry.flavor import CHECKPOINT_FOLDER, require_checkpoint, write_model_files
from components.registry.gate import metrics_of
from components.registry.lineage import artifact_tags, git_tags
from components.registry.tracking import TrackedRun, Tracking

CODE_VERSION = 1
_NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a missing model or version, and for a missing alias."""

_PARITY_TAG = "logit_parity"
"""Tag of a version: the measured logit difference and the code and packages that measured it."""
FILES_TAG = "files"
FILES_COMPLETE = "complete"
"""Tag of a logged model whose files are all uploaded."""


class VersionRef(NamedTuple):
    """A resolved version. An alias can move at any time; this does not."""

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
    corpora: Sequence[TrainingCorpus] = (),
    not_measured: Mapping[str, str] | None = None,
) -> Artifact:
    """Register a checkpoint as a version of the model `name`, or update its existing version.

    A checkpoint for which `transformers` computes other logits than our model is not registered;
    the difference is measured on these files.

    Args:
        folder: the checkpoint's files (`Store.open`).
        run: the run that registers; its metrics are linked to the model.
        evaluations: by benchmark. Their numeric statistics become metrics `benchmark/...`, tags and
            tables of the model card, and replace earlier values.
        dvc_md5: of `data.dvc`, the root of the lineage.
        parity: returns the largest absolute difference between our logits and those of
            `transformers` for a folder (`components.model.huggingface.logit_parity`).
        parity_environment: the code and packages of `parity`. A version with the same environment
            is not measured again. Empty if unknown: always measure.
        max_logit_difference: the maximum of `parity`.
        corpora: the training corpora, for the model card.
        not_measured: skipped benchmarks and the reasons, for the model card.

    Returns:
        An artifact of kind `registered-model`. Its address is `models:/NAME/VERSION`, its digest is
        the checkpoint's, and its statistics contain `logit_difference`.

    Raises:
        ArtifactError: the folder is not a complete CodeGen checkpoint, or the logits differ.
    """
    require_checkpoint(folder)
    tracking = run.tracking
    existing = find_version(tracking, name, checkpoint.digest)
    difference = _stored_difference(existing, parity_environment)
    if difference is None:
        difference = parity(folder)
    _require_parity(folder, difference, max_logit_difference)
    card = model_card(name, checkpoint, evaluations, dvc_md5, tracking.uri, corpora, not_measured)
    metrics = metrics_of(evaluations)
    tags = _version_tags(checkpoint, stage, dvc_md5, metrics)
    tags[_PARITY_TAG] = f"{difference!r} {parity_environment}".strip()
    with wrap_mlflow_errors(f"registering {name}"), tracking.model_lock(name):
        version = find_version(tracking, name, checkpoint.digest)
        if version is None:
            uploaded = _upload_model_files(run, checkpoint, folder, card)
            version = _create_version(tracking, name, uploaded, run.id, tags, card)
        _update_version(tracking, version, tags, card)
        # After the upload, which can take minutes: the model with its current tags and metrics.
        model = run.log_output_model(checkpoint)
        _link_version(tracking, model, name, str(version.version))
    run.log_metrics(metrics, model=model)
    key = {"name": name, "checkpoint": checkpoint.digest, "code_version": CODE_VERSION}
    evaluation_parents = [
        evaluation.as_parent(benchmark) for benchmark, evaluation in sorted(evaluations.items())
    ]
    return Artifact(
        kind="registered-model",
        name=name,
        address=f"models:/{name}/{version.version}",
        recipe_hash=fingerprint(key),
        digest=checkpoint.digest,
        parents=(checkpoint.as_parent("checkpoint"), *evaluation_parents),
        statistics={
            "version": int(version.version),
            "stage": stage,
            "logit_difference": difference,
        },
        provenance={
            **provenance(),
            "run_id": run.id,
            "model_id": version.tags["model_id"],
            "dvc_md5": dvc_md5,
        },
    )


def _stored_difference(version: ModelVersion | None, environment: str) -> float | None:
    """Return the stored logit difference if the same environment measured it."""
    tag = version.tags.get(_PARITY_TAG, "") if version else ""
    difference, _, stored_environment = tag.partition(" ")
    if not environment or environment != stored_environment:
        return None
    return float(difference)


def _require_parity(folder: Path, difference: float, max_difference: float) -> None:
    if not difference <= max_difference:  # also True for NaN
        raise ArtifactError(
            f"our logits and those of transformers for {folder} differ by {difference:.3g}",
            expected=f"at most {max_difference:g}; nothing was registered",
            fix="install the tested versions (`make install`); otherwise report the checkpoint as "
            "a bug",
        )


def _version_tags(
    checkpoint: Artifact, stage: str, dvc_md5: str, metrics: Mapping[str, float]
) -> dict[str, str]:
    metric_tags = {metric: f"{value:.6g}" for metric, value in metrics.items()}
    return {
        "checkpoint_digest": checkpoint.digest,
        "recipe": checkpoint.recipe_hash,
        "dvc_md5": dvc_md5,
        **artifact_tags(checkpoint),
        **git_tags(checkpoint),
        "stage": stage,
        **with_mlflow_names(metric_tags),
    }


def find_version(tracking: Tracking, name: str, digest: str) -> ModelVersion | None:
    """Return the version of a model with a checkpoint's digest, or None."""
    query = f"name = '{name}' and tags.checkpoint_digest = '{digest}'"
    with wrap_mlflow_errors(f"looking up {name}"):
        versions = tracking.client.search_model_versions(query)
    return min(versions, key=lambda version: int(version.version), default=None)


def download(tracking: Tracking, uri: str, target: Path) -> Path:
    """Download a registered model and return its Hugging Face folder.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        target: the parent folder of the download.

    Raises:
        ArtifactError: the files do not have the registered digest.
        TrackingError: there is no such model.
    """
    version = resolve_version(tracking, uri)
    with wrap_mlflow_errors(f"downloading {uri}"):
        target.mkdir(parents=True, exist_ok=True)
        model_folder = mlflow.artifacts.download_artifacts(
            version.uri, dst_path=str(target), tracking_uri=tracking.uri
        )
    folder = Path(model_folder) / CHECKPOINT_FOLDER
    digest = checkpoint_digest(folder)
    if digest != version.digest:
        raise ArtifactError(
            f"the download of {uri} has the SHA-256 {digest[:12]}",
            expected=f"{version.digest[:12]}, as registered",
            fix="register the checkpoint of the store again, as a new version",
        )
    return folder


def checkpoint_digest(folder: Path) -> str:
    """Return the digest of a checkpoint folder, in a store or downloaded."""
    return content_digest(tuple(file for file in list_files(folder) if file.path != MANIFEST))


def resolve_version(tracking: Tracking, uri: str) -> VersionRef:
    """Return the version that a URI currently refers to.

    Raises:
        TrackingError: there is no such version, or this platform did not register it.
    """
    with wrap_mlflow_errors(f"looking up {uri}"):
        version = find_version_by_uri(tracking, uri)
    exact_uri = f"models:/{version.name}/{version.version}"
    digest = version.tags.get("checkpoint_digest")
    if not digest:
        raise TrackingError(
            f"{exact_uri} has no tag checkpoint_digest",
            expected="a version that this platform registered",
            fix="choose one of `codegen models list`, or register one with `codegen promote`",
        )
    return VersionRef(exact_uri, digest)


def find_version_by_uri(tracking: Tracking, uri: str) -> ModelVersion:
    """Return the version of a URI, as in `download`."""
    name, _, number = uri.removeprefix("models:/").partition("/")
    try:
        if number:
            return tracking.client.get_model_version(name, number)
        name, _, alias = name.partition("@")
        return tracking.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in _NOT_FOUND_CODES:
            raise
        raise TrackingError(
            f"the registry has no {uri.removeprefix('models:/')}",
            expected="NAME@ALIAS or NAME/VERSION of a registered model",
            fix="choose one of `codegen models list`, or register one with `codegen promote`",
        ) from error


def _upload_model_files(
    run: TrackedRun, checkpoint: Artifact, folder: Path, card: str
) -> LoggedModel:
    """Return the logged model of a checkpoint after uploading its files, if incomplete."""
    client = run.tracking.client
    model = run.log_output_model(checkpoint)
    if model.tags.get(FILES_TAG) == FILES_COMPLETE:
        return model
    description = Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=run.id,
        model_id=model.model_id,
    )
    with tempfile.TemporaryDirectory() as scratch:
        write_model_files(folder, Path(scratch), model=description, card=card)
        client.log_model_artifacts(model.model_id, str(folder), CHECKPOINT_FOLDER)
        client.log_model_artifacts(model.model_id, scratch)
    client.set_logged_model_tags(model.model_id, {FILES_TAG: FILES_COMPLETE})
    return model


def _create_version(
    tracking: Tracking,
    name: str,
    model: LoggedModel,
    run_id: str,
    tags: Mapping[str, str],
    card: str,
) -> ModelVersion:
    try:
        description = "A CodeGen model; each version has a model card."
        tracking.client.create_registered_model(name, description=description)
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


def _update_version(
    tracking: Tracking, version: ModelVersion, tags: Mapping[str, str], card: str
) -> None:
    client = tracking.client
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)
    if version.description != card:
        client.update_model_version(version.name, version.version, card)


def _link_version(tracking: Tracking, model: LoggedModel, name: str, version: str) -> None:
    """Add the version to the tag that MLflow's page of a logged model shows.

    MLflow's `register_model` sets this tag; its client does not.
    """
    linked = parse_json(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    entry = {"name": name, "version": version}
    if entry not in linked:
        tags = {MLFLOW_MODEL_VERSIONS: json.dumps([*linked, entry])}
        tracking.client.set_logged_model_tags(model.model_id, tags)
