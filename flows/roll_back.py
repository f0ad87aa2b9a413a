"""The champion before this one becomes the champion again: `codegen models rollback` as a run on Prefect's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow

from flows.runtime.events import emit_promotion_event
from flows.runtime.prefect_artifacts import publish_markdown
from flows.settings.execution import Execution
from flows.steps.approval import user

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.promotion import Promotion
else:
    Promotion = Any  # See `promote_version`.


@flow(name="rollback", flow_run_name="roll {model} back")
def rollback(model: str, execution: Execution, reason: str = "", decided_by: str = "") -> Promotion:
    """Make `previous` the champion again; the champion becomes `previous`.

    Args:
        model: NAME of a registered model, `codegen-starter-mono` say.
        execution: where it is registered.
        reason: kept with the decision.
        decided_by: whose decision it is, kept with it. Empty: of whoever started the process that runs this.

    Raises:
        TrackingError: there is no such model, no champion, or nothing before it.
    """
    from components.registry.queries import rollback

    done = rollback(
        execution.open_tracking(), model, decided_by or f"{user()} (flow rollback)", reason
    )
    publish_markdown(model, "promotion", f"# {done.summary}\n\n{reason}\n", done.summary)
    emit_promotion_event(done)
    return done
