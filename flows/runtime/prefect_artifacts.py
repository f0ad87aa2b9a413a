"""Artifacts of a flow run in Prefect: Markdown, the link to MLflow, and the progress of a stage.

Artifacts are views. If Prefect does not accept an artifact, the flow logs a warning and continues.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from components.core.network import is_http_uri, redact_credentials
from flows.settings.execution import Execution, running_servers

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.tracking import TrackedRun

logger = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S = 5.0
"""Time between two updates of a progress artifact."""
_DEFAULT_MLFLOW_URL = "http://127.0.0.1:5000"
"""The default address of MLflow in `codegen ui` and `codegen serve`."""


def publish_markdown(subject: str, name: str, text: str, description: str) -> None:
    """Publish Markdown; artifacts of the same subject and name form one series in Prefect."""
    _publish(
        lambda: create_markdown_artifact(
            markdown=text, key=_artifact_key(subject, name), description=description
        )
    )


def publish_mlflow_link(run: TrackedRun, execution: Execution, recipe: str) -> None:
    """Publish the link to the MLflow run of the flow."""
    _publish(
        lambda: create_link_artifact(
            link=mlflow_run_url(run.id, run.experiment_id, execution),
            link_text=f"{run.name} in MLflow",
            key=_artifact_key(recipe, "mlflow"),
            description="Parameters, metrics, datasets, models. `codegen ui` starts a server.",
        )
    )


def mlflow_run_url(run_id: str, experiment_id: str, execution: Execution) -> str:
    """Return the address of an MLflow run, without credentials."""
    base = _DEFAULT_MLFLOW_URL
    if is_http_uri(execution.tracking_uri or ""):
        base = execution.tracking_uri or ""
    elif servers := running_servers(execution):
        base = servers["mlflow"]
    return f"{redact_credentials(base.rstrip('/'))}/#/experiments/{experiment_id}/runs/{run_id}"


@contextmanager
def stage_progress(recipe: str, stage: str, num_steps: int) -> Iterator[Callable[[int, str], None]]:
    """Publish a progress artifact; yields a function that takes a step and its description.

    Updates are not retried: training does not wait for Prefect.
    """
    title = f"train {stage}"
    key = _artifact_key(recipe, f"train-{stage}")
    artifact_id = _publish(lambda: create_progress_artifact(0.0, key=key, description=title))
    last_update_s = time.monotonic()

    def update(step: int, description: str) -> None:
        nonlocal last_update_s
        is_due = step == num_steps or time.monotonic() - last_update_s >= _PROGRESS_INTERVAL_S
        if artifact_id is None or not is_due:
            return
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            _publish(
                lambda: update_progress_artifact(
                    cast(UUID, artifact_id),
                    progress=100.0 * step / num_steps,
                    description=f"{title}: {description}",
                )
            )
        last_update_s = time.monotonic()  # After the request, so that slow requests do not pile up.

    yield update


def _publish(send: Callable[[], object]) -> object:
    if flow_run.id is None:  # Outside a flow run.
        return None
    try:
        return send()
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        logger.warning("Prefect did not accept an artifact of this flow run: %s", error)
        return None


def _artifact_key(subject: str, name: str) -> str:
    """Return a key of lower-case letters, digits and dashes, as Prefect requires."""
    return re.sub(r"[^a-z0-9]+", "-", f"{subject}-{name}".lower()).strip("-")
