"""What MLflow protects from pruning, and removal of its copies of weights."""

from __future__ import annotations

from pathlib import Path

from conftest import MakeCheckpoint, PromoteCheckpoint
from fixtures.versions import NAME

from components.core.artifact import Artifact
from components.core.store import Store
from components.registry.flavor import CHECKPOINT_FOLDER
from components.registry.pruning import (
    digests_with_alias,
    find_model_copies,
    recorded_artifacts,
    remove_model_copy,
)
from components.registry.queries import history, list_versions
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
