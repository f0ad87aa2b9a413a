"""Aliases move only when the gate says so, and every decision leaves its record."""

import json
from pathlib import Path

import mlflow
import pytest
from fixtures.versions import add_version, make_evidence
from fixtures.versions import promote_version as judge_version
from mlflow import MlflowClient

from components.core.artifact import Artifact
from components.model.huggingface import logit_parity
from components.registry.aliases import version_at
from components.registry.config import GateConfig, Requirement
from components.registry.evidence import Evidence
from components.registry.evidence_store import evidence_of
from components.registry.gate import TIMED_OUT, Approval
from components.registry.promotion import Promotion, PromotionRequest, promote, standing_refusal
from components.registry.queries import evidence_at, list_versions, rollback
from components.registry.runs import TrackedRun
from components.registry.tracking import Tracking
from components.registry.versions import register

NAME = "codegen-tiny-mono"


def _register(run: TrackedRun, checkpoint: Artifact, folder: Path) -> Artifact:
    about = {"name": NAME, "stage": "mono", "evaluations": {}, "dvc_md5": "md5"}
    return register(
        checkpoint, folder, run=run, parity=logit_parity, max_logit_difference=1e-4, **about
    )


@pytest.fixture
def judge(tracking: Tracking, make_checkpoint):
    """Register a checkpoint and let the gate decide; the run's id comes with the decision."""

    def judge(note: str, bits_per_byte: float, protocol: str = "a") -> tuple[Promotion, str]:
        checkpoint, folder = make_checkpoint(note)
        evidence = Evidence(
            digest=checkpoint.digest,
            metrics={"bits_per_byte/mono/Python": bits_per_byte},
            protocols={"bits_per_byte": protocol},
            logit_difference=1e-6,
        )
        with tracking.run(f"promote {note}", experiment="tiny") as run:
            version = int(_register(run, checkpoint, folder).statistics["version"])
            decided = promote(
                PromotionRequest(NAME, version, "mono", evidence, GateConfig()),
                run=run,
                decided_by="ada",
            )
        return decided, run.id

    return judge


def _aliases(tracking: Tracking) -> dict[str, int]:
    return {
        alias: int(version)
        for alias, version in tracking.client.get_registered_model(NAME).aliases.items()
    }


def test_the_first_model_becomes_champion(tracking: Tracking, judge) -> None:
    decided, _ = judge("one", 2.0)
    assert (decided.decision.outcome, decided.champion_before, decided.champion_after) == (
        "promoted",
        None,
        1,
    )
    assert decided.alias == "champion"
    assert _aliases(tracking) == {"champion": 1}


def test_a_better_model_takes_over_and_a_worse_one_waits(tracking: Tracking, judge) -> None:
    judge("one", 2.0)
    better, _ = judge("two", 1.5)
    assert (better.champion_before, better.champion_after) == (1, 2)
    assert _aliases(tracking) == {"champion": 2, "previous": 1}
    worse, _ = judge("three", 1.75)
    assert (worse.decision.outcome, worse.champion_after, worse.alias) == ("refused", 2, None)
    assert "1.75 against 1.5" in worse.summary
    assert _aliases(tracking) == {"champion": 2, "previous": 1, "candidate": 3}


def test_the_champion_again_changes_nothing(tracking: Tracking, judge) -> None:
    first, _ = judge("one", 2.0)
    before = tracking.client.get_model_version(NAME, "1").tags
    again, _ = judge("one", 2.0)
    assert again.decision.outcome == "already champion"
    assert (again.champion_before, again.champion_after) == (1, 1)
    assert _aliases(tracking) == {"champion": 1}
    assert tracking.client.get_model_version(NAME, "1").tags == before
    assert before["decided_at"] == first.decided_at


def test_another_protocol_is_refused_until_the_champion_is_measured_by_it(
    tracking: Tracking, judge
) -> None:
    judge("one", 2.0, protocol="a")
    refused, _ = judge("two", 1.0, protocol="b")
    assert "same protocol" in refused.summary
    judge("one", 2.1, protocol="b")  # The champion, evaluated the new way.
    promoted, _ = judge("two", 1.0, protocol="b")
    assert promoted.decision.promoted
    assert promoted.champion_evidence is not None
    assert promoted.champion_evidence.metrics["bits_per_byte/mono/Python"] == 2.1


def test_a_champion_made_by_hand_is_not_replaced_unmeasured(
    tracking: Tracking, make_checkpoint, judge
) -> None:
    checkpoint, folder = make_checkpoint("by hand")
    with tracking.run("register", experiment="tiny") as run:
        _register(run, checkpoint, folder)
    tracking.client.set_registered_model_alias(NAME, "champion", "1")
    refused, _ = judge("two", 2.0)
    assert "evaluate the champion the same way first" in refused.summary
    same, _ = judge("by hand", 2.5)
    assert same.decision.outcome == "already champion"
    promoted, _ = judge("two", 2.0)
    assert promoted.decision.promoted


def test_a_decision_is_recorded_with_who_when_and_why(tracking: Tracking, judge) -> None:
    judge("one", 2.0)
    decided, run_id = judge("two", 2.5)
    version = tracking.client.get_model_version(NAME, "2")
    assert (version.tags["decision"], version.tags["decided_by"]) == ("refused", "ada")
    assert version.tags["decided_at"] == decided.decided_at
    assert "a gain of -0.5" in version.tags["decision_reasons"]
    assert evidence_of(version) == decided.evidence
    kept = mlflow.artifacts.download_artifacts(
        f"runs:/{run_id}/promotion.json", tracking_uri=tracking.uri
    )
    assert Promotion.parse(json.loads(Path(kept).read_text())) == decided


def test_a_promotion_killed_before_its_last_write_is_decided_again(
    tracking: Tracking, judge
) -> None:
    judge("one", 2.0)
    judge("two", 1.5)
    # What a kill just before the last write leaves: everything is said about version 2, the champion is still 1.
    tracking.client.set_registered_model_alias(NAME, "champion", "1")
    tracking.client.set_registered_model_alias(NAME, "candidate", "2")
    again, _ = judge("two", 1.5)
    assert (again.decision.promoted, _aliases(tracking)) == (True, {"champion": 2, "previous": 1})


def test_evidence_that_was_half_written_is_written_again(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, judge
) -> None:
    """Killed between the two tags that hold it, at a champion that was measured anew."""
    judge("one", 2.0)
    write, written = MlflowClient.set_model_version_tag, []

    def write_one(client: MlflowClient, name: str, version: str, key: str, value: str) -> None:
        if key.startswith("evidence"):
            written.append(key)
            if len(written) == 2:
                raise KeyboardInterrupt
        write(client, name, version, key, value)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(MlflowClient, "set_model_version_tag", write_one)
        judge("one", 1.5)
    judge("one", 1.5)
    assert [one.metrics["bits_per_byte/mono/Python"] for one in list_versions(tracking, NAME)] == [
        1.5
    ]
    assert evidence_at(tracking, f"{NAME}/1").metrics["bits_per_byte/mono/Python"] == 1.5


def test_an_alias_that_points_nowhere_is_none(tracking: Tracking, judge) -> None:
    judge("one", 2.0)
    assert version_at(tracking, NAME, "previous") is None
    assert evidence_of(None) is None


def _refused(
    tracking: Tracking, case: PromotionRequest, approval: Approval | None = None
) -> Promotion:
    with tracking.run("promote", experiment="tiny") as run:
        decided = promote(case, run=run, decided_by="ada", approval=approval)
    assert decided.decision.outcome == "refused"
    return decided


def test_a_refusal_stands_until_something_changes_that_decided_it(tracking: Tracking) -> None:
    judge_version(tracking, add_version(tracking), make_evidence(2.0))
    case = PromotionRequest(NAME, add_version(tracking), "mono", make_evidence(2.5), GateConfig())
    assert standing_refusal(case, tracking) is None
    decided = _refused(tracking, case)
    assert standing_refusal(case, tracking) == decided
    requirement = Requirement(metrics=("bits_per_byte/mono/Python",), min_gain=-1.0)
    assert (
        standing_refusal(
            case._replace(gate=GateConfig(requirements={"mono": (requirement,)})), tracking
        )
        is None
    )
    assert standing_refusal(case._replace(evidence=make_evidence(2.25)), tracking) is None
    judge_version(tracking, add_version(tracking), make_evidence(1.5))
    assert standing_refusal(case, tracking) is None, "there is another champion"


def test_no_gate_alone_makes_champion_again_what_was_rolled_back(tracking: Tracking) -> None:
    judge_version(tracking, add_version(tracking), make_evidence(2.0))
    judge_version(tracking, add_version(tracking), make_evidence(1.5))
    rollback(tracking, NAME, "grace", "worse at comments")
    case = PromotionRequest(
        NAME, 2, "mono", make_evidence(1.5), GateConfig()
    )  # As the next run over the same checkpoint.
    refused = _refused(tracking, case)
    assert "rolled back by grace" in refused.summary
    assert "worse at comments" in refused.summary
    assert standing_refusal(case, tracking) == refused
    assert _aliases(tracking)["champion"] == 1
    approval = Approval(approved=True, name="ada", champion=1)
    with tracking.run("promote", experiment="tiny") as run:
        assert promote(case, run=run, decided_by="ada", approval=approval).decision.promoted
    rollback(tracking, NAME, "grace", "again")
    rollback(
        tracking, NAME, "grace", "and back"
    )  # By a person's word, it is champion as any other.
    assert _aliases(tracking) == {"champion": 2, "previous": 1}
    assert "rolled_back" not in tracking.client.get_model_version(NAME, "2").tags


def test_a_persons_no_stands_and_nobodys_does_not(tracking: Tracking) -> None:
    judge_version(tracking, add_version(tracking), make_evidence(2.0))
    case = PromotionRequest(
        NAME, add_version(tracking), "mono", make_evidence(1.5), GateConfig(approval="person")
    )
    for approval in (
        Approval(approved=False, name=TIMED_OUT, champion=1),  # The time was up.
        Approval(
            approved=False, name="grace", champion=None
        ),  # A comparison with another champion.
        None,  # Nobody was asked.
    ):
        _refused(tracking, case, approval)
        assert standing_refusal(case, tracking) is None
    decided = _refused(tracking, case, Approval(approved=False, name="grace", champion=1))
    assert standing_refusal(case, tracking) == decided
