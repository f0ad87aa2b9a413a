"""Queries and the rollback, on real MLflow with real versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.codegen_command import HEAVY, run_codegen
from fixtures.versions import NAME, PYTHON, add_version, make_evidence, promote_version

from components.core.errors import TrackingError
from components.registry.promotion import Promotion
from components.registry.queries import (
    compare,
    evidence_at,
    get_version,
    history,
    list_versions,
    rollback,
)
from components.registry.tracking import Tracking

PromoteCheckpoint = Callable[..., Promotion]


def labels(tracking: Tracking) -> list[str]:
    return [version.label for version in list_versions(tracking)]


def test_versions_are_listed_with_their_aliases_and_looked_up_by_them(
    tracking: Tracking, promote_checkpoint: PromoteCheckpoint
) -> None:
    assert list_versions(tracking) == []
    for note, bits in (("one", 2.0), ("two", 1.5), ("three", 1.75)):
        promote_checkpoint(note, bits)
    assert labels(tracking) == [
        f"{NAME}/1 @previous",
        f"{NAME}/2 @champion",
        f"{NAME}/3 @candidate",
    ]
    assert (
        get_version(tracking, f"{NAME}@champion")
        == get_version(tracking, f"{NAME}/2")
        == list_versions(tracking, NAME)[1]
    )
    champion = get_version(tracking, f"{NAME}@champion")
    assert (champion.decision, champion.decided_by, champion.stage) == ("promoted", "ada", "mono")
    assert champion.metrics[PYTHON] == 1.5


def test_metrics_of_two_versions_are_comparable_under_equal_protocols(
    tracking: Tracking, promote_checkpoint: PromoteCheckpoint
) -> None:
    promote_checkpoint("one", 2.0)
    promote_checkpoint("two", 1.5)
    promote_checkpoint("three", 1.0, protocol="b")
    same = {row.metric: row for row in compare(tracking, f"{NAME}/1", f"{NAME}/2")}
    assert sorted(same) == [PYTHON, "extra/one", "extra/two"]
    bits = same[PYTHON]
    assert (bits.left, bits.right, bits.comparable) == (2.0, 1.5, True)
    assert (same["extra/one"].left, same["extra/one"].right) == (1.0, None)
    assert not same["extra/one"].comparable  # Its protocol is unknown.
    differing = {row.metric: row for row in compare(tracking, f"{NAME}/2", f"{NAME}/3")}
    assert not differing[bits.metric].comparable


def test_a_rollback_is_a_decision_and_can_be_rolled_back(
    tracking: Tracking, promote_checkpoint: PromoteCheckpoint
) -> None:
    promote_checkpoint("one", 2.0)
    promote_checkpoint("two", 1.5)
    before = history(tracking, NAME)
    promotion = rollback(tracking, NAME, "grace", "worse in production")
    assert (promotion.champion_before, promotion.champion_after) == (2, 1)
    assert labels(tracking) == [f"{NAME}/1 @champion", f"{NAME}/2 @previous"]
    records = history(tracking, NAME)
    assert records[:2] == before  # Earlier records do not change.
    outcomes = [record.decision.outcome for record in records]
    assert outcomes == ["promoted", "promoted", "rolled_back"]
    assert records[2].decided_by == "grace"
    assert records[2].decision.checks[0].detail == "worse in production"
    assert rollback(tracking, NAME, "grace", "").champion_after == 2
    assert labels(tracking) == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]


def test_an_impossible_rollback_and_an_unknown_version_are_errors(
    tracking: Tracking, promote_checkpoint: PromoteCheckpoint
) -> None:
    with pytest.raises(TrackingError, match=NAME):
        rollback(tracking, NAME, "grace", "")
    promote_checkpoint("one", 2.0)
    with pytest.raises(TrackingError, match="no version before its champion"):
        rollback(tracking, NAME, "grace", "")
    with pytest.raises(TrackingError, match=f"the registry has no {NAME}/7"):
        get_version(tracking, f"{NAME}/7")
    with pytest.raises(TrackingError, match="the registry has no model unknown"):
        history(tracking, "unknown")
    assert len(history(tracking, NAME)) == 1


def test_history_includes_deleted_runs_until_their_files_are_removed(
    tracking: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    promote_version(tracking, add_version(tracking), make_evidence(1.5))
    before = history(tracking, NAME)
    tracking.client.delete_run(before[0].run_id)
    assert history(tracking, NAME) == before
    shutil.rmtree(tracking.artifacts / before[0].run_id)  # As `mlflow gc` does.
    assert history(tracking, NAME) == before[1:]
    assert f"missing in the run {before[0].run_id}" in caplog.text


def test_long_evidence_is_stored_in_the_run_and_lost_only_with_it(tracking: Tracking) -> None:
    by_problem = {"humaneval/pass@1": {f"HumanEval/{number}": 0.5 for number in range(164)}}
    # Longer than the limit of a tag.
    settings = {"humaneval": {"sets": {"t0.2": {"note": "x" * 200_000}}}}
    full = make_evidence(
        2.0, by_problem=by_problem, settings=settings, contamination={"humaneval": {"nl": 0}}
    )
    promote_version(tracking, add_version(tracking), full)
    assert evidence_at(tracking, f"{NAME}/1") == full
    shutil.rmtree(tracking.artifacts / history(tracking, NAME)[0].run_id)
    assert evidence_at(tracking, f"{NAME}/1") == full.replace(by_problem={}, settings={})


def test_records_without_optional_fields_are_read(tracking: Tracking) -> None:
    version = add_version(tracking)
    optional = {"settings", "by_problem", "contamination"}
    evidence = make_evidence(2.0).model_dump(mode="json", exclude=optional)
    decided = {"decided_by": "ada", "decided_at": "2026-11-01T00:00:00+00:00"}
    record = {
        "model": NAME,
        "version": version,
        "stage": "mono",
        "champion_before": None,
        "champion_after": version,
        "decision": {
            "outcome": "promoted",
            "checks": [{"rule": "a rule", "passed": True, "detail": "2"}],
        },
        "evidence": evidence,
        "champion_evidence": None,
        **decided,
    }
    with tracking.run("promote mono", experiment="tiny") as run:
        run.log_json("promotion.json", record)
        run.set_tags({"model": NAME, "decision": "promoted", "decided_by": "ada"})
    tags = {"evidence": json.dumps(evidence), "decision": "promoted", **decided}
    for key, value in tags.items():
        tracking.client.set_model_version_tag(NAME, str(version), key, value)
    tracking.client.set_registered_model_alias(NAME, "champion", str(version))
    with tracking.run("roll back", experiment="tiny") as run:
        rollback_decision = {"outcome": "rolled_back", "checks": []}
        later = {"decision": rollback_decision, "decided_at": "2026-11-02T00:00:00+00:00"}
        run.log_json("promotion.json", {**record, **later})
        run.set_tags({"model": NAME, "decision": "rolled_back", "decided_by": "ada"})
    first, second = history(tracking, NAME)
    assert (first.outcome, first.decided_at) == ("promoted", decided["decided_at"])
    assert first.decision.checks[0].detail == "2"
    assert second.outcome == "rolled_back"
    assert (
        promote_version(tracking, add_version(tracking), make_evidence(1.5)).champion_before
        == version
    )
    assert labels(tracking) == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]
    assert rollback(tracking, NAME, "grace", "").champion_after == version


def test_a_record_of_codegen_0_1_is_an_error_that_names_its_run(tracking: Tracking) -> None:
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    (record,) = history(tracking, NAME)
    values = record.model_dump(mode="json", exclude={"run_id", "in_effect"})
    for check in values["decision"]["checks"]:
        check["found"] = check.pop("detail")
    tracking.client.log_dict(record.run_id, values, "promotion.json")
    with pytest.raises(TrackingError, match=f"of the run {record.run_id} cannot be read") as caught:
        history(tracking, NAME)
    assert "tracking_uri" in caught.value.fix


def test_a_deleted_previous_version_cannot_become_champion(tracking: Tracking) -> None:
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits))
    tracking.client.delete_model_version(NAME, "1")
    assert labels(tracking) == [f"{NAME}/2 @champion"]
    with pytest.raises(TrackingError, match="no version before its champion"):
        rollback(tracking, NAME, "grace", "")
    assert promote_version(tracking, add_version(tracking), make_evidence(1.0)).champion_before == 2


@pytest.mark.slow
def test_the_model_commands_print_the_registry(
    tracking: Tracking, promote_checkpoint: PromoteCheckpoint, tmp_path: Path
) -> None:
    promote_checkpoint("one", 2.0)
    promote_checkpoint("two", 1.5)
    execution = ["--exec", f"tracking_uri={tracking.uri}", "--exec", f"workspace={tmp_path}"]

    def run(*arguments: str) -> str:
        command = ("models", *arguments, *execution)
        process = run_codegen(*command, preload=HEAVY, COLUMNS="250")
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert [version["version"] for version in json.loads(run("list", "--json"))] == [1, 2]
    assert "-0.5" in run("compare", f"{NAME}/1", f"{NAME}/2")
    rows = json.loads(run("compare", f"{NAME}/1", f"{NAME}/2", "--json"))
    assert {"left", "right", "ci_low", "ci_high"} <= rows[0].keys()
    assert json.loads(run("rollback", NAME, "--reason", "slow", "--json"))["champion_after"] == 1
    assert "slow" in run("history", NAME)
    run("pull", f"{NAME}@champion", str(tmp_path / "champion"))
    assert (tmp_path / "champion" / "config.json").is_file()
