"""Decisions about models in Prefect: events for notification rules, and comparisons as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from fixtures.versions import NAME, STAGE, make_evidence
from markdown_it import MarkdownIt
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from components.registry.gate import Check, Decision, Outcome
from components.registry.promotion import Promotion
from flows.runtime.events import PROMOTED, REFUSED, ROLLED_BACK, emit_promotion_event
from flows.steps.approval import comparison_markdown


def promotion(outcome: Outcome, rule: str = "a rule", detail: str = "a detail") -> Promotion:
    check = Check(rule=rule, passed=outcome != "refused", detail=detail)
    return Promotion(
        model=NAME,
        version=2,
        stage=STAGE,
        decision=Decision(outcome=outcome, checks=(check,)),
        champion_before=1,
        champion_after=1,
        decided_by="ada",
        decided_at="2026-01-01T00:00:00+00:00",
        evidence=make_evidence(1.5),
        champion_evidence=make_evidence(2.0),
    )


@pytest.fixture
def events_client() -> Iterator[type[AssertingEventsClient]]:
    """Prefect's client that collects events instead of sending them."""
    AssertingEventsClient.reset()
    EventsWorker.set_client_override(AssertingEventsClient)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield AssertingEventsClient
    EventsWorker._client_override = None
    AssertingEventsClient.reset()


def test_every_change_of_a_champion_and_every_refusal_has_an_event(
    events_client: type[AssertingEventsClient],
) -> None:
    for outcome in get_args(Outcome):
        emit_promotion_event(promotion(outcome))
    EventsWorker.instance().drain()
    events = [event for client in events_client.all for event in client.events]
    assert [event.event for event in events] == [PROMOTED, REFUSED, ROLLED_BACK]
    assert [event.payload["summary"].split(": ")[1].split(" (")[0] for event in events] == [
        "promoted",
        "refused",
        "rolled back",
    ]


def test_texts_of_users_in_a_comparison_are_no_markup() -> None:
    detail = "ada: <img src=x> | **bold** [a link](http://evil.example) `code`"
    text = comparison_markdown(promotion("refused", "a *rule* | more", detail))
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert "<td>a *rule* | more</td>" in html
    assert "<td><strong>no</strong></td>" in html
    assert "<td>ada: &lt;img src=x&gt; | **bold** [a link](http://evil.example) `code`</td>" in html
    assert "<td>bits_per_byte/mono/Python</td>\n<td>2</td>\n<td>1.5</td>\n<td>-0.5</td>" in html
