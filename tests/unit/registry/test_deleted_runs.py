"""Runs deleted by `mlflow gc`: their files are lost, and the champion can still change. And a
deleted experiment, which can be restored."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.versions import NAME, add_version, make_evidence, promote_version

from components.core.errors import TrackingError
from components.registry.evidence_store import download_run_file
from components.registry.queries import evidence_at, history, list_versions, rollback
from components.registry.tracking import Tracking

LONG_FIELDS = {"settings": {"bits_per_byte": {"context_length": 512}}}
"""Stored only in the run, because they do not fit into a tag."""


@pytest.fixture
def registry_without_runs(tracking: Tracking) -> Tracking:
    """Two versions, the second is champion; all runs that registered and evaluated are deleted."""
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits, **LONG_FIELDS))
    experiment = tracking.client.get_experiment_by_name("tiny")
    for run in tracking.client.search_runs([experiment.experiment_id]):
        _delete_run(tracking, run.info.run_id)
    return tracking


def _delete_run(tracking: Tracking, run_id: str) -> None:
    """Delete a run permanently, as `mlflow gc` does."""
    tracking.client.delete_run(run_id)
    tracking.client.raw_client._tracking_client.store._hard_delete_run(run_id)


def _labels(tracking: Tracking) -> list[str]:
    return [version.label for version in list_versions(tracking)]


def test_a_better_version_is_promoted(registry_without_runs: Tracking) -> None:
    tracking = registry_without_runs
    promotion = promote_version(tracking, add_version(tracking), make_evidence(1.0, **LONG_FIELDS))
    assert (promotion.champion_before, promotion.champion_after) == (2, 3)
    # The long fields are lost with the run.
    assert promotion.champion_evidence == make_evidence(1.5)
    assert _labels(tracking) == [f"{NAME}/1", f"{NAME}/2 @previous", f"{NAME}/3 @champion"]


def test_the_champion_can_be_rolled_back_twice(registry_without_runs: Tracking) -> None:
    tracking = registry_without_runs
    assert rollback(tracking, NAME, "grace", "").champion_after == 1
    assert rollback(tracking, NAME, "grace", "").champion_after == 2
    assert _labels(tracking) == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]
    records = history(tracking, NAME)
    assert [record.outcome for record in records] == ["rolled_back", "rolled_back"]
    # No run exists from which the original experiment could be derived.
    assert {_experiment_of(tracking, record.run_id) for record in records} == {NAME}


def test_a_rollback_is_recorded_in_the_experiment_of_an_existing_run(tracking: Tracking) -> None:
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits))
    _delete_run(tracking, tracking.client.get_model_version(NAME, "1").run_id)
    rollback(tracking, NAME, "grace", "")
    assert _experiment_of(tracking, history(tracking, NAME)[-1].run_id) == "tiny"


def _experiment_of(tracking: Tracking, run_id: str) -> str:
    experiment_id = tracking.client.get_run(run_id).info.experiment_id
    return str(tracking.client.get_experiment(experiment_id).name)


def test_the_files_of_a_deleted_run_are_missing(
    registry_without_runs: Tracking, tmp_path: Path
) -> None:
    assert evidence_at(registry_without_runs, f"{NAME}/2") == make_evidence(1.5)
    assert download_run_file(registry_without_runs, "0" * 32, "evidence.json") is None


def test_evaluating_the_champion_again_restores_its_full_evidence(
    registry_without_runs: Tracking,
) -> None:
    full = make_evidence(1.5, **LONG_FIELDS)
    assert promote_version(registry_without_runs, 2, full).decision.outcome == "already_champion"
    assert evidence_at(registry_without_runs, f"{NAME}/2") == full


def test_a_deleted_experiment_is_an_error_with_the_command_that_restores_it(
    tracking: Tracking,
) -> None:
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits))
    experiment_id = tracking.client.get_experiment_by_name("tiny").experiment_id
    tracking.client.delete_experiment(experiment_id)

    errors = []
    for refused in (
        lambda: tracking.run("prepare", experiment="tiny").__enter__(),
        lambda: rollback(tracking, NAME, "ada", "test"),
    ):
        with pytest.raises(TrackingError, match=f"experiment {experiment_id} is deleted") as caught:
            refused()
        errors.append(caught.value)
    assert [version.aliases for version in list_versions(tracking)] == [
        ("previous",),
        ("champion",),
    ]
    assert len(history(tracking, NAME)) == 2

    command = re.search("`(.*)`", errors[0].fix)
    assert command is not None
    variable, _, *arguments = shlex.split(command[1])
    assert variable == f"MLFLOW_TRACKING_URI={tracking.uri}"
    subprocess.run(
        [sys.executable, "-m", "mlflow", *arguments],
        env=os.environ | {"MLFLOW_TRACKING_URI": tracking.uri},
        check=True,
    )
    assert rollback(tracking, NAME, "ada", "test").champion_after == 1


def test_an_experiment_that_is_deleted_during_a_run_is_named_by_the_error(
    tracking: Tracking,
) -> None:
    with (
        pytest.raises(TrackingError, match=r"(experiment|run) \w+ is deleted") as caught,
        tracking.run("pipeline", experiment="tiny") as run,
    ):
        tracking.client.delete_experiment(run.experiment_id)
        with run.child("step"):
            pytest.fail("the child run started")
    assert "mlflow experiments restore" in caught.value.fix
