"""Artifacts in MLflow: tags, datasets and logged models, derived from the artifact record alone.

So no data is read again, and an artifact of an earlier version of this project has the same tags.

A checkpoint is one logged model, registered or not, whose key is its digest; a reused checkpoint
stays one model. The weights stay in the store, at `address`, until `versions.register` uploads
them. A checkpoint inside a stage is logged if it was evaluated, which puts a copy into the store. A
corpus is one dataset with its digest, DVC md5 and counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelStatus

from components.core.artifact import Artifact
from components.registry.client.connection import list_experiment_ids
from components.registry.client.retry import RetryingMlflowClient

CORPUS_KINDS = ("raw-corpus", "prepared-corpus")
MAX_DIGEST_CHARACTERS = 36
"""MLflow's limit for the digest of a dataset; the profile of the dataset has the full digest."""

_MODEL_TYPE = "causal-language-model"
_MAX_MODEL_PARAMS = 100
_SIZE_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def artifact_tags(artifact: Artifact) -> dict[str, str]:
    """Return `stage`, `size` and `corpus` of a checkpoint, and `corpus` of a prepared corpus.

    A checkpoint inside a stage also has `intermediate`. A corpus is identified by its version,
    `mono-6600f0dd1cf2`, and a stage by the name of its corpus.
    """
    if artifact.kind == "prepared-corpus":
        return {"corpus": f"{artifact.name}-{artifact.recipe_hash[:12]}"}
    if artifact.kind != "checkpoint":
        return {}
    tags = {}
    if isinstance(num_parameters := artifact.statistics.get("num_parameters"), int):
        tags["size"] = size_name(num_parameters)
    if artifact.statistics.get("intermediate"):
        tags["intermediate"] = "true"
    corpora = [parent for parent in artifact.parents if parent.role == "corpus"]
    if corpora:
        tags["stage"] = corpora[0].name
        tags["corpus"] = PurePosixPath(corpora[0].address).name
    return tags


def git_tags(artifact: Artifact) -> dict[str, str]:
    """Return `git_commit` and `git_dirty` of the code that built an artifact."""
    commit = str(artifact.provenance.get("git_commit", "unknown"))
    return {"git_commit": commit, "git_dirty": dirty_tag(is_dirty(artifact))}


def dirty_tag(is_dirty: bool | None) -> str:
    """Return the value of the tag `git_dirty`."""
    return {True: "true", False: "false", None: "unknown"}[is_dirty]


def is_dirty(artifact: Artifact) -> bool | None:
    """Whether any attempt at building an artifact ran uncommitted code; None if unknown."""
    attempts = artifact.provenance.get("attempts")
    if not isinstance(attempts, list):
        return None
    states = [attempt.get("git_dirty") for attempt in attempts if isinstance(attempt, dict)]
    if True in states:
        return True
    return None if None in states or not states else False


def size_name(num_parameters: int) -> str:
    """Return a number of parameters with three digits: `215K`, `356M`, `2.78B`."""
    for value, unit in _SIZE_UNITS:
        if num_parameters >= value:
            return f"{num_parameters / value:.3g}{unit}"
    return str(num_parameters)


def dataset_input(corpus: Artifact, context: str, dvc_md5: str | None) -> DatasetInput:
    """Return a corpus as an input of a run.

    Args:
        corpus: of a kind in `CORPUS_KINDS`.
        context: its use, e.g. "training".
        dvc_md5: of the raw data, if known.
    """
    name, digest = dataset_key(corpus)
    profile = {
        "digest": corpus.digest,
        "recipe": corpus.recipe_hash,
        "dvc_md5": dvc_md5,
        "statistics": corpus.statistics,
    }
    dataset = Dataset(
        name=name,
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": corpus.address}),
        profile=json.dumps(profile, sort_keys=True),
    )
    tags = [InputTag("mlflow.data.context", context)]
    if dvc_md5:
        tags.append(InputTag("dvc_md5", dvc_md5))
    return DatasetInput(dataset, tags)


def dataset_key(corpus: Artifact) -> tuple[str, str]:
    """Return the name and the digest of a corpus's dataset."""
    return f"{corpus.kind}/{corpus.name}", corpus.digest[:MAX_DIGEST_CHARACTERS]


def find_logged_model(client: RetryingMlflowClient, digest: str) -> LoggedModel | None:
    """Return the oldest logged model with a checkpoint's digest, in any experiment."""
    experiment_ids = list_experiment_ids(client)
    models = client.search_logged_models(experiment_ids, f"tags.checkpoint_digest = '{digest}'")
    usable = [model for model in models if model.status != LoggedModelStatus.FAILED]
    return min(usable, key=lambda model: int(model.creation_timestamp), default=None)


def get_or_create_logged_model(
    client: RetryingMlflowClient,
    experiment_id: str,
    run_id: str,
    checkpoint: Artifact,
    params: Mapping[str, str],
) -> LoggedModel:
    """Return the READY logged model of a checkpoint, with all of its tags.

    Args:
        run_id: the source run of a new model.
        params: the training parameters of a new model.
    """
    model_note = (
        f"`{checkpoint.label}`. The weights are stored at `{checkpoint.address}`, and here after "
        "registration."
    )
    tags = {
        "checkpoint_digest": checkpoint.digest,
        "recipe": checkpoint.recipe_hash,
        "artifact": checkpoint.label,
        "address": checkpoint.address,
        "mlflow.note.content": model_note,
        **artifact_tags(checkpoint),
        **git_tags(checkpoint),
    }
    model = find_logged_model(client, checkpoint.digest)
    if model is None:
        # The label, not the name: models of equal names cannot be told apart in a chart.
        name = checkpoint.label.removeprefix("checkpoint/")
        params = dict(list(params.items())[:_MAX_MODEL_PARAMS])
        model = client.create_logged_model(experiment_id, name, run_id, tags, params, _MODEL_TYPE)
    missing_tags = {key: value for key, value in tags.items() if key not in model.tags}
    if missing_tags:  # The model is from an earlier version of this project.
        client.set_logged_model_tags(model.model_id, missing_tags)
    if model.status != LoggedModelStatus.READY:  # new, or its creation was interrupted
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model
