"""Who is told when: a run failed, a gate refused, a model was promoted, a person is asked.

One decision: Prefect's server tells, by automations over events, so that word also comes of a run whose process is gone, and
people change or switch off what they get on Prefect's page. What happens to a model is an event of our own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events import emit_event
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL
from prefect.types import SecretDict
from pydantic import SecretStr

from components.core.errors import ConfigError
from components.core.network import redact_credentials
from flows.deploy.automations import find_automation
from flows.deploy.blocks import Email
from flows.servers.local_servers import require_healthy_prefect

if TYPE_CHECKING:
    from components.registry.promotion import Promotion

PROMOTED, REFUSED, ROLLED_BACK = (
    "codegen.model.promoted",
    "codegen.model.refused",
    "codegen.model.rolled-back",
)
_EVENTS = {"promoted": PROMOTED, "refused": REFUSED, "rolled_back": ROLLED_BACK}
"""By the outcome of a decision."""
_WEB, _MAIL = ("http", "https"), ("mailto", "mailtos")
_SHOWN = 6
"""Characters of an address's hash, which tell two of one server apart without showing what is secret in them."""
_MODEL = "codegen.registered-model."
_RUN = "prefect.flow-run."
_DEPLOYED_RUNS_ONLY: dict[str, str | list[str]] = {
    "prefect.resource.id": "prefect.deployment.*",
    "prefect.resource.role": "deployment",
}


@dataclass(frozen=True)
class NotificationRule:
    """Something that people want to hear of."""

    events: tuple[str, ...]
    resource: str
    """What the events' resource begins with."""
    subject: str
    body: str
    """Both are templates of Prefect's."""
    deployed: bool = False
    """Only of runs that a deployment started: of a flow that fails within another one, both would tell."""


NOTIFICATION_RULES = {
    "failed": NotificationRule(
        ("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"),
        _RUN,
        "{{ flow_run.name }}: {{ flow_run.state.name }}",
        "{{ flow_run.state.message }}\nAnother run goes on from where this one ended: {{ flow_run|ui_url }}",
        deployed=True,
    ),
    "approval": NotificationRule(
        ("prefect.flow-run.Paused", "prefect.flow-run.Suspended"),
        _RUN,
        "{{ flow_run.name }} asks for a decision",
        "Read the comparison and decide: {{ flow_run|ui_url }}",
    ),
    "promoted": NotificationRule(
        (PROMOTED, ROLLED_BACK),
        _MODEL,
        "{{ event.payload['summary'] }}",
        "{{ event.payload['why'] }}",
    ),
    "refused": NotificationRule(
        (REFUSED,), _MODEL, "{{ event.payload['summary'] }}", "{{ event.payload['why'] }}"
    ),
}


def emit_promotion_event(promotion: Promotion) -> None:
    """Let Prefect know what was decided about a model."""
    event = _EVENTS.get(promotion.decision.outcome)
    if event is None or not PREFECT_API_URL.value():  # A run's temporary server tells nobody.
        return
    why = "; ".join(promotion.decision.reasons) or "; ".join(
        check.detail for check in promotion.decision.checks
    )
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"{_MODEL}{promotion.model}",
            "prefect.resource.name": promotion.model,
        },
        payload={
            "summary": promotion.summary,
            "why": why,
            "version": promotion.version,
            "by": promotion.decided_by,
        },
    )


def require_server() -> None:
    """Check that there is a server that lives on to tell anybody, and that it answers.

    Raises:
        ConfigError: there is none (a run without one has a temporary server, which ends with it), or it is silent.
    """
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "no Prefect server runs over this workspace",
            expected="one that can tell: `codegen serve`, `codegen ui`, or PREFECT_API_URL",
            fix="start `codegen serve` in another terminal, then run this again",
        )
    require_healthy_prefect()


def subscribe(address: str, occasions: tuple[str, ...]) -> list[str]:
    """Tell an address of what happens, from now on.

    Args:
        address: `http(s)://...` gets `{"subject", "body"}` by POST; `mailto(s)://...` as `Email` describes it.
        occasions: of `OCCASIONS`.

    Returns:
        The names of the automations, which can be changed on Prefect's page.

    Raises:
        ConfigError: no such address or occasion, or no server that lives on to tell anybody.
    """
    for one in occasions:
        if one not in NOTIFICATION_RULES:
            raise ConfigError(
                f"there is no occasion {one!r}",
                expected=f"one of {', '.join(NOTIFICATION_RULES)}",
                fix="choose one of these",
            )
    scheme, host = _parts(address)
    known = hashlib.sha256(redact_credentials(address).encode()).hexdigest()[:_SHOWN]
    name = f"codegen-{scheme}-{host.replace('.', '-')}-{known}"
    block = _block(address, scheme, name)
    require_server()
    document = cast(UUID, block.save(name, overwrite=True))
    made = []
    for one in occasions:
        automation = _automation(
            f"codegen: {one} -> {scheme}://{host} ({known})", NOTIFICATION_RULES[one], document
        )
        old = find_automation(automation.name)
        if old is not None:
            old.delete()
        automation.create()
        made.append(automation.name)
    return made


def _parts(address: str) -> tuple[str, str]:
    """Scheme and host of an address that can be told something."""
    try:
        parts = urlsplit(address)
        scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
    except ValueError:  # No such port, half an IPv6 address.
        scheme, host = "", ""
    if scheme not in (*_WEB, *_MAIL) or not host:
        raise ConfigError(
            f"there is nobody at the address {redact_credentials(address)!r}",
            expected="http://, https://, mailto:// or mailtos://, and a server",
            fix='write, e.g., "https://hooks.example.org/T1" or "mailtos://USER:PASSWORD@SERVER:587?from=A&to=B"',
        )
    return scheme, host


def _block(address: str, scheme: str, name: str) -> CustomWebhookNotificationBlock | Email:
    if scheme in _MAIL:
        return Email(url=SecretStr(address))
    # What opens such a server's door is a part of its address, so all of it is kept as a secret.
    secrets = SecretDict({"address": address})
    body = {"subject": "{{subject}}", "body": "{{body}}"}
    return CustomWebhookNotificationBlock(
        name=name, url="{{address}}", secrets=secrets, json_data=body, headers=None, cookies=None
    )


def _automation(name: str, occasion: NotificationRule, block: UUID) -> Automation:
    return Automation(
        name=name,
        description="Set up by `codegen notify`; to be changed or switched off here.",
        trigger=EventTrigger(
            expect=set(occasion.events),
            match=ResourceSpecification({"prefect.resource.id": f"{occasion.resource}*"}),
            match_related=ResourceSpecification(_DEPLOYED_RUNS_ONLY if occasion.deployed else {}),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(block_document_id=block, subject=occasion.subject, body=occasion.body)
        ],
    )
