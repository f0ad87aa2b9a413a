"""The champion changes hands: aliases, and a record of who decided what, when, and on which evidence.

Design decision: everything is written before the one write that counts, the alias `champion`, which is a single row. Killed
anywhere, the former champion stays, and the next promotion decides again from the same evidence. Not covered yet: approval
by a person, and a rollback command (`previous` points at what it would restore).
"""

from __future__ import annotations

from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion

from components.core.artifact import Artifact
from components.core.config import Config
from components.registry.config import GateConfig
from components.registry.connection import explained
from components.registry.gate import Decision, Evidence, decide
from components.registry.runs import TrackedRun
from components.registry.tracking import Tracking

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"

RECORD = "promotion.json"
"""The file of a run with the `Promotion` that it decided."""
_EVIDENCE = "evidence"
"""Tag of a version with the `Evidence` (JSON) that the gate last saw of it."""


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


def promote(
    registered: Artifact, *, gate: GateConfig, stage: str, evidence: Evidence, run: TrackedRun, decided_by: str
) -> Promotion:
    """Let the gate decide about a registered version, record the decision, and move the aliases accordingly.

    Args:
        registered: what `models.register` returned.
        evidence: about the same checkpoint.
        run: the run that keeps the record, as `promotion.json` and as tags.
        decided_by: a person or a flow.

    Raises:
        ConfigError: the gate has no requirements for this stage.
        TrackingError: MLflow refused.
    """
    # Two runs on one host judge one after the other, so that the second is compared with what the first promoted.
    with run.tracking.alone(registered.name):
        return _promote(registered, gate=gate, stage=stage, evidence=evidence, run=run, decided_by=decided_by)


def _promote(
    registered: Artifact, *, gate: GateConfig, stage: str, evidence: Evidence, run: TrackedRun, decided_by: str
) -> Promotion:
    client = run.tracking.client
    name, version = registered.name, str(registered.statistics["version"])
    with explained(f"promoting {name}"):
        champion = version_at(run.tracking, name, CHAMPION)
        known = evidence_of(champion)
        decision = decide(gate, stage, evidence, known)
        before = int(champion.version) if champion else None
        promotion = Promotion(
            model=name,
            version=int(version),
            stage=stage,
            decision=decision,
            champion_before=before,
            champion_after=int(version) if decision.promoted else before,
            decided_by=decided_by,
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
            evidence=evidence,
            champion_evidence=known,
        )
        # Also for the present champion: measured under a new protocol, it can be compared with under that protocol.
        client.set_model_version_tag(name, version, _EVIDENCE, evidence.model_dump_json())
        if decision.outcome != "already champion":
            client.set_registered_model_alias(name, CANDIDATE, version)
            _record_on_version(run.tracking, promotion)
    record_on_run(run, promotion)
    if decision.promoted:
        with explained(f"promoting {name}"):
            if champion:
                client.set_registered_model_alias(name, PREVIOUS, champion.version)
            client.set_registered_model_alias(name, CHAMPION, version)
            client.delete_registered_model_alias(name, CANDIDATE)
    return promotion


def version_at(tracking: Tracking, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias of a model points at, or None."""
    with explained(f"looking for {name}@{alias}"):
        version = tracking.client.get_registered_model(name).aliases.get(alias)
        return tracking.client.get_model_version(name, str(version)) if version else None


def evidence_of(version: ModelVersion | None) -> Evidence | None:
    """What the gate last saw of a version: no figures where it never judged it, None where there is no version."""
    if version is None:
        return None
    if _EVIDENCE not in version.tags:  # Made champion by hand: to be measured before it can be compared with.
        return Evidence(digest=version.tags.get("checkpoint_digest", ""), metrics={}, protocols={})
    return Evidence.model_validate_json(version.tags[_EVIDENCE])


def _record_on_version(tracking: Tracking, promotion: Promotion) -> None:
    record = {
        "decision": promotion.decision.outcome,
        "decided_at": promotion.decided_at,
        "decided_by": promotion.decided_by,
        "decision_reasons": "; ".join(promotion.decision.reasons) or "every check passed",
    }
    for key, value in record.items():
        tracking.client.set_model_version_tag(promotion.model, str(promotion.version), key, value)


def record_on_run(run: TrackedRun, promotion: Promotion) -> None:
    """Keep a decision with the run that made it, for good."""
    run.json(RECORD, promotion.model_dump(mode="json"))
    run.table("checks.json", [check.model_dump() for check in promotion.decision.checks])
    run.tags({"model": promotion.model, "decision": promotion.decision.outcome, "decided_by": promotion.decided_by})
