"""Promotion: aliases of a registered model, and the record of each decision about a version.

The alias `champion`, a single row, alone defines the champion. The record of a decision and the
tags of the new champion are written before that row. The alias `previous`, the removal of
`candidate` and the final decision tags follow from those tags. If a change is interrupted, the
champion is therefore the old or the new version and the record is true; readers derive the rest
(`derive_aliases`), and the next change writes it (`repair_aliases`).

The run that decides stores the record as a file and as tags; no later decision writes to that run.
Processes of the same user and host are serialized; two hosts or users that promote the same model
at the same moment are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from mlflow.entities import LifecycleStage
from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config
from components.registry.client.connection import none_if_deleted, wrap_mlflow_errors
from components.registry.config import GateConfig
from components.registry.evidence import Evidence
from components.registry.evidence_store import load_full_evidence, load_record, save_evidence
from components.registry.gate import (
    GATE_VERSION,
    TIMED_OUT,
    Approval,
    Decision,
    apply_approval,
    decide,
)
from components.registry.tracking import TrackedRun, Tracking

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"

DECISION_TAG = "decision"
"""Tag of a version and of a run: the outcome, with `PENDING_PREFIX` until it takes effect."""
PENDING_PREFIX = "pending:"
PREVIOUS_CHAMPION_TAG = "champion_before"
"""Tag of a new champion: the version of its predecessor, or empty."""
DECIDING_RUN_TAG = "champion_by"
"""Tag of a new champion: the run that decided."""
ROLLBACK_TAG = "rolled_back"
"""Tag of a former champion that a user rolled back: who, when and why."""
RECORD_FILE = "promotion.json"
"""File of a run: the `Promotion` that it decided."""
_REFUSAL_PREFIX = "refused."
"""Prefix of a tag of a refused version, followed by a hash of the refused request
(`_refusal_key`). The value is the run with the record."""


class Promotion(Config):
    """The complete record of a decision."""

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
        """`champion` if this version is the champion after the decision."""
        return CHAMPION if self.champion_after == self.version else None

    @property
    def summary(self) -> str:
        """The decision as a line of text."""
        outcome = self.decision.outcome.replace("_", " ")
        reasons = f" ({'; '.join(self.decision.reasons)})" if self.decision.reasons else ""
        return f"{self.model} version {self.version}: {outcome}{reasons}"


class PromotionRequest(NamedTuple):
    """A registered version with its evidence, and the gate that evaluates it."""

    model: str
    version: int
    stage: str
    evidence: Evidence
    gate: GateConfig


def propose(request: PromotionRequest, *, run: TrackedRun, decided_by: str) -> Promotion:
    """Return the decision that `promote` would make after an approval.

    The version becomes the candidate, and its evidence is stored. The champion does not change, and
    no decision is recorded.

    Raises:
        ConfigError, TrackingError: as `promote`.
    """
    with run.tracking.model_lock(request.model):
        repair_aliases(run.tracking, request.model)
        gate = request.gate.replace(approval="auto")  # A missing approval is no refusal yet.
        return _evaluate(request._replace(gate=gate), run, decided_by, None)


def promote(
    request: PromotionRequest,
    *,
    run: TrackedRun,
    decided_by: str,
    approval: Approval | None = None,
) -> Promotion:
    """Evaluate the gate for a registered version, record the decision, and set the aliases.

    Args:
        run: stores the record, as `promotion.json` and as tags.
        decided_by: a user or a flow.
        approval: a reviewer's answer. If the gate requires an approval and there is none, the
            version is refused.

    Raises:
        ConfigError: the gate has no requirements for the stage.
    """
    tracking = run.tracking
    # Locked, so that of two concurrent runs the second compares with the champion of the first.
    with tracking.model_lock(request.model):
        repair_aliases(tracking, request.model)
        version = _get_version(request, tracking)
        rollback_text = version.tags.get(ROLLBACK_TAG, "")
        promotion = _evaluate(request, run, decided_by, approval, rollback_text)
        record_decision(run, promotion)
        if promotion.decision.outcome != "already_champion":
            _tag_version(tracking, promotion)
        no_reviewer = bool(rollback_text) and request.gate.approval == "auto"
        if _is_standing(promotion, approval, no_reviewer=no_reviewer):
            key = _refusal_key(request, tracking, version)
            with wrap_mlflow_errors(f"recording the refusal of {request.model}"):
                tracking.client.set_model_version_tag(
                    request.model, str(request.version), key, run.id
                )
        if promotion.decision.promoted:
            make_champion(run, promotion)
    return promotion


def standing_refusal(request: PromotionRequest, tracking: Tracking) -> Promotion | None:
    """Return the refusal of the same request: same rules, same metrics, same champion.

    None if there is none, if only the approval timed out, or if its record has been deleted.
    """
    version = _get_version(request, tracking)
    run_id = version.tags.get(_refusal_key(request, tracking, version))
    return load_promotion(tracking, run_id) if run_id else None


def load_promotion(tracking: Tracking, run_id: str) -> Promotion | None:
    """Return the decision that a run recorded; None if its file or the run has been deleted.

    Raises:
        TrackingError: the file is not a record of this version of the platform.
    """
    return load_record(
        tracking,
        run_id,
        RECORD_FILE,
        Promotion,
        expected="a decision recorded by this version of codegen (0.1 wrote other records)",
        fix="use an empty tracking database (--exec tracking_uri=URI) or another workspace",
    )


def rollback_note(request: PromotionRequest, tracking: Tracking) -> str:
    """Return who rolled this version back, when and why, as text; empty if it was not."""
    return str(_get_version(request, tracking).tags.get(ROLLBACK_TAG, ""))


def _evaluate(
    request: PromotionRequest,
    run: TrackedRun,
    decided_by: str,
    approval: Approval | None,
    rollback_note: str = "",
) -> Promotion:
    name, version, stage, evidence, gate = request
    champion = version_at(run.tracking, name, CHAMPION)
    champion_evidence = load_full_evidence(run.tracking, champion)
    champion_version = int(champion.version) if champion else None
    decision = decide(gate, stage, evidence, champion_evidence)
    decision = apply_approval(decision, gate, approval, champion_version, rollback_note)
    # Also for the champion: evaluated with a new protocol, it is comparable under that protocol.
    save_evidence(run, name, version, evidence)
    if decision.outcome != "already_champion":
        with wrap_mlflow_errors(f"proposing {name}"):
            run.tracking.client.set_registered_model_alias(name, CANDIDATE, str(version))
    return Promotion(
        model=name,
        version=version,
        stage=stage,
        decision=decision,
        champion_before=champion_version,
        champion_after=version if decision.promoted else champion_version,
        decided_by=decided_by,
        decided_at=utc_now(),
        evidence=evidence,
        champion_evidence=champion_evidence,
    )


def utc_now() -> str:
    """Return the time of a decision."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_decision(run: TrackedRun, promotion: Promotion) -> None:
    """Store a decision in the run that made it."""
    run.log_json(RECORD_FILE, promotion.model_dump(mode="json"))
    run.log_table("checks.json", [check.model_dump() for check in promotion.decision.checks])
    run.set_tags(
        {
            "model": promotion.model,
            "version": str(promotion.version),
            DECISION_TAG: _decision_tag(promotion),
            "decided_by": promotion.decided_by,
            "decided_at": promotion.decided_at,
            "champion_before": str(promotion.champion_before or "none"),
            "champion_after": str(promotion.champion_after or "none"),
        }
    )


def _tag_version(tracking: Tracking, promotion: Promotion) -> None:
    # The decision is last: until then, readers find the previous decision.
    tags = {
        "decided_at": promotion.decided_at,
        "decided_by": promotion.decided_by,
        "decision_reasons": "; ".join(promotion.decision.reasons) or "every check passed",
        DECISION_TAG: _decision_tag(promotion),
    }
    with wrap_mlflow_errors(f"recording the decision about {promotion.model}"):
        tracking.set_version_tags(promotion.model, promotion.version, tags)


def _decision_tag(promotion: Promotion) -> str:
    """Return the outcome, as pending if it changes the champion."""
    is_pending = promotion.champion_after != promotion.champion_before
    return f"{PENDING_PREFIX if is_pending else ''}{promotion.decision.outcome}"


def _is_standing(promotion: Promotion, approval: Approval | None, *, no_reviewer: bool) -> bool:
    """Whether a refusal stands until its request changes.

    True if a rule failed, if a reviewer rejected this comparison, or if an approval is required but
    the flow asks no reviewer (`no_reviewer`). False if the approval timed out.
    """
    if promotion.decision.outcome != "refused":
        return False
    if promotion.decision.failed_a_rule:
        return True
    if approval is None:
        return no_reviewer
    return approval.name != TIMED_OUT and approval.champion == promotion.champion_before


def _get_version(request: PromotionRequest, tracking: Tracking) -> ModelVersion:
    with wrap_mlflow_errors(f"looking up {request.model}/{request.version}"):
        return tracking.client.get_model_version(request.model, str(request.version))


def _refusal_key(request: PromotionRequest, tracking: Tracking, version: ModelVersion) -> str:
    """Return the tag of a refusal by these rules and metrics, against the current champion."""
    champion = version_at(tracking, request.model, CHAMPION)
    evidence = load_full_evidence(tracking, champion)
    opponent = None
    if champion is not None and evidence is not None:
        opponent = [int(champion.version), evidence.identity()]
    parts = [
        GATE_VERSION,
        request.stage,
        request.gate.identity(),
        version.tags.get(ROLLBACK_TAG, ""),
        request.evidence.identity(),
        opponent,
    ]
    text = json.dumps(parts, sort_keys=True)  # A metric may be NaN.
    return f"{_REFUSAL_PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def version_at(tracking: Tracking, name: str, alias: str) -> ModelVersion | None:
    """Return the version with an alias, or None; also if no model has the name."""
    with wrap_mlflow_errors(f"looking up {name}@{alias}"):
        model = none_if_deleted(lambda: tracking.client.get_registered_model(name))
        version = model.aliases.get(alias) if model else None
        return tracking.client.get_model_version(name, str(version)) if version else None


def make_champion(run: TrackedRun, promotion: Promotion) -> None:
    """Execute a recorded decision. The caller holds the model lock."""
    name, version = promotion.model, promotion.champion_after
    if version is None:
        raise ValueError("a decision without a champion cannot be executed")
    predecessor = "" if promotion.champion_before is None else str(promotion.champion_before)
    tags = {PREVIOUS_CHAMPION_TAG: predecessor, DECIDING_RUN_TAG: run.id}
    with wrap_mlflow_errors(f"changing the champion of {name}"):
        run.tracking.set_version_tags(name, version, tags)
        run.tracking.client.set_registered_model_alias(name, CHAMPION, str(version))
    repair_aliases(run.tracking, name)


def derive_aliases(
    aliases: Mapping[str, str | int], champion: ModelVersion | None
) -> dict[str, int]:
    """Return the aliases after everything that follows from the champion's tags is applied."""
    derived = {alias: int(version) for alias, version in aliases.items()}
    if champion is None:
        return derived
    if predecessor := champion.tags.get(PREVIOUS_CHAMPION_TAG):
        derived[PREVIOUS] = int(predecessor)
    if derived.get(CANDIDATE) == int(champion.version):
        del derived[CANDIDATE]
    return derived


def repair_aliases(tracking: Tracking, name: str) -> dict[str, int]:
    """Write everything that follows from the champion's tags; return the aliases.

    The caller holds the model lock.
    """
    client = tracking.client
    with wrap_mlflow_errors(f"repairing the aliases of {name}"):
        stored = {
            alias: int(version)
            for alias, version in client.get_registered_model(name).aliases.items()
        }
        champion = version_at(tracking, name, CHAMPION)
        derived = derive_aliases(stored, champion)
        previous = derived.get(PREVIOUS)
        if previous is not None and not _exists(tracking, name, previous):
            del derived[PREVIOUS]
        elif previous is not None and previous != stored.get(PREVIOUS):
            client.set_registered_model_alias(name, PREVIOUS, str(previous))
        if CANDIDATE in stored and CANDIDATE not in derived:
            client.delete_registered_model_alias(name, CANDIDATE)
        if champion is not None:
            _finalize_decision(tracking, champion)
    return derived


def _exists(tracking: Tracking, name: str, version: int) -> bool:
    """Whether a version still exists."""
    query = f"name = '{name}' and version_number = {version}"
    return bool(tracking.client.search_model_versions(query))


def _finalize_decision(tracking: Tracking, champion: ModelVersion) -> None:
    """Remove the pending mark of the decision for this champion, and its rollback note."""
    client = tracking.client
    name, version = champion.name, champion.version
    if ROLLBACK_TAG in champion.tags:
        client.delete_model_version_tag(name, version, ROLLBACK_TAG)
    decision = champion.tags.get(DECISION_TAG, "")
    if decision.startswith(PENDING_PREFIX):
        outcome = decision.removeprefix(PENDING_PREFIX)
        client.set_model_version_tag(name, version, DECISION_TAG, outcome)
    run_id = champion.tags.get(DECIDING_RUN_TAG)
    run = none_if_deleted(lambda: client.get_run(run_id)) if run_id else None
    if run and run.info.lifecycle_stage == LifecycleStage.ACTIVE:
        decision = run.data.tags.get(DECISION_TAG, "")
        if decision.startswith(PENDING_PREFIX):
            client.set_tag(run_id, DECISION_TAG, decision.removeprefix(PENDING_PREFIX))
