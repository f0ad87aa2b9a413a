"""The champion changes hands: aliases, and a record of who decided what, when, and on which evidence.

Design decision: each decision is kept by the run that decided it, as a file and as tags, and no later decision writes to
that run. The record is written first, then the one row that counts, the alias `champion`, then what follows from it
(`aliases`). Killed anywhere, the champion is the former one or the new one, and the record says which. Not covered: two
hosts or users that promote the same model at the same moment; one user's processes on one host wait for each other.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import NamedTuple

from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config
from components.registry.aliases import (
    CANDIDATE,
    CHAMPION,
    DECIDED_IN,
    DECISION,
    PENDING_PREFIX,
    PREVIOUS_CHAMPION_TAG,
    ROLLED_BACK,
    repair_aliases,
    version_at,
)
from components.registry.client.connection import wrap_mlflow_errors
from components.registry.config import GateConfig
from components.registry.evidence import Evidence
from components.registry.evidence_store import download_run_file, load_full_evidence, save_evidence
from components.registry.gate import (
    GATE_VERSION,
    TIMED_OUT,
    Approval,
    Decision,
    apply_approval,
    decide,
)
from components.registry.runs import TrackedRun
from components.registry.tracking import Tracking

RECORD = "promotion.json"
"""The file of a run with the `Promotion` that it decided."""
_REFUSED = "refused."
"""Begins the tags of a version that was refused; a digest of all that decided it follows (`_matter`). The value is the run
that keeps the record."""


class Promotion(Config):
    """One decision, complete: it is kept with the run and shown on the page of results."""

    model: str
    version: int
    stage: str
    decision: Decision
    champion_before: int | None
    champion_after: int | None
    decided_by: str
    decided_at: str
    """UTC, ISO 8601."""
    evidence: Evidence
    champion_evidence: Evidence | None

    @property
    def alias(self) -> str | None:
        """`champion` where this version has that alias now: newly, or from before."""
        return CHAMPION if self.champion_after == self.version else None

    @property
    def summary(self) -> str:
        """One line for people."""
        line = f"{self.model} version {self.version}: {self.decision.outcome}"
        return f"{line} ({'; '.join(self.decision.reasons)})" if self.decision.reasons else line


class PromotionRequest(NamedTuple):
    """What is to be decided about: a registered version, what is known of it, and the rules."""

    model: str
    version: int
    stage: str
    evidence: Evidence
    """About the same checkpoint."""
    gate: GateConfig


def propose(case: PromotionRequest, *, run: TrackedRun, decided_by: str) -> Promotion:
    """What `promote` would decide now, for a person to look at; the version becomes the candidate, with its evidence.

    The champion stays, and nothing is recorded as decided.

    Raises:
        ConfigError, TrackingError: as `promote`.
    """
    with run.tracking.model_lock(case.model):
        repair_aliases(run.tracking, case.model)
        unasked = case.gate.replace(
            approval="automatic"
        )  # The word that is still missing is no reason to refuse yet.
        return _evaluate(case._replace(gate=unasked), run, decided_by, None)


def promote(
    case: PromotionRequest, *, run: TrackedRun, decided_by: str, approval: Approval | None = None
) -> Promotion:
    """Let the gate decide about a registered version, record the decision, and move the aliases accordingly.

    Args:
        run: the run that keeps the record, as `promotion.json` and as tags.
        decided_by: a person or a flow.
        approval: a person's word, where one was asked. Where the gate wants one and there is none, nothing is promoted.

    Raises:
        ConfigError: the gate has no requirements for this stage.
        TrackingError: MLflow refused.
    """
    # Two runs on one host judge one after the other, so that the second is compared with what the first promoted.
    with run.tracking.model_lock(case.model):
        repair_aliases(run.tracking, case.model)
        judged = _version_of(case, run.tracking)
        taken_back = judged.tags.get(ROLLED_BACK, "")
        promotion = _evaluate(case, run, decided_by, approval, taken_back)
        record(run, promotion)
        if promotion.decision.outcome != "already champion":
            _record_on_version(run.tracking, promotion)
        if _is_standing(
            promotion, approval, unasked=bool(taken_back) and case.gate.approval == "automatic"
        ):
            with wrap_mlflow_errors(f"recording the refusal of {case.model}"):
                key = _refusal_key(case, run.tracking, judged)
                run.tracking.client.set_model_version_tag(
                    case.model, str(case.version), key, run.id
                )
        if promotion.decision.promoted:
            make_champion(run, promotion)
    return promotion


def standing_refusal(case: PromotionRequest, tracking: Tracking) -> Promotion | None:
    """The refusal of this very case, which stands as long as its rules, its figures and the champion are the same.

    None where there is none, where only the time ran out for a person's word, or where its record is gone.

    Raises:
        TrackingError: MLflow refused.
    """
    judged = _version_of(case, tracking)
    refused_in = judged.tags.get(_refusal_key(case, tracking, judged))
    found = download_run_file(tracking, refused_in, RECORD) if refused_in else None
    return None if found is None else Promotion.parse(json.loads(found.read_text(encoding="utf-8")))


def rollback_note(case: PromotionRequest, tracking: Tracking) -> str:
    """Who rolled this version back, when and why, as a sentence; empty where nobody did.

    Raises:
        TrackingError: MLflow refused.
    """
    return str(_version_of(case, tracking).tags.get(ROLLED_BACK, ""))


def make_champion(run: TrackedRun, promotion: Promotion) -> None:
    """Carry out a recorded decision; to be called with the model locked."""
    client, name, version = run.tracking.client, promotion.model, str(promotion.champion_after)
    with wrap_mlflow_errors(f"changing the champion of {name}"):
        before = "" if promotion.champion_before is None else str(promotion.champion_before)
        for key, value in {PREVIOUS_CHAMPION_TAG: before, DECIDED_IN: run.id}.items():
            client.set_model_version_tag(name, version, key, value)
        client.set_registered_model_alias(name, CHAMPION, version)
    repair_aliases(run.tracking, name)


def record(run: TrackedRun, promotion: Promotion) -> None:
    """Keep a decision with the run that made it, for good."""
    run.json(RECORD, promotion.model_dump(mode="json"))
    run.table("checks.json", [check.model_dump() for check in promotion.decision.checks])
    run.tags(
        {
            "model": promotion.model,
            "version": str(promotion.version),
            DECISION: _decision_tag(promotion),
            "decided_by": promotion.decided_by,
            "decided_at": promotion.decided_at,
            "champion_before": str(promotion.champion_before or "none"),
            "champion_after": str(promotion.champion_after or "none"),
        }
    )


def now() -> str:
    """As decisions state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _evaluate(
    case: PromotionRequest,
    run: TrackedRun,
    decided_by: str,
    approval: Approval | None,
    taken_back: str = "",
) -> Promotion:
    name, version, stage, evidence, gate = case
    champion = version_at(run.tracking, name, CHAMPION)
    known = load_full_evidence(run.tracking, champion)
    before = int(champion.version) if champion else None
    decision = apply_approval(
        decide(gate, stage, evidence, known), gate, approval, before, taken_back
    )
    # Also for the present champion: measured under a new protocol, it can be compared with under that protocol.
    save_evidence(run, name, version, evidence)
    if decision.outcome != "already champion":
        with wrap_mlflow_errors(f"proposing {name}"):
            run.tracking.client.set_registered_model_alias(name, CANDIDATE, str(version))
    return Promotion(
        model=name,
        version=version,
        stage=stage,
        decision=decision,
        champion_before=before,
        champion_after=version if decision.promoted else before,
        decided_by=decided_by,
        decided_at=now(),
        evidence=evidence,
        champion_evidence=known,
    )


def _record_on_version(tracking: Tracking, promotion: Promotion) -> None:
    # The decision last: until then, whoever reads the version finds the former one.
    tags = {
        "decided_at": promotion.decided_at,
        "decided_by": promotion.decided_by,
        "decision_reasons": "; ".join(promotion.decision.reasons) or "every check passed",
        DECISION: _decision_tag(promotion),
    }
    with wrap_mlflow_errors(f"recording what was decided of {promotion.model}"):
        for key, value in tags.items():
            tracking.client.set_model_version_tag(
                promotion.model, str(promotion.version), key, value
            )


def _is_standing(promotion: Promotion, approval: Approval | None, *, unasked: bool) -> bool:
    """Whether this is a refusal that holds until something changes: by a rule, or by a person who looked at this very
    comparison, or for want of a person whom nobody will ask (`unasked`). Where an answer is merely late, it does not."""
    if promotion.decision.outcome != "refused" or promotion.decision.failed_a_rule:
        return promotion.decision.outcome == "refused"
    if approval is None:
        return unasked
    return approval.name != TIMED_OUT and approval.champion == promotion.champion_before


def _version_of(case: PromotionRequest, tracking: Tracking) -> ModelVersion:
    with wrap_mlflow_errors(f"looking for {case.model}/{case.version}"):
        return tracking.client.get_model_version(case.model, str(case.version))


def _refusal_key(case: PromotionRequest, tracking: Tracking, judged: ModelVersion) -> str:
    """The tag that says of a version that it was refused by these rules and figures, against the present champion."""
    champion = version_at(tracking, case.model, CHAMPION)
    known = load_full_evidence(tracking, champion)
    against = (
        None if champion is None or known is None else [int(champion.version), known.identity()]
    )
    rules = [GATE_VERSION, case.stage, case.gate.identity(), judged.tags.get(ROLLED_BACK, "")]
    matter = json.dumps(
        [*rules, case.evidence.identity(), against], sort_keys=True
    )  # A figure may be NaN.
    return f"{_REFUSED}{hashlib.sha256(matter.encode()).hexdigest()[:16]}"


def _decision_tag(promotion: Promotion) -> str:
    """What was decided, as something that is still to happen where it changes the champion."""
    moves = promotion.champion_after != promotion.champion_before
    return f"{PENDING_PREFIX}{promotion.decision.outcome}" if moves else promotion.decision.outcome
