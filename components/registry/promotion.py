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
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config
from components.registry.aliases import CANDIDATE, CHAMPION, DECIDED_IN, DECISION, REPLACED, TO_BE, settle, version_at
from components.registry.config import GateConfig
from components.registry.connection import explained, unless_gone
from components.registry.evidence import Evidence
from components.registry.gate import NOBODY, Approval, Decision, decide, with_approval
from components.registry.runs import TrackedRun
from components.registry.tracking import Tracking

RECORD = "promotion.json"
"""The file of a run with the `Promotion` that it decided."""
_EVIDENCE_FILE = "evidence.json"
"""The file of a run with the `Evidence` that it judged a version by: what is long is too long for a tag."""
_EVIDENCE, _EVIDENCE_RUN = "evidence", "evidence_run"
"""Tags of a version with the `Evidence` (JSON) that the gate last saw of it, but for what is long; and with that run."""
_LONG = {"by_problem", "settings"}
_REFUSED_AS, _REFUSED_IN = "refused_as", "refused_in"
"""Tags of a version that was refused: a digest of all that decided it (`_matter`), and the run that keeps the record."""


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


class Case(NamedTuple):
    """What is to be decided about: a registered version, what is known of it, and the rules."""

    model: str
    version: int
    stage: str
    evidence: Evidence
    """About the same checkpoint."""
    gate: GateConfig


def propose(case: Case, *, run: TrackedRun, decided_by: str) -> Promotion:
    """What `promote` would decide now, for a person to look at; the version becomes the candidate, with its evidence.

    The champion stays, and nothing is recorded as decided.

    Raises:
        ConfigError, TrackingError: as `promote`.
    """
    with run.tracking.alone(case.model):
        settle(run.tracking, case.model)
        unasked = case.gate.replace(approval="automatic")  # The word that is still missing is no reason to refuse yet.
        return _judged(case._replace(gate=unasked), run, decided_by, None)


def promote(case: Case, *, run: TrackedRun, decided_by: str, approval: Approval | None = None) -> Promotion:
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
    with run.tracking.alone(case.model):
        settle(run.tracking, case.model)
        promotion = _judged(case, run, decided_by, approval)
        record(run, promotion)
        if promotion.decision.outcome != "already champion":
            _record_on_version(run.tracking, promotion)
        if promotion.decision.outcome == "refused" and (promotion.decision.by_rules or _is_no(approval, promotion)):
            _keep_refusal(case, run)
        if promotion.decision.promoted:
            make_champion(run, promotion)
    return promotion


def refusal_of(case: Case, tracking: Tracking) -> Promotion | None:
    """The refusal of this very case, which stands as long as its rules, its figures and the champion are the same.

    None where there is none, where only the time ran out for a person's word, or where its record is gone.

    Raises:
        TrackingError: MLflow refused.
    """
    with explained(f"looking for {case.model}/{case.version}"):
        judged = tracking.client.get_model_version(case.model, str(case.version))
    champion = version_at(tracking, case.model, CHAMPION)
    if judged.tags.get(_REFUSED_AS) != _matter(case, champion, whole_evidence(tracking, champion)):
        return None
    found = file_of(tracking, judged.tags[_REFUSED_IN], RECORD)
    return None if found is None else Promotion.parse(json.loads(found.read_text(encoding="utf-8")))


def make_champion(run: TrackedRun, promotion: Promotion) -> None:
    """Carry out a recorded decision; to be called with the model locked."""
    client, name, version = run.tracking.client, promotion.model, str(promotion.champion_after)
    with explained(f"changing the champion of {name}"):
        before = "" if promotion.champion_before is None else str(promotion.champion_before)
        for key, value in {REPLACED: before, DECIDED_IN: run.id}.items():
            client.set_model_version_tag(name, version, key, value)
        client.set_registered_model_alias(name, CHAMPION, version)
    settle(run.tracking, name)


def record(run: TrackedRun, promotion: Promotion) -> None:
    """Keep a decision with the run that made it, for good."""
    run.json(RECORD, promotion.model_dump(mode="json"))
    run.table("checks.json", [check.model_dump() for check in promotion.decision.checks])
    run.tags(
        {
            "model": promotion.model,
            "version": str(promotion.version),
            DECISION: _said(promotion),
            "decided_by": promotion.decided_by,
            "decided_at": promotion.decided_at,
            "champion_before": str(promotion.champion_before or "none"),
            "champion_after": str(promotion.champion_after or "none"),
        }
    )


def evidence_of(version: ModelVersion | None) -> Evidence | None:
    """What the gate last saw of a version, but for what is long: no figures where it never judged it, None of no version."""
    if version is None:
        return None
    if _EVIDENCE not in version.tags:  # Made champion by hand: to be measured before it can be compared with.
        return Evidence(digest=version.tags.get("checkpoint_digest", ""), metrics={}, protocols={})
    return Evidence.model_validate_json(version.tags[_EVIDENCE])


def whole_evidence(tracking: Tracking, version: ModelVersion | None) -> Evidence | None:
    """The same with everything, where the run that judged it still has it.

    Raises:
        TrackingError: MLflow refused.
    """
    known = evidence_of(version)
    if version is None or known is None or _EVIDENCE_RUN not in version.tags:
        return known
    found = file_of(tracking, version.tags[_EVIDENCE_RUN], _EVIDENCE_FILE)
    return known if found is None else Evidence.parse(json.loads(found.read_text(encoding="utf-8")))


def file_of(tracking: Tracking, run_id: str, name: str) -> Path | None:
    """A file that a run keeps; None where it is gone, or the run is.

    Raises:
        TrackingError: MLflow refused.
    """
    with explained(f"reading {name} of the run {run_id}"):
        files = unless_gone(lambda: tracking.client.list_artifacts(run_id)) or []
        if not any(one.path == name for one in files):
            return None
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, tracking_uri=tracking.uri))


def now() -> str:
    """As decisions state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _judged(case: Case, run: TrackedRun, decided_by: str, approval: Approval | None) -> Promotion:
    name, version, stage, evidence, gate = case
    champion = version_at(run.tracking, name, CHAMPION)
    known = whole_evidence(run.tracking, champion)
    before = int(champion.version) if champion else None
    decision = with_approval(decide(gate, stage, evidence, known), gate, approval, before)
    # Also for the present champion: measured under a new protocol, it can be compared with under that protocol.
    _keep_evidence(run, name, version, evidence)
    if decision.outcome != "already champion":
        with explained(f"proposing {name}"):
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


def _keep_evidence(run: TrackedRun, name: str, version: int, evidence: Evidence) -> None:
    with explained(f"looking for {name}/{version}"):
        judged = run.tracking.client.get_model_version(name, str(version))
    if whole_evidence(run.tracking, judged) == evidence:
        return
    run.json(_EVIDENCE_FILE, evidence.model_dump(mode="json"))
    # The run last: it is what the comparison above reads, so what a kill left half written is written again.
    tags = {_EVIDENCE: evidence.model_dump_json(exclude=_LONG), _EVIDENCE_RUN: run.id}
    with explained(f"keeping the evidence of {name}"):
        for key, value in tags.items():
            run.tracking.client.set_model_version_tag(name, str(version), key, value)


def _record_on_version(tracking: Tracking, promotion: Promotion) -> None:
    # The decision last: until then, whoever reads the version finds the former one.
    tags = {
        "decided_at": promotion.decided_at,
        "decided_by": promotion.decided_by,
        "decision_reasons": "; ".join(promotion.decision.reasons) or "every check passed",
        DECISION: _said(promotion),
    }
    with explained(f"recording what was decided of {promotion.model}"):
        for key, value in tags.items():
            tracking.client.set_model_version_tag(promotion.model, str(promotion.version), key, value)


def _is_no(approval: Approval | None, promotion: Promotion) -> bool:
    """Whether a person looked at this very comparison and said no."""
    return approval is not None and approval.name != NOBODY and approval.champion == promotion.champion_before


def _keep_refusal(case: Case, run: TrackedRun) -> None:
    champion = version_at(run.tracking, case.model, CHAMPION)
    # The digest last: a kill before it costs one more judgement.
    tags = {_REFUSED_IN: run.id, _REFUSED_AS: _matter(case, champion, whole_evidence(run.tracking, champion))}
    with explained(f"recording the refusal of {case.model}"):
        for key, value in tags.items():
            run.tracking.client.set_model_version_tag(case.model, str(case.version), key, value)


def _matter(case: Case, champion: ModelVersion | None, known: Evidence | None) -> str:
    """SHA-256 of all that a gate decides by. `known`: the champion's evidence."""
    against = None if champion is None or known is None else [int(champion.version), known.model_dump(mode="json")]
    matter = [case.stage, case.gate.model_dump(mode="json"), case.evidence.model_dump(mode="json"), against]
    return hashlib.sha256(json.dumps(matter, sort_keys=True).encode()).hexdigest()  # A figure may be NaN.


def _said(promotion: Promotion) -> str:
    """What was decided, as something that is still to happen where it changes the champion."""
    moves = promotion.champion_after != promotion.champion_before
    return f"{TO_BE}{promotion.decision.outcome}" if moves else promotion.decision.outcome
