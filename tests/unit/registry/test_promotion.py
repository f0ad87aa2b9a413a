"""Promotion: aliases change only after a decision of the gate, and every decision is recorded."""

import json
from pathlib import Path

import mlflow
import pytest
from fixtures.versions import (
    GATE,
    NAME,
    PYTHON,
    add_version,
    make_evidence,
    promote_version,
    register_checkpoint,
)
from mlflow import MlflowClient

from components.registry.config import GateConfig, Requirement
from components.registry.evidence_store import evidence_of
from components.registry.gate import TIMED_OUT, Approval
from components.registry.promotion import (
    Promotion,
    PromotionRequest,
    promote,
    standing_refusal,
    version_at,
)
from components.registry.queries import evidence_at, history, list_versions, rollback
from components.registry.tracking import Tracking


def _aliases(tracking: Tracking) -> dict[str, int]:
    aliases = tracking.client.get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in aliases.items()}


def test_the_first_model_becomes_champion(tracking: Tracking, promote_checkpoint) -> None:
    promotion = promote_checkpoint("one", 2.0)
    assert promotion.decision.outcome == "promoted"
    assert (promotion.champion_before, promotion.champion_after) == (None, 1)
    assert promotion.alias == "champion"
    assert _aliases(tracking) == {"champion": 1}


def test_a_better_model_becomes_champion_and_a_worse_model_candidate(
    tracking: Tracking, promote_checkpoint
) -> None:
    promote_checkpoint("one", 2.0)
    better = promote_checkpoint("two", 1.5)
    assert (better.champion_before, better.champion_after) == (1, 2)
    assert _aliases(tracking) == {"champion": 2, "previous": 1}
    worse = promote_checkpoint("three", 1.75)
    assert (worse.decision.outcome, worse.champion_after, worse.alias) == ("refused", 2, None)
    assert "1.75 against 1.5" in worse.summary
    assert _aliases(tracking) == {"champion": 2, "previous": 1, "candidate": 3}


def test_evaluating_the_champion_again_changes_nothing(
    tracking: Tracking, promote_checkpoint
) -> None:
    first = promote_checkpoint("one", 2.0)
    tags = tracking.client.get_model_version(NAME, "1").tags
    again = promote_checkpoint("one", 2.0)
    assert again.decision.outcome == "already_champion"
    assert (again.champion_before, again.champion_after) == (1, 1)
    assert _aliases(tracking) == {"champion": 1}
    assert tracking.client.get_model_version(NAME, "1").tags == tags
    assert tags["decided_at"] == first.decided_at


def test_another_protocol_is_refused_until_the_champion_is_evaluated_with_it(
    tracking: Tracking, promote_checkpoint
) -> None:
    promote_checkpoint("one", 2.0, protocol="a")
    refused = promote_checkpoint("two", 1.0, protocol="b")
    assert "same protocol" in refused.summary
    promote_checkpoint("one", 2.1, protocol="b")  # The champion, with the new protocol.
    promoted = promote_checkpoint("two", 1.0, protocol="b")
    assert promoted.decision.promoted
    assert promoted.champion_evidence is not None
    assert promoted.champion_evidence.metrics[PYTHON] == 2.1


def test_a_champion_set_by_hand_must_be_evaluated_before_it_is_replaced(
    tracking: Tracking, make_checkpoint, promote_checkpoint
) -> None:
    checkpoint, folder = make_checkpoint("by hand")
    with tracking.run("register", experiment="tiny") as run:
        register_checkpoint(run, checkpoint, folder)
    tracking.client.set_registered_model_alias(NAME, "champion", "1")
    refused = promote_checkpoint("two", 2.0)
    assert "evaluate the champion the same way first" in refused.summary
    same = promote_checkpoint("by hand", 2.5)
    assert same.decision.outcome == "already_champion"
    promoted = promote_checkpoint("two", 2.0)
    assert promoted.decision.promoted


def test_a_decision_is_recorded_with_user_time_and_reasons(
    tracking: Tracking, promote_checkpoint
) -> None:
    promote_checkpoint("one", 2.0)
    promotion = promote_checkpoint("two", 2.5)
    run_id = history(tracking, NAME)[-1].run_id
    version = tracking.client.get_model_version(NAME, "2")
    assert (version.tags["decision"], version.tags["decided_by"]) == ("refused", "ada")
    assert version.tags["decided_at"] == promotion.decided_at
    assert "a gain of -0.5" in version.tags["decision_reasons"]
    assert evidence_of(version) == promotion.evidence
    path = mlflow.artifacts.download_artifacts(
        f"runs:/{run_id}/promotion.json", tracking_uri=tracking.uri
    )
    assert Promotion.parse(json.loads(Path(path).read_text())) == promotion


def test_a_promotion_interrupted_before_its_last_write_is_evaluated_again(
    tracking: Tracking, promote_checkpoint
) -> None:
    promote_checkpoint("one", 2.0)
    promote_checkpoint("two", 1.5)
    # The state of a kill before the last write: version 2 has its tags, the champion is still 1.
    tracking.client.set_registered_model_alias(NAME, "champion", "1")
    tracking.client.set_registered_model_alias(NAME, "candidate", "2")
    again = promote_checkpoint("two", 1.5)
    assert (again.decision.promoted, _aliases(tracking)) == (True, {"champion": 2, "previous": 1})


def test_partly_written_evidence_is_written_again(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, promote_checkpoint
) -> None:
    """Interrupted between its two tags, for a champion with new metrics."""
    promote_checkpoint("one", 2.0)
    set_tag = MlflowClient.set_model_version_tag
    evidence_tags = []

    def set_first_tag(client: MlflowClient, name: str, version: str, key: str, value: str) -> None:
        if key.startswith("evidence"):
            evidence_tags.append(key)
            if len(evidence_tags) == 2:
                raise KeyboardInterrupt
        set_tag(client, name, version, key, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowClient, "set_model_version_tag", set_first_tag)
        promote_checkpoint("one", 1.5)
    promote_checkpoint("one", 1.5)
    (version,) = list_versions(tracking, NAME)
    assert version.metrics[PYTHON] == 1.5
    assert evidence_at(tracking, f"{NAME}/1").metrics[PYTHON] == 1.5


def test_a_missing_alias_has_no_version_and_no_evidence(
    tracking: Tracking, promote_checkpoint
) -> None:
    promote_checkpoint("one", 2.0)
    assert version_at(tracking, NAME, "previous") is None
    assert version_at(tracking, "unknown", "candidate") is None
    assert evidence_of(None) is None


def _promote_and_expect_refusal(
    tracking: Tracking, request: PromotionRequest, approval: Approval | None = None
) -> Promotion:
    with tracking.run("promote", experiment="tiny") as run:
        promotion = promote(request, run=run, decided_by="ada", approval=approval)
    assert promotion.decision.outcome == "refused"
    return promotion


def test_a_refusal_stands_until_rules_metrics_or_champion_change(tracking: Tracking) -> None:
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    request = PromotionRequest(NAME, add_version(tracking), "mono", make_evidence(2.5), GATE)
    assert standing_refusal(request, tracking) is None
    refusal = _promote_and_expect_refusal(tracking, request)
    assert standing_refusal(request, tracking) == refusal
    requirement = Requirement(metrics=(PYTHON,), min_gain=-1.0)
    other_gate = request._replace(gate=GateConfig(requirements={"mono": (requirement,)}))
    assert standing_refusal(other_gate, tracking) is None
    assert standing_refusal(request._replace(evidence=make_evidence(2.25)), tracking) is None
    promote_version(tracking, add_version(tracking), make_evidence(1.5))
    assert standing_refusal(request, tracking) is None, "there is another champion"


def test_a_version_that_was_rolled_back_needs_an_approval(tracking: Tracking) -> None:
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    promote_version(tracking, add_version(tracking), make_evidence(1.5))
    rollback(tracking, NAME, "grace", "worse at comments")
    # As the next run with the same checkpoint.
    request = PromotionRequest(NAME, 2, "mono", make_evidence(1.5), GATE)
    refusal = _promote_and_expect_refusal(tracking, request)
    assert "rolled back by grace" in refusal.summary
    assert "worse at comments" in refusal.summary
    assert standing_refusal(request, tracking) == refusal
    assert _aliases(tracking)["champion"] == 1
    approval = Approval(approved=True, name="ada", champion=1)
    with tracking.run("promote", experiment="tiny") as run:
        assert promote(request, run=run, decided_by="ada", approval=approval).decision.promoted
    rollback(tracking, NAME, "grace", "again")
    # After the approval the version is treated like any other.
    rollback(tracking, NAME, "grace", "and back")
    assert _aliases(tracking) == {"champion": 2, "previous": 1}
    assert "rolled_back" not in tracking.client.get_model_version(NAME, "2").tags


def test_a_rejection_by_a_reviewer_stands_and_a_timeout_does_not(tracking: Tracking) -> None:
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    request = PromotionRequest(
        NAME, add_version(tracking), "mono", make_evidence(1.5), GATE.replace(approval="manual")
    )
    for approval in (
        Approval(approved=False, name=TIMED_OUT, champion=1),
        Approval(approved=False, name="grace", champion=None),  # Another comparison.
        None,  # No reviewer was asked.
    ):
        _promote_and_expect_refusal(tracking, request, approval)
        assert standing_refusal(request, tracking) is None
    rejection = Approval(approved=False, name="grace", champion=1)
    refusal = _promote_and_expect_refusal(tracking, request, rejection)
    assert standing_refusal(request, tracking) == refusal
