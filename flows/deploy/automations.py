"""What Prefect's server does by itself once something of ours was deployed: it finds runs whose machine died.

Set up again with every deployment, under fixed names, so that a rule that a person changed or switched off stays as it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.settings.execution import HEARTBEAT_S

CRASHED = "codegen: runs without a sign of life have crashed"
HEARTBEAT_TIMEOUT_S = 6 * HEARTBEAT_S
"""Longer than a run outlasts a server that is away (two minutes: `flows.settings.execution`) and another heartbeat: the server counts
the time that it was away itself, and would take runs that live for dead."""


def create_missing_automations() -> None:
    """Make the automations that are not there yet."""
    for one in (_crashed(),):
        if find_automation(one.name) is None:
            one.create()


def find_automation(name: str) -> Automation | None:
    """The automation of a name, or None."""
    try:
        return cast(Automation, Automation.read(name=name))
    except ValueError:
        return None


def _crashed() -> Automation:
    """A run is Crashed where a heartbeat is followed by neither another one nor an end."""
    ends = {
        f"prefect.flow-run.{state}"
        for state in ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
    }
    return Automation(
        name=CRASHED,
        description="A flow run that a deployment started, and whose machine or process died without a word.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEAT_TIMEOUT_S),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"No sign of life for {HEARTBEAT_TIMEOUT_S} s: its process or its machine is gone.",
                force=False,
            )
        ],
    )
