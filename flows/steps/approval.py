"""Promotion of a registered version: the gate, and an approval in the Prefect UI if required.

The flow pauses between two steps and holds no lock meanwhile. After the approval the gate is
evaluated again, so a change of the champion in between is noticed. On timeout the flow submits a
rejection to its own form, so that Prefect resumes the run and records the outcome.
"""

from __future__ import annotations

import getpass
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from markupsafe import Markup
from prefect.client.orchestration import get_client
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field

from components.core.errors import ConfigError
from components.core.markdown import code, escape_inline, escaped_table
from components.core.network import redact_credentials
from flows.runtime.context import FlowContext
from flows.runtime.events import emit_promotion_event
from flows.runtime.prefect_artifacts import publish_markdown
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, recipe_name_for_model

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.evidence import Evidence
    from components.registry.gate import Approval
    from components.registry.promotion import Promotion, PromotionRequest
    from components.registry.queries import ModelVersionInfo
    from components.registry.tracking import Tracking

_POLL_INTERVAL_S = 2
"""How often Prefect checks whether the form was submitted."""
_GRACE_S = 300
"""How much longer Prefect waits than this flow, so that the rejection on timeout still counts."""


class ApprovalForm(RunInput):
    """The form in the Prefect UI."""

    approve: bool = Field(description="Promote this version to champion.")
    name: str = Field(min_length=1, description="Name of the approver; recorded with the decision.")
    reason: str = Field(default="", description="Recorded with the decision.")


def current_user() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # Users of containers need no name.
        return f"uid {os.getuid()}"


def check_recipe_of_model(recipe: Recipe, model: str) -> None:
    """Check that a recipe trains a model: the gate of another recipe has other requirements.

    Args:
        model: NAME/VERSION or NAME@ALIAS.

    Raises:
        ConfigError: another recipe trains it.
    """
    name = re.split("[@/]", model)[0]
    if name in {f"{recipe.name}-{stage}" for stage in recipe.training.all_stages}:
        return
    raise ConfigError(
        f"the recipe {recipe.name} does not train {name}",
        expected=f"a model of that recipe, e.g. {recipe.name}-{recipe.training.all_stages[-1]}",
        fix=f"use -r {recipe_name_for_model(name) or 'RECIPE'}, and --set name=... if the recipe "
        "was renamed",
    )


def is_missing_candidate(execution: Execution, model: str) -> bool:
    """Whether `model` is NAME@candidate and no version has that alias, or no model that name."""
    from components.registry.promotion import CANDIDATE, version_at

    name, _, alias = model.partition("@")
    return alias == CANDIDATE and version_at(execution.open_tracking(), name, CANDIDATE) is None


def load_evidence(tracking: Tracking, model: str) -> tuple[ModelVersionInfo, Evidence]:
    """Return a registered version and the evidence recorded about it.

    Raises:
        TrackingError: there is no such version.
        ConfigError: no evidence is recorded.
    """
    from components.registry.queries import evidence_at, get_version

    version = get_version(tracking, model)
    label = f"{version.model}/{version.version}"
    evidence = evidence_at(tracking, label)
    if not evidence.metrics:
        raise ConfigError(
            f"{redact_credentials(tracking.uri)} has no evidence about {label}",
            expected="a version that a gate has evaluated before, which records its evidence",
            fix="run `codegen promote` with the recipe of the model",
        )
    return version, evidence


def decide_promotion(
    context: FlowContext,
    name: str,
    version: int,
    stage: str,
    evidence: Evidence,
    *,
    approved_by: str = "",
    reason: str = "",
) -> Promotion:
    """Promote or refuse a registered version, by the gate of the recipe and an approval.

    A refused version is not evaluated again, and no approval is requested again, until its rules,
    its metrics or the champion change.

    Args:
        name: name of the registered model.
        version: its version.
        stage: the stage of the version.
        evidence: metrics and provenance of the version.
        approved_by: the user who approves in advance, also despite an earlier refusal.
        reason: reason of that approval.
    """
    from components.registry.promotion import PromotionRequest, promote, standing_refusal

    gate = context.recipe.gate
    request = PromotionRequest(name, version, stage, evidence, gate)
    if not approved_by and (refusal := standing_refusal(request, context.run.tracking)):
        _report_standing_refusal(context, refusal)
        return refusal
    flow_name = flow_run.get_flow_name()
    decided_by = f"{current_user()} (flow {flow_name})"
    approval: Approval | None = None
    if gate.approval == "manual" or approved_by:
        approval = _get_approval(context, request, decided_by, approved_by, reason)
        if approval:
            decided_by = f"{approval.name} (flow {flow_name})"
    promotion = context.task(
        f"promote {name}/{version}",
        lambda run: promote(request, run=run, decided_by=decided_by, approval=approval),
        tags={"stage": stage},
    )
    _publish_comparison(promotion)
    emit_promotion_event(promotion)
    return promotion


def _get_approval(
    context: FlowContext,
    request: PromotionRequest,
    decided_by: str,
    approved_by: str,
    reason: str,
) -> Approval | None:
    """Return the approval of a version that passes the gate; None if it does not pass.

    Requests the approval in the Prefect UI if `approved_by` is empty.
    """
    from components.registry.gate import Approval
    from components.registry.promotion import propose, rollback_note

    proposal = context.task(
        f"evaluate gate for {request.model}/{request.version}",
        lambda run: propose(request, run=run, decided_by=decided_by),
        tags={"stage": request.stage},
    )
    if not proposal.decision.promoted:
        return None
    if not approved_by:
        note = rollback_note(request, context.run.tracking)
        return _wait_for_approval(context, proposal, note)
    champion = proposal.champion_before
    return Approval(approved=True, name=approved_by, reason=reason, champion=champion)


def _report_standing_refusal(context: FlowContext, refusal: Promotion) -> None:
    recipe = recipe_name_for_model(refusal.model) or "RECIPE"
    label = f"{refusal.model}/{refusal.version}"
    status = f"refused on {refusal.decided_at} by {refusal.decided_by}; nothing has changed since"
    fix = "To approve it nevertheless, run:"
    command = f"codegen models promote {label} -r {recipe}"
    context.warn(f"{label} was {status}. {fix} {command}")
    text = (
        f"{comparison_markdown(refusal)}\n\n"
        f"This version was {escape_inline(status)}. {fix} {code(command)}\n"
    )
    publish_markdown(refusal.model, "promotion", text, f"{refusal.summary}; {status}")


def _wait_for_approval(context: FlowContext, proposal: Promotion, rollback_note: str) -> Approval:
    """Pause the flow until its form is submitted.

    Args:
        rollback_note: who rolled this version back; empty if it was not.
    """
    from components.registry.gate import Approval

    _publish_comparison(proposal)
    label = f"{proposal.model}/{proposal.version}"
    warning = f"**This version was {escape_inline(rollback_note)}**\n\n" if rollback_note else ""
    champion = proposal.champion_before
    answer = wait_for_answer(
        context,
        ApprovalForm.with_initial_data(description=warning + comparison_markdown(proposal)),
        label,
        context.recipe.promotion.approval_timeout_s,
        # The key names the comparison: if Prefect reruns this flow, an earlier answer about another
        # champion does not count.
        key=f"{proposal.model}-{proposal.version}-against-{champion}",
    )
    return Approval(
        approved=answer.approve, name=answer.name, reason=answer.reason, champion=champion
    )


def wait_for_answer(
    context: FlowContext, form: type[ApprovalForm], subject: str, timeout_s: int, key: str
) -> ApprovalForm:
    """Pause the flow until its form is submitted in the Prefect UI; return the answer.

    After the timeout the answer is a rejection by `TIMED_OUT`.

    Args:
        form: the form with its description.
        subject: what waits for approval, for the terminal.
        key: identifies the question within the flow run.
    """
    run_id = UUID(flow_run.get_id())
    url = url_for("flow-run", run_id) or "open this flow run in the Prefect UI (`codegen ui`)"
    context.warn(f"{subject} waits up to {timeout_s / 3600:g} h for approval: {url}")
    with _auto_reject_after_timeout(run_id, timeout_s):
        return pause_flow_run(
            wait_for_input=form,
            timeout=timeout_s + _GRACE_S,
            poll_interval=_POLL_INTERVAL_S,
            key=key,
        )


@contextmanager
def _auto_reject_after_timeout(run_id: UUID, timeout_s: int) -> Iterator[None]:
    """Submit a rejection after the timeout; Prefect accepts the first answer only."""
    from components.registry.gate import TIMED_OUT

    reason = f"no answer within {timeout_s:,} s"

    def reject() -> None:
        answer = {"approve": False, "name": TIMED_OUT, "reason": reason}
        with get_client(sync_client=True) as client:
            client.resume_flow_run(run_id, run_input=answer)

    timer = threading.Timer(timeout_s, reject)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _publish_comparison(promotion: Promotion) -> None:
    """Publish the comparison in Prefect, one series per model."""
    text = comparison_markdown(promotion)
    publish_markdown(promotion.model, "promotion", text, promotion.summary)


def comparison_markdown(promotion: Promotion) -> str:
    """Return candidate and champion as Markdown: gate checks and metrics.

    Names, reasons and details of users are escaped: they are never markup.
    """
    champion = "there is no champion yet"
    if promotion.champion_before is not None:
        champion = f"the champion is version {promotion.champion_before}"
    checks = [
        [check.rule, "yes" if check.passed else Markup("**no**"), check.detail]
        for check in promotion.decision.checks
    ]
    outcome = promotion.decision.outcome.replace("_", " ")
    metric_heads = ["metric", "champion", "candidate", "difference", "95 % interval"]
    return "\n".join(
        [
            f"# {escape_inline(promotion.model)}: version {promotion.version}, {outcome}",
            f"\nStage {promotion.stage}; {champion}.\n",
            escaped_table(["requirement", "passed", "result"], checks),
            "",
            escaped_table(metric_heads, _metric_rows(promotion)),
        ]
    )


def _metric_rows(promotion: Promotion) -> list[list[str]]:
    from components.registry.evidence import Evidence, compare_metrics

    champion = promotion.champion_evidence or Evidence(digest="", metrics={}, protocols={})
    rows: list[list[str]] = []
    for metric in compare_metrics(champion, promotion.evidence):
        difference, interval = "", ""
        if metric.left is not None and metric.right is not None:
            difference = f"{metric.right - metric.left:+.4g}"
            if not metric.comparable:
                difference = f"other protocol: {'; '.join(metric.protocol)}"
        if metric.ci_low is not None and metric.ci_high is not None:
            interval = f"{metric.ci_low:+.4g} to {metric.ci_high:+.4g}"
        values = [_format_number(metric.left), _format_number(metric.right)]
        rows.append([metric.metric, *values, difference, interval])
    return rows


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
