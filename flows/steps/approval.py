"""A decision about a version, with a person's word where the recipe wants one: asked on Prefect's page while the flow waits.

One decision: the flow pauses between two steps and holds nothing meanwhile: no lock, no half-written change. What was
proposed is decided anew when the answer is there, so a champion that changed meanwhile is seen. That nobody answers is an
answer, too, given by the flow itself through the same door, so that Prefect's run goes on and records it.
"""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field
from rich.markup import escape

from components.core.markdown import cell, table
from flows.runtime.context import FlowContext
from flows.runtime.events import emit_promotion_event
from flows.runtime.prefect_artifacts import publish_markdown
from flows.settings.recipes import recipe_name_for_model

if TYPE_CHECKING:  # They would import MLflow.
    from components.registry.evidence import Evidence
    from components.registry.gate import Approval
    from components.registry.promotion import Promotion

_POLL_INTERVAL_S = 2
"""How often Prefect asks whether there is an answer."""
_GRACE_S = 300
"""How much longer than this flow Prefect waits, so that this flow's own answer is still taken."""


class ApprovalForm(RunInput):
    """What a person fills in on the page."""

    approve: bool = Field(description="Whether this version becomes the champion.")
    name: str = Field(min_length=1, description="Who decides; kept with the decision.")
    reason: str = Field(default="", description="Why; kept with the decision.")


def decide_promotion(
    here: FlowContext,
    name: str,
    version: int,
    stage: str,
    evidence: Evidence,
    *,
    approved_by: str = "",
    reason: str = "",
) -> Promotion:
    """Let the recipe's gate, and a person where it says so, decide about a registered version.

    What was refused is not judged again, and nobody is asked or told again, before its rules, its figures or the champion
    change.

    Args:
        approved_by: who approves already, in starting this; then nobody is asked.
    """
    from components.registry.gate import Approval
    from components.registry.promotion import (
        PromotionRequest,
        promote,
        propose,
        rollback_note,
        standing_refusal,
    )

    gate, tags = here.recipe.promotion, {"stage": stage}
    case = PromotionRequest(name, version, stage, evidence, gate)
    if not approved_by and (refusal := standing_refusal(case, here.run.tracking)):
        _report_standing_refusal(here, refusal)
        return refusal
    decided_by, approval = f"{user()} (flow {flow_run.get_flow_name()})", None
    if gate.approval == "manual" or approved_by:
        proposed = here.task(
            f"judge {name}/{version}",
            lambda run: propose(case, run=run, decided_by=decided_by),
            tags=tags,
        )
        if proposed.decision.promoted and approved_by:
            approval = Approval(
                approved=True, name=approved_by, reason=reason, champion=proposed.champion_before
            )
        elif proposed.decision.promoted:
            approval = _wait_for_approval(here, proposed, rollback_note(case, here.run.tracking))
        decided_by = (
            f"{approval.name} (flow {flow_run.get_flow_name()})" if approval else decided_by
        )
    promotion = here.task(
        f"promote {name}/{version}",
        lambda run: promote(case, run=run, decided_by=decided_by, approval=approval),
        tags=tags,
    )
    _publish(promotion)
    emit_promotion_event(promotion)
    return promotion


def _report_standing_refusal(here: FlowContext, refusal: Promotion) -> None:
    command = f"codegen models promote {refusal.model}/{refusal.version} -r {recipe_name_for_model(refusal.model) or 'RECIPE'}"
    since = f"refused on {refusal.decided_at} by {refusal.decided_by}, which stands: nothing has changed since"
    how = f"Whoever approves of it all the same says so: {command}"
    here.warn(escape(f"{refusal.model}/{refusal.version} was {since}. {how}"))
    text = f"{as_markdown(refusal)}\n\nThis version was {since}. {how}\n"
    publish_markdown(refusal.model, "promotion", text, f"{refusal.summary}; {since}")


def user() -> str:
    """Who runs this process, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        return f"uid {os.getuid()}"


# -- asking ------------------------------------------------------------------------------------------------------------


def _wait_for_approval(here: FlowContext, proposed: Promotion, taken_back: str) -> Approval:
    """Wait for a person's answer on the page of this flow run; `taken_back` says who rolled this version back, if any."""
    from components.registry.gate import Approval

    timeout_s, run_id = here.recipe.promotion.approval_timeout_s, UUID(flow_run.get_id())
    _publish(proposed)
    page = url_for("flow-run", run_id) or "the page of this flow run; `codegen ui` opens Prefect"
    waiting = f"{proposed.model}/{proposed.version} waits for a person's approval, for {timeout_s / 3600:g} h at most"
    here.warn(f"{waiting}: {escape(page)}")
    warning = f"**This version was {taken_back}**\n\n" if taken_back else ""
    question = ApprovalForm.with_initial_data(description=warning + as_markdown(proposed))
    with _auto_reject_after_timeout(run_id, timeout_s):
        # The key names the comparison: should Prefect run this flow again, no answer counts for another question.
        key = f"{proposed.model}-{proposed.version}-against-{proposed.champion_before}"
        answer = pause_flow_run(
            wait_for_input=question,
            timeout=timeout_s + _GRACE_S,
            poll_interval=_POLL_INTERVAL_S,
            key=key,
        )
    return Approval(
        approved=answer.approve,
        name=answer.name,
        reason=answer.reason,
        champion=proposed.champion_before,
    )


@contextmanager
def _auto_reject_after_timeout(run_id: UUID, timeout_s: int) -> Iterator[None]:
    """Refuse in nobody's name when time is up; whoever answered before was first."""
    from components.registry.gate import TIMED_OUT

    def refuse() -> None:
        answer = {
            "approve": False,
            "name": TIMED_OUT,
            "reason": f"no answer within {timeout_s:,} s",
        }
        with get_client(sync_client=True) as client:
            client.resume_flow_run(run_id, run_input=answer)

    timer = threading.Timer(timeout_s, refuse)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# -- showing -----------------------------------------------------------------------------------------------------------


def _publish(promotion: Promotion) -> None:
    """The comparison among Prefect's artifacts, one series for each model."""
    publish_markdown(promotion.model, "promotion", as_markdown(promotion), promotion.summary)


def as_markdown(promotion: Promotion) -> str:
    """A candidate beside the champion: every check of the gate, and every figure."""
    champion = promotion.champion_before
    against = (
        "there is no champion yet" if champion is None else f"the champion is version {champion}"
    )
    checks = [
        (one.rule, "yes" if one.passed else "**no**", one.detail)
        for one in promotion.decision.checks
    ]
    return "\n".join(
        [
            f"# {promotion.model}: version {promotion.version}, {promotion.decision.outcome}",
            f"\nStage {promotion.stage}; {against}.\n",
            _table(("what the gate asks", "holds", "found"), checks),
            "",
            _table(
                ("figure", "champion", "candidate", "difference", "95 % interval"),
                _figures(promotion),
            ),
        ]
    )


def _figures(promotion: Promotion) -> list[tuple[str, ...]]:
    from components.registry.evidence import Evidence, compare_metrics

    nothing = Evidence(digest="", metrics={}, protocols={})
    rows: list[tuple[str, ...]] = []
    for one in compare_metrics(promotion.champion_evidence or nothing, promotion.evidence):
        difference = ""
        if one.left is not None and one.right is not None:
            difference = (
                f"{one.right - one.left:+.4g}"
                if one.comparable
                else f"other protocol: {'; '.join(one.protocol)}"
            )
        interval = (
            ""
            if one.ci_low is None or one.ci_high is None
            else f"{one.ci_low:+.4g} to {one.ci_high:+.4g}"
        )
        rows.append((one.metric, _number(one.left), _number(one.right), difference, interval))
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return table(head, (map(cell, row) for row in rows))
