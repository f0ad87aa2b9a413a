"""Prefect automations: crash detection and restart of runs, and notifications about events.

The Prefect server runs them, so they also work for a run whose process is gone. Users can edit or
disable them in the Prefect UI; automations with existing names are not created again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL
from prefect.types import SecretDict
from pydantic import SecretStr

from components.core.errors import ConfigError
from components.core.network import redact_credentials
from flows.deploy.blocks import Email
from flows.runtime.events import MODEL_RESOURCE, PROMOTED, REFUSED, ROLLED_BACK
from flows.runtime.stale_runs import RESTART_MESSAGE
from flows.servers.local_servers import require_healthy_prefect
from flows.settings.execution import HEARTBEAT_S

DEPLOYMENT_TAG = "codegen"
"""Tag of all deployments and of their runs."""
CRASH_AUTOMATION = "codegen: mark silent runs as Crashed"
RESTART_AUTOMATION = "codegen: restart crashed runs of deployments"
HEARTBEAT_TIMEOUT_S = 6 * HEARTBEAT_S
"""Longer than a run waits for an unreachable server (two minutes, `flows.settings.execution`) plus
a heartbeat. The server counts its own downtime too, and would mark live runs as Crashed."""
_WEB_SCHEMES = ("http", "https")
_MAIL_SCHEMES = ("mailto", "mailtos")
_HASH_DIGITS = 6
"""Digits of the hash of a URL, which distinguish URLs of a server without showing their secrets."""
_RUN_RESOURCE_PREFIX = "prefect.flow-run."
_OWN_RUNS_ONLY: dict[str, str | list[str]] = {
    "prefect.resource.id": f"prefect.tag.{DEPLOYMENT_TAG}",
    "prefect.resource.role": "tag",
}
"""Other projects may share the server."""
_DEPLOYED_RUNS_ONLY: dict[str, str | list[str]] = {
    "prefect.resource.id": "prefect.deployment.*",
    "prefect.resource.role": "deployment",
}


@dataclass(frozen=True)
class NotificationRule:
    """Which events send a notification, and its text."""

    events: tuple[str, ...]
    resource_prefix: str
    """Prefix of the resource ids of the events."""
    subject: str
    body: str
    """Templates of Prefect, like `subject`."""
    deployed_runs_only: bool = False
    """If a flow inside another flow fails, both fail; only the outer run has a deployment."""


NOTIFICATION_RULES = {
    "failed": NotificationRule(
        ("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"),
        _RUN_RESOURCE_PREFIX,
        "{{ flow_run.name }}: {{ flow_run.state.name }}",
        "{{ flow_run.state.message }}\nA run that crashed restarts by itself, up to max_restarts. "
        "Otherwise start it again to resume: {{ flow_run|ui_url }}",
        deployed_runs_only=True,
    ),
    "approval": NotificationRule(
        ("prefect.flow-run.Paused", "prefect.flow-run.Suspended"),
        _RUN_RESOURCE_PREFIX,
        "{{ flow_run.name }} waits for approval",
        "Review the comparison and approve or reject: {{ flow_run|ui_url }}",
    ),
    "promoted": NotificationRule(
        (PROMOTED, ROLLED_BACK),
        MODEL_RESOURCE,
        "{{ event.payload['summary'] }}",
        "{{ event.payload['why'] }}",
    ),
    "refused": NotificationRule(
        (REFUSED,),
        MODEL_RESOURCE,
        "{{ event.payload['summary'] }}",
        "{{ event.payload['why'] }}",
    ),
}


def create_missing_automations() -> None:
    """Create the crash detection and the restart unless they exist."""
    for automation in (_crash_automation(), _restart_automation()):
        if _find_automation(automation.name) is None:
            automation.create()


def subscribe(url: str, events: tuple[str, ...]) -> list[str]:
    """Create automations that send notifications about events to a URL.

    Args:
        url: `http(s)://...` receives `{"subject", "body"}` by POST; for `mailto(s)://...` see
            `Email`.
        events: names in `NOTIFICATION_RULES`.

    Returns:
        The names of the automations.

    Raises:
        ConfigError: the URL or an event is invalid, or there is no permanent Prefect server.
    """
    for event in events:
        if event not in NOTIFICATION_RULES:
            raise ConfigError(
                f"there is no event {event!r}",
                expected=f"one of {', '.join(NOTIFICATION_RULES)}",
                fix="choose one of these events",
            )
    scheme, host = _scheme_and_host(url)
    url_hash = hashlib.sha256(redact_credentials(url).encode()).hexdigest()[:_HASH_DIGITS]
    block_name = f"codegen-{scheme}-{host.replace('.', '-')}-{url_hash}"
    block = _notification_block(url, scheme, block_name)
    _require_permanent_server()
    block_id = cast(UUID, block.save(block_name, overwrite=True))
    names = []
    for event in events:
        name = f"codegen: {event} -> {scheme}://{host} ({url_hash})"
        previous = _find_automation(name)
        if previous is not None:
            previous.delete()
        _notification_automation(name, NOTIFICATION_RULES[event], block_id).create()
        names.append(name)
    return names


def _find_automation(name: str) -> Automation | None:
    try:
        return cast(Automation, Automation.read(name=name))
    except ValueError:
        return None


def _crash_automation() -> Automation:
    """Return the automation that marks a run as Crashed if no heartbeat or end follows a
    heartbeat."""
    end_states = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
    heartbeat = "prefect.flow-run.heartbeat"
    return Automation(
        name=CRASH_AUTOMATION,
        description="Marks a flow run as Crashed if its process or machine is gone.",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{state}" for state in end_states)},
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
                message=f"No heartbeat for {HEARTBEAT_TIMEOUT_S} s: the process or machine is "
                "gone.",
                force=False,
            )
        ],
    )


def _restart_automation() -> Automation:
    """Return the automation that schedules a crashed run of a deployment again.

    The run itself fails after too many restarts (`flows.runtime.stale_runs`), because automations
    do not count.
    """
    return Automation(
        name=RESTART_AUTOMATION,
        description="Restarts a run of a deployment whose process or machine is gone, up to "
        "max_restarts of its execution config. Cancelled and failed runs are not restarted.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": f"{_RUN_RESOURCE_PREFIX}*"}),
            match_related=[
                ResourceSpecification(_DEPLOYED_RUNS_ONLY),
                ResourceSpecification(_OWN_RUNS_ONLY),
            ],
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            ChangeFlowRunState(
                name="AwaitingRetry",
                state=StateType.SCHEDULED,
                message=RESTART_MESSAGE,
                force=False,
            )
        ],
    )


def _notification_automation(name: str, rule: NotificationRule, block_id: UUID) -> Automation:
    related = _DEPLOYED_RUNS_ONLY if rule.deployed_runs_only else {}
    return Automation(
        name=name,
        description="Created by `codegen notifications add`. You can edit or disable it here.",
        trigger=EventTrigger(
            expect=set(rule.events),
            match=ResourceSpecification({"prefect.resource.id": f"{rule.resource_prefix}*"}),
            match_related=ResourceSpecification(related),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(block_document_id=block_id, subject=rule.subject, body=rule.body)
        ],
    )


def _require_permanent_server() -> None:
    """Check that a Prefect server is configured and healthy; a temporary server ends with its run.

    Raises:
        ConfigError: it is not.
    """
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "no Prefect server is running for this workspace",
            expected="a running server: `codegen serve`, `codegen ui`, or PREFECT_API_URL",
            fix="start `codegen serve` in another terminal, then run this command again",
        )
    require_healthy_prefect()


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
    except ValueError:  # Invalid port or IPv6 address.
        scheme, host = "", ""
    if scheme not in (*_WEB_SCHEMES, *_MAIL_SCHEMES) or not host:
        raise ConfigError(
            f"{redact_credentials(url)!r} is not a valid notification URL",
            expected="http://, https://, mailto:// or mailtos://, and a host",
            fix='use, e.g., "https://hooks.example.org/T1" or '
            '"mailtos://USER:PASSWORD@SERVER:587?from=A&to=B"',
        )
    return scheme, host


def _notification_block(url: str, scheme: str, name: str) -> CustomWebhookNotificationBlock | Email:
    if scheme in _MAIL_SCHEMES:
        return Email(url=SecretStr(url))
    return CustomWebhookNotificationBlock(
        name=name,
        url="{{address}}",
        secrets=SecretDict({"address": url}),  # The URL of a webhook contains its credential.
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
        headers=None,
        cookies=None,
    )
