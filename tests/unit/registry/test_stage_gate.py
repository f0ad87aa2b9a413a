"""Decisions at the gate between stages: hand-written evaluations, a real MLflow database."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from components.registry.config import StageGateConfig
from components.registry.stage_gate import (
    StageDecision,
    StageGateRequest,
    approve_checkpoint,
    decide_stage,
    find_decision,
    record_stage_decision,
)
from components.registry.tracking import Tracking

ENGLISH = "bits_per_byte/nl/English"
FIRST_TRY = "humaneval/pass@1"


def artifact(kind: str, name: str, digest: str, **statistics: Any) -> Artifact:
    return Artifact.parse(
        {
            "kind": kind,
            "name": name,
            "address": f"/store/{kind}/{name}",
            "recipe_hash": "c" * 64,
            "digest": digest,
            "statistics": statistics,
        }
    )


CHECKPOINT = artifact("checkpoint", "tiny-nl", "d" * 64)


def request(
    bits: float = 5.0, threshold: float = 6.0, digest: str = "e" * 64, **changes: Any
) -> StageGateRequest:
    """A gate with a bound on English, and a checkpoint with a value."""
    requirement = {"metrics": [ENGLISH], "threshold": threshold}
    gate = StageGateConfig.parse({"requirements": [requirement], **changes})
    evaluation = artifact("evaluation", "tiny-nl-bits-per-byte", digest, nl={"English": bits})
    return StageGateRequest("nl", gate, CHECKPOINT, {"bits_per_byte": evaluation})


def record(
    tracking: Tracking, decision: StageDecision | None, *, is_answer: bool = False
) -> StageDecision:
    assert decision
    with tracking.run("gate", experiment="tiny") as run:
        record_stage_decision(run, decision, is_answer=is_answer)
    return decision


def decide(tracking: Tracking, request: StageGateRequest) -> StageDecision | None:
    return decide_stage(request, tracking, "ada")


@pytest.mark.parametrize(("bits", "outcome"), [(5.9, "passed"), (6.0, "passed"), (6.1, "stopped")])
def test_the_requirements_decide(tracking: Tracking, bits: float, outcome: str) -> None:
    decision = decide(tracking, request(bits))
    assert decision
    assert (decision.outcome, decision.is_open) == (outcome, outcome == "passed")
    assert [(check.rule, check.detail) for check in decision.checks] == [
        (f"{ENGLISH} is at most 6", f"{bits:g}")
    ]


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    threshold=st.floats(0, 1),
    better=st.sampled_from(["lower", "higher"]),
)
def test_the_mean_of_the_metrics_is_compared(
    values: list[float], threshold: float, better: str
) -> None:
    languages = dict(zip("CDG", values, strict=False))
    requirement = {
        "metrics": [f"bits_per_byte/multi/{name}" for name in languages],
        "threshold": threshold,
        "better": better,
    }
    gate = StageGateConfig.parse({"requirements": [requirement]})
    evaluation = artifact("evaluation", "e", "e" * 64, multi=languages)
    gate_request = StageGateRequest("multi", gate, CHECKPOINT, {"bits_per_byte": evaluation})
    mean = math.fsum(values) / len(values)
    expected = mean <= threshold if better == "lower" else mean >= threshold
    (check,) = gate_request.checks()
    assert check.passed == expected or math.isclose(mean, threshold)


def test_a_metric_that_is_not_measured_stops_the_run(tracking: Tracking) -> None:
    gate_request = request()._replace(evaluations={})
    decision = decide(tracking, gate_request)
    assert decision
    assert (decision.outcome, decision.checks[0].detail) == ("stopped", "not measured")


def test_an_approval_by_hand_opens_the_gate(tracking: Tracking) -> None:
    stopped = record(tracking, decide(tracking, request(7.0)))
    approval = approve_checkpoint(tracking, stopped.checkpoint, "grace", "the corpus is small")
    decision = decide(tracking, request(7.0))
    assert decision == approval
    assert (approval.outcome, approval.is_open) == ("approved", True)
    assert (approval.decided_by, approval.reason) == ("grace", "the corpus is small")
    assert approval.checks == stopped.checks
    run = tracking.find_last_run("tags.stage_gate = 'approved'")
    assert run
    tags = run.data.tags
    assert (tags["decided_by"], tags["checkpoint"]) == ("grace", CHECKPOINT.label)
    assert tags["decided_at"] == approval.decided_at


def test_an_approval_needs_a_reason_and_happens_once(tracking: Tracking) -> None:
    stopped = record(tracking, decide(tracking, request(7.0)))
    with pytest.raises(ConfigError, match="the reason is empty"):
        approve_checkpoint(tracking, stopped.checkpoint, "grace", " ")
    approve_checkpoint(tracking, stopped.checkpoint, "grace", "discussed")
    with pytest.raises(ConfigError, match=r"approved already, by grace at .*: discussed"):
        approve_checkpoint(tracking, stopped.checkpoint, "ada", "again")


@pytest.mark.parametrize(
    "other",
    [
        request(7.0, threshold=5.5),
        request(7.0, digest="f" * 64),
        request(7.0)._replace(checkpoint=artifact("checkpoint", "tiny-nl", "0" * 64)),
    ],
    ids=["another bound", "another evaluation", "another checkpoint"],
)
def test_an_approval_holds_for_nothing_else(tracking: Tracking, other: StageGateRequest) -> None:
    stopped = record(tracking, decide(tracking, request(7.0)))
    approve_checkpoint(tracking, stopped.checkpoint, "grace", "discussed")
    decision = decide(tracking, other)
    assert decision
    assert decision.outcome == "stopped"


def test_another_approval_mode_keeps_the_answer(tracking: Tracking) -> None:
    record(tracking, request(7.0).decision("rejected", "grace", "too early"), is_answer=True)
    for mode in ("auto", "manual"):
        decision = decide(tracking, request(7.0, approval=mode))
        assert decision
        assert (decision.outcome, decision.reason) == ("rejected", "too early")


def test_a_rejection_can_be_overridden_by_hand(tracking: Tracking) -> None:
    manual = request(5.0, approval="manual")
    record(tracking, manual.decision("rejected", "grace", ""), is_answer=True)
    approve_checkpoint(tracking, CHECKPOINT.label, "ada", "discussed")
    decision = decide(tracking, manual)
    assert decision
    assert (decision.outcome, decision.decided_by) == ("approved", "ada")


def test_a_reviewer_is_asked_if_approval_is_manual(tracking: Tracking) -> None:
    assert decide(tracking, request(5.0, approval="manual")) is None
    assert decide(tracking, request(7.0, approval="manual")) is None
    timeout = request(5.0, approval="manual").decision("stopped", "timeout", "no answer")
    record(tracking, timeout)
    assert decide(tracking, request(5.0, approval="manual")) is None


def test_an_open_gate_needs_no_approval(tracking: Tracking) -> None:
    passed = record(tracking, decide(tracking, request(5.0)))
    with pytest.raises(ConfigError, match="is passed already"):
        approve_checkpoint(tracking, CHECKPOINT.label, "grace", "discussed")
    assert find_decision(tracking, request(5.0).key) == passed


@pytest.mark.parametrize("label", ["checkpoint/other-nl-012345678901", "x' or '1'='1"])
def test_an_unknown_checkpoint_cannot_be_approved(tracking: Tracking, label: str) -> None:
    record(tracking, decide(tracking, request(7.0)))
    with pytest.raises(ConfigError, match="no run has evaluated a stage gate"):
        approve_checkpoint(tracking, label, "grace", "discussed")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"requirements": [{"metrics": [ENGLISH]}]},
        {"requirements": [{"metrics": [ENGLISH], "threshold": 1.0, "min_gain": 0.1}]},
        {"requirements": [{"metrics": [FIRST_TRY], "threshold": 1.0, "confidence": 0.95}]},
    ],
)
def test_a_gate_without_an_absolute_bound_is_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="requirements"):
        StageGateConfig.parse(values)
