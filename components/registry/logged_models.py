"""Checkpoints as MLflow shows them: each is one logged model, registered or not, with its figures and the data behind them.

Design decision: the digest is the key, so a checkpoint that is reused stays the one model. The record has no weights: those
lie in the store, at `address`, until registration puts them beside it (`models.register`). What a stage saves to go on from
is no model here: it is removed with the stage's end, and what was measured then stands in the run's curves.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.entities import LoggedModel, LoggedModelStatus

from components.core.artifact import Artifact
from components.registry.client.retry import RetryingMlflowClient
from components.registry.tags import artifact_tags, git_tags

MODEL_TYPE = "causal-language-model"
_NOTE = "mlflow.note.content"
_MAX_PARAMS = 100
_MOST = 1000


def find_logged(client: RetryingMlflowClient, digest: str) -> LoggedModel | None:
    """The logged model of a checkpoint's digest, in whatever experiment; the first, should there be two."""
    experiments = [one.experiment_id for one in client.search_experiments(max_results=_MOST)]
    found = client.search_logged_models(experiments, f"tags.checkpoint_digest = '{digest}'")
    usable = [one for one in found if one.status != LoggedModelStatus.FAILED]
    return min(usable, key=lambda one: int(one.creation_timestamp), default=None)


def logged_model(
    client: RetryingMlflowClient,
    experiment_id: str,
    run_id: str,
    checkpoint: Artifact,
    params: Mapping[str, str],
) -> LoggedModel:
    """The READY logged model of a checkpoint, made where there is none yet; tags that it lacks are added.

    Args:
        run_id: the run that made the checkpoint, or that first met it.
        params: how it was made, for people to sort and filter by.
    """
    tags = {
        "checkpoint_digest": checkpoint.digest,
        "recipe": checkpoint.recipe_hash,
        "artifact": checkpoint.label,
        "address": checkpoint.address,
        _NOTE: f"`{checkpoint.label}`. The weights lie at `{checkpoint.address}`, and here once it is registered.",
        **artifact_tags(checkpoint),
        **git_tags(checkpoint),
    }
    model = find_logged(client, checkpoint.digest)
    if model is None:
        some = dict(list(params.items())[:_MAX_PARAMS])
        name = checkpoint.label.removeprefix(
            "checkpoint/"
        )  # Two of one name would look alike in a chart.
        model = client.create_logged_model(experiment_id, name, run_id, tags, some, MODEL_TYPE)
    if missing := {
        key: value for key, value in tags.items() if key not in model.tags
    }:  # Of an earlier version's.
        client.set_logged_model_tags(model.model_id, missing)
    if model.status != LoggedModelStatus.READY:  # New, or a process was killed between the two.
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model
