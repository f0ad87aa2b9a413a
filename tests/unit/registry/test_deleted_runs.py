"""Runs that `mlflow gc` deleted for good: what they knew is gone, and the champion still changes hands."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.versions import NAME, add_version, make_evidence, promote_version

from components.registry.evidence_store import download_run_file
from components.registry.queries import evidence_at, history, list_versions, rollback
from components.registry.tracking import Tracking

LONG = {"settings": {"bits_per_byte": {"context_length": 512}}}
"""What is kept with the run alone: a tag has no room for it."""


@pytest.fixture
def without_runs(tracking: Tracking) -> Tracking:
    """Two versions of which the second is champion, and none of the runs that made and judged them."""
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits, **LONG))
    (experiment,) = [
        one.experiment_id for one in tracking.client.search_experiments() if one.name == "tiny"
    ]
    for run in tracking.client.search_runs([experiment]):
        _delete_for_good(tracking, run.info.run_id)
    return tracking


def _delete_for_good(tracking: Tracking, run_id: str) -> None:
    """As `mlflow gc` does with runs that were deleted."""
    tracking.client.delete_run(run_id)
    tracking.client.raw_client._tracking_client.store._hard_delete_run(run_id)


def _labels(tracking: Tracking) -> list[str]:
    return [one.label for one in list_versions(tracking)]


def test_a_better_version_is_promoted(without_runs: Tracking) -> None:
    done = promote_version(without_runs, add_version(without_runs), make_evidence(1.0, **LONG))
    assert (done.champion_before, done.champion_after) == (2, 3)
    assert done.champion_evidence == make_evidence(1.5)  # What was long went with its run.
    assert _labels(without_runs) == [f"{NAME}/1", f"{NAME}/2 @previous", f"{NAME}/3 @champion"]


def test_the_champion_is_rolled_back_and_forth(without_runs: Tracking) -> None:
    assert rollback(without_runs, NAME, "grace", "").champion_after == 1
    assert rollback(without_runs, NAME, "grace", "").champion_after == 2
    assert _labels(without_runs) == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]
    decided = history(without_runs, NAME)
    assert [one.outcome for one in decided] == ["rolled back", "rolled back"]
    runs = [without_runs.client.get_run(one.run_id) for one in decided]
    kept_in = {without_runs.client.get_experiment(run.info.experiment_id).name for run in runs}
    assert kept_in == {NAME}  # No run is left that says where the model was made.


def test_a_rollback_is_filed_with_the_run_that_is_left(tracking: Tracking) -> None:
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits))
    _delete_for_good(tracking, tracking.client.get_model_version(NAME, "1").run_id)
    rollback(tracking, NAME, "grace", "")
    run = tracking.client.get_run(history(tracking, NAME)[-1].run_id)
    assert tracking.client.get_experiment(run.info.experiment_id).name == "tiny"


def test_the_files_of_a_run_are_gone_with_it(without_runs: Tracking, tmp_path: Path) -> None:
    assert evidence_at(without_runs, f"{NAME}/2") == make_evidence(1.5)
    assert download_run_file(without_runs, "0" * 32, "evidence.json") is None


def test_the_champion_judged_again_knows_everything_again(without_runs: Tracking) -> None:
    assert (
        promote_version(without_runs, 2, make_evidence(1.5, **LONG)).decision.outcome
        == "already champion"
    )
    assert evidence_at(without_runs, f"{NAME}/2") == make_evidence(1.5, **LONG)
