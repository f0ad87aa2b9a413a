"""The champion before this one becomes the champion again: `codegen models rollback` as a run on Prefect's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow

from flows.approval import user
from flows.execution import Execution
from flows.notifications import tell
from flows.showing import show_text

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.promotion import Promotion
else:
    Promotion = Any  # See `promote_version`.


@flow(name="roll-back", flow_run_name="roll {model} back")
def roll_back(model: str, execution: Execution, reason: str = "", decided_by: str = "") -> Promotion:
    """Make `previous` the champion again; the champion becomes `previous`.

    Args:
        model: NAME of a registered model, `codegen-starter-mono` say.
        execution: where it is registered.
        reason: kept with the decision.
        decided_by: whose decision it is, kept with it. Empty: of whoever started the process that runs this.

    Raises:
        TrackingError: there is no such model, no champion, or nothing before it.
    """
    from components.registry.review import rollback

    done = rollback(execution.open_tracking(), model, decided_by or f"{user()} (flow roll-back)", reason)
    show_text(model, "promotion", f"# {done.summary}\n\n{reason}\n", done.summary)
    tell(done)
    return done
