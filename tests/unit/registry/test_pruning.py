"""What MLflow protects from pruning, and removal of its copies of weights."""

from __future__ import annotations

from pathlib import Path

from conftest import MakeCheckpoint, PromoteCheckpoint
from fixtures.versions import NAME

from components.core.artifact import Artifact, Kind
from components.core.store import Store
from components.registry.flavor import CHECKPOINT_FOLDER
from components.registry.pruning import (
    digests_with_alias,
    find_model_copies,
    recorded_artifacts,
    remove_model_copy,
    stopped_checkpoints,
)
from components.registry.queries import history, list_versions
from components.registry.stage_gate import Outcome, StageDecision, record_stage_decision
from components.registry.tracking import Tracking


def corpus(number: int) -> Artifact:
    return Artifact(
        kind="prepared-corpus",
        name="mono",
        address=f"/store/{number}",
        recipe_hash=f"{number:012}",
        digest=f"digest-{number}",
    )


def record(tracking: Tracking, experiment: str, *artifacts: Artifact) -> str:
    with tracking.run("prepare", experiment=experiment) as run:
        for artifact in artifacts:
            with run.child("prepare mono") as child:
                child.log_output_artifact(artifact, reused=False)
                child_id = child.id
    return child_id


def test_the_last_use_decides_which_artifacts_are_newest(tracking: Tracking) -> None:
    first, second, third, deleted = map(corpus, range(1, 5))
    record(tracking, "tiny", first)
    record(tracking, "tiny", second)
    record(tracking, "other", third)
    deleted_run = record(tracking, "tiny", deleted)
    record(tracking, "tiny", first)
    tracking.client.delete_run(deleted_run)

    def newest(keep: int) -> set[str]:
        return set(recorded_artifacts(tracking, keep).newest)

    assert newest(1) == {first.label, third.label}
    assert newest(2) == newest(3) == {first.label, second.label, third.label}
    labels = {artifact.label for artifact in (first, second, third, deleted)}
    assert recorded_artifacts(tracking, 1).labels == labels


def test_the_checkpoints_inside_a_stage_count_as_one_name(tracking: Tracking) -> None:
    def made(kind: Kind, name: str) -> Artifact:
        return corpus(1).replace(kind=kind, name=name)

    finished = made("checkpoint", "tiny-nl")
    steps = [made("checkpoint", f"tiny-nl-step-{step:08d}") for step in (4, 8, 12)]
    scores = [
        made("evaluation", f"{artifact.name}-bits-per-byte") for artifact in (finished, *steps)
    ]
    for artifact in (finished, scores[0], *steps, *scores[1:]):
        record(tracking, "tiny", artifact)
    assert recorded_artifacts(tracking, 1).newest == {
        artifact.label for artifact in (finished, scores[0], steps[-1], scores[-1])
    }
    assert recorded_artifacts(tracking, 2).newest == {
        artifact.label for artifact in (finished, scores[0], *steps[1:], *scores[2:])
    }


def test_the_last_decision_of_a_gate_says_which_checkpoints_wait(tracking: Tracking) -> None:
    def decide(checkpoint: str, outcome: Outcome) -> str:
        decision = StageDecision(
            stage="nl",
            checkpoint=checkpoint,
            digest="d",
            key="k",
            outcome=outcome,
            checks=(),
            decided_by="ada",
            decided_at="2026-01-01T00:00:00+00:00",
        )
        with tracking.run("gate", experiment="tiny") as run:
            record_stage_decision(run, decision)
            return run.id

    decide("checkpoint/a-nl-1", "stopped")
    decide("checkpoint/a-nl-2", "stopped")
    decide("checkpoint/a-nl-2", "approved")
    decide("checkpoint/a-nl-3", "passed")
    decide("checkpoint/a-nl-4", "rejected")
    assert stopped_checkpoints(tracking) == {"checkpoint/a-nl-1"}
    tracking.client.delete_run(decide("checkpoint/a-nl-5", "stopped"))
    assert stopped_checkpoints(tracking) == {"checkpoint/a-nl-1"}


def test_only_versions_without_an_alias_lose_their_files(
    tracking: Tracking,
    promote_checkpoint: PromoteCheckpoint,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
) -> None:
    promote_checkpoint("first", 2.0)
    promote_checkpoint("second", 1.5)
    promote_checkpoint("third", 1.0)
    digests = {note: make_checkpoint(note)[0].digest for note in ("first", "second", "third")}
    assert digests_with_alias(tracking) == {digests["second"], digests["third"]}

    copies = {copy.digest: copy for copy in find_model_copies(tracking, digests.values())}
    assert {copy.versions for copy in copies.values()} == {
        (f"{NAME}/1",),
        (f"{NAME}/2",),
        (f"{NAME}/3",),
    }
    assert copies.keys() == set(digests.values())
    decided = history(tracking, NAME)
    model_id = copies[digests["first"]].model_id
    location = tracking.client.get_logged_model(model_id).artifact_location
    weights = Path(location.removeprefix("file://")) / CHECKPOINT_FOLDER
    assert weights.is_dir()

    assert remove_model_copy(tracking, copies[digests["first"]])
    assert not weights.exists()
    assert [version.version for version in list_versions(tracking)] == [2, 3]
    assert history(tracking, NAME) == decided, "the decisions stay"
    assert not find_model_copies(tracking, {digests["first"]})

    # The previous champion got its alias after the plan was made.
    assert not remove_model_copy(tracking, copies[digests["second"]])
    assert [version.version for version in list_versions(tracking)] == [2, 3]

    again = promote_checkpoint("first", 0.5)
    assert again.version == 4
    assert weights.is_dir()
    assert Store(tmp_path / "store").list_artifacts()


def test_files_of_an_interrupted_removal_are_found_again(
    tracking: Tracking, promote_checkpoint: PromoteCheckpoint, make_checkpoint: MakeCheckpoint
) -> None:
    promote_checkpoint("first", 2.0)
    digest = make_checkpoint("first")[0].digest
    (copy,) = find_model_copies(tracking, {digest})
    tracking.client.delete_registered_model_alias(NAME, "champion")
    tracking.client.delete_model_version(NAME, "1")
    tracking.client.set_logged_model_tags(copy.model_id, {"files": "incomplete"})
    (found,) = find_model_copies(tracking, {digest})
    assert found == copy._replace(versions=())
    assert remove_model_copy(tracking, found)
    assert not find_model_copies(tracking, {digest})
