"""Prefect events about registered models; notification rules (`flows.deploy`) react to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.gate import Outcome
    from components.registry.promotion import Promotion

PROMOTED = "codegen.model.promoted"
REFUSED = "codegen.model.refused"
ROLLED_BACK = "codegen.model.rolled-back"
MODEL_RESOURCE = "codegen.registered-model."
"""Prefix of the id of the resource that an event is about; the model's name follows."""
_EVENT_BY_OUTCOME: dict[Outcome, str] = {
    "promoted": PROMOTED,
    "refused": REFUSED,
    "rolled_back": ROLLED_BACK,
}


def emit_promotion_event(promotion: Promotion) -> None:
    """Emit a Prefect event for a promotion, refusal or rollback.

    Does nothing without a server.
    """
    decision = promotion.decision
    event = _EVENT_BY_OUTCOME.get(decision.outcome)
    if event is None or not PREFECT_API_URL.value():
        return
    reasons = "; ".join(decision.reasons) or "; ".join(check.detail for check in decision.checks)
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"{MODEL_RESOURCE}{promotion.model}",
            "prefect.resource.name": promotion.model,
        },
        payload={
            "summary": promotion.summary,
            "why": reasons,
            "version": promotion.version,
            "by": promotion.decided_by,
        },
    )
