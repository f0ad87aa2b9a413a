"""Prefect events about registered models; notifications subscribe to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.promotion import Promotion

PROMOTED = "codegen.model.promoted"
REFUSED = "codegen.model.refused"
ROLLED_BACK = "codegen.model.rolled-back"
MODEL_RESOURCE_PREFIX = "codegen.registered-model."
_EVENTS = {
    "promoted": PROMOTED,
    "refused": REFUSED,
    "rolled back": ROLLED_BACK,
    "rolled_back": ROLLED_BACK,
}
"""Event names by the outcome of a decision."""


def emit_promotion_event(promotion: Promotion) -> None:
    """Emit the Prefect event of a decision about a model, if a permanent server is configured."""
    event = _EVENTS.get(promotion.decision.outcome)
    if event is None or not PREFECT_API_URL.value():  # A temporary server sends no notifications.
        return
    reasons = promotion.decision.reasons or [check.found for check in promotion.decision.checks]
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"{MODEL_RESOURCE_PREFIX}{promotion.model}",
            "prefect.resource.name": promotion.model,
        },
        payload={
            "summary": promotion.summary,
            "why": "; ".join(reasons),
            "version": promotion.version,
            "by": promotion.decided_by,
        },
    )
