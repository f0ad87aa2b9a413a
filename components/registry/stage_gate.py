"""The gate between stages: the decision whether a stage may start from a checkpoint.

The requirements of the gate or a reviewer decide. Each decision is recorded in an MLflow run, as a
file and as tags. The answer of a reviewer holds for the same checkpoint, evaluations and
requirements (`StageGateRequest.key`): another threshold or another score needs another answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mlflow.entities import Run

from components.core.artifact import Artifact
from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError
from components.core.fingerprint import fingerprint
from components.registry.config import StageGateConfig, benchmark_of
from components.registry.evidence_store import load_record
from components.registry.gate import Check, check_threshold, metrics_of
from components.registry.promotion import utc_now
from components.registry.tracking import TrackedRun, Tracking

STAGE_GATE_VERSION = 1
"""Raise it when the same requirements and metrics can give another result: answers then expire."""
OUTCOME_TAG = "stage_gate"
"""Tag of a run: the outcome that it recorded."""
RECORD_FILE = "stage-gate.json"
"""File of a run: the `StageDecision` that it recorded."""
_KEY_TAG = "stage_gate_key"
_ANSWER_TAG = "stage_gate_answer"
"""Tag of a run in which a reviewer answered."""
CHECKPOINT_TAG = "checkpoint"

Outcome = Literal["passed", "stopped", "approved", "rejected"]


class StageDecision(Config):
    """The complete record of a decision at a stage gate."""

    stage: str
    checkpoint: str
    """Label of the checkpoint of the stage."""
    digest: str
    """SHA-256 of the checkpoint."""
    key: str
    outcome: Outcome
    """passed: every requirement is met; stopped: not, or the reviewer did not answer in time;
    approved and rejected: the answer of a reviewer."""
    checks: ListOrTuple[Check]
    decided_by: str
    decided_at: str
    """UTC, ISO 8601."""
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the next stages may start."""
        return self.outcome in ("passed", "approved")

    @property
    def summary(self) -> str:
        """The decision as a line of text."""
        reason = f": {self.reason}" if self.reason else ""
        return f"stage {self.stage} {self.outcome} by {self.decided_by}{reason}"


class StageGateRequest(NamedTuple):
    """A checkpoint with its evaluations, and the gate between it and the next stages."""

    stage: str
    gate: StageGateConfig
    checkpoint: Artifact
    evaluations: Mapping[str, Artifact]
    """By benchmark."""

    @property
    def key(self) -> str:
        """The fingerprint of the checkpoint, the evaluations that count, and the requirements."""
        requirements = self.gate.requirements
        benchmarks = set(map(benchmark_of, self.gate.metrics))
        return fingerprint(
            {
                "version": STAGE_GATE_VERSION,
                "checkpoint": self.checkpoint.digest,
                "requirements": requirements,
                "evaluations": {
                    name: evaluation.digest
                    for name, evaluation in self.evaluations.items()
                    if name in benchmarks
                },
            }
        )

    def checks(self) -> tuple[Check, ...]:
        """Return the result of every requirement."""
        metrics = metrics_of(self.evaluations)
        return tuple(check_threshold(item, metrics) for item in self.gate.requirements)

    def decision(self, outcome: Outcome, decided_by: str, reason: str = "") -> StageDecision:
        """Return a decision about this request."""
        return StageDecision(
            stage=self.stage,
            checkpoint=self.checkpoint.label,
            digest=self.checkpoint.digest,
            key=self.key,
            outcome=outcome,
            checks=self.checks(),
            decided_by=decided_by,
            decided_at=utc_now(),
            reason=reason,
        )


def decide_stage(
    request: StageGateRequest, tracking: Tracking, decided_by: str
) -> StageDecision | None:
    """Return the decision of the requirements, or the recorded answer of a reviewer.

    None if a reviewer must answer first.
    """
    is_met = all(check.passed for check in request.checks())
    is_auto = request.gate.approval == "auto"
    if is_auto and is_met:
        return request.decision("passed", decided_by)
    if answer := find_decision(tracking, request.key, answers_only=True):
        return answer
    return request.decision("stopped", decided_by) if is_auto else None


def record_stage_decision(
    run: TrackedRun, decision: StageDecision, *, is_answer: bool = False
) -> None:
    """Store a decision in a run.

    Args:
        is_answer: the decision is an answer that a reviewer has just given.
    """
    run.log_json(RECORD_FILE, decision.model_dump(mode="json"))
    tags = {
        "stage": decision.stage,
        CHECKPOINT_TAG: decision.checkpoint,
        "decided_by": decision.decided_by,
        "decided_at": decision.decided_at,
        _KEY_TAG: decision.key,
        OUTCOME_TAG: decision.outcome,
    }
    run.set_tags(tags | ({_ANSWER_TAG: "true"} if is_answer else {}))


def find_decision(
    tracking: Tracking, key: str, *, answers_only: bool = False
) -> StageDecision | None:
    """Return the last decision with a key; None if there is none, or its file was deleted."""
    query = f"tags.{_KEY_TAG} = '{key}'"
    if answers_only:
        query += f" and tags.{_ANSWER_TAG} = 'true'"
    run = tracking.find_last_run(query)
    return _load(tracking, run) if run else None


def approve_checkpoint(
    tracking: Tracking, checkpoint: str, decided_by: str, reason: str
) -> StageDecision:
    """Record the approval of a checkpoint at whose gate a run stopped; return the decision.

    Args:
        checkpoint: its label.
        decided_by: the user who approves.
        reason: recorded with the approval.

    Raises:
        ConfigError: the reason is empty, or no run has evaluated the gate of this checkpoint, or
            the gate is open.
    """
    if not reason.strip():
        raise ConfigError(
            "the reason is empty",
            expected="the reason of the approval, which is stored with it",
            fix="give it with --reason TEXT",
        )
    label = checkpoint.replace("'", "")  # MLflow's queries cannot escape it.
    run = tracking.find_last_run(f"tags.{CHECKPOINT_TAG} = '{label}' and tags.{OUTCOME_TAG} != ''")
    decision = _load(tracking, run) if run else None
    if run is None or decision is None:
        raise ConfigError(
            f"no run has evaluated a stage gate for {checkpoint!r}",
            expected="the label of a checkpoint at whose gate a run stopped",
            fix="copy the command from the error of that run, or list the checkpoints with "
            "`codegen artifacts --kind checkpoint`",
        )
    if decision.is_open:
        reason_note = f": {decision.reason}" if decision.reason else ""
        raise ConfigError(
            f"{checkpoint} is {decision.outcome} already, by {decision.decided_by} at "
            f"{decision.decided_at}{reason_note}",
            expected="a checkpoint at whose gate a run stopped",
            fix="run the command of the stopped run again: it trains the next stages",
        )
    approval = decision.replace(
        outcome="approved", decided_by=decided_by, decided_at=utc_now(), reason=reason
    )
    experiment = str(tracking.client.get_experiment(run.info.experiment_id).name)
    with tracking.run(f"approve stage {decision.stage}", experiment=experiment) as approval_run:
        record_stage_decision(approval_run, approval, is_answer=True)
    return approval


def _load(tracking: Tracking, run: Run) -> StageDecision | None:
    return load_record(
        tracking,
        run.info.run_id,
        RECORD_FILE,
        StageDecision,
        expected="a decision recorded by this version of codegen",
        fix="delete that run in MLflow; the next run decides again",
    )
