"""What people ask of the registry, on real MLflow with real versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.versions import add_version, make_evidence, promote_version

from components.core.artifact import Artifact
from components.core.errors import TrackingError
from components.model.huggingface import logit_parity
from components.registry.config import GateConfig
from components.registry.evidence import Evidence
from components.registry.promotion import Promotion, PromotionRequest, promote
from components.registry.queries import (
    compare,
    evidence_at,
    get_version,
    history,
    list_versions,
    rollback,
)
from components.registry.tracking import Tracking
from components.registry.versions import register

NAME = "codegen-tiny-mono"
Decide = Callable[..., Promotion]


@pytest.fixture
def decide(tracking: Tracking, make_checkpoint: Callable[[str], tuple[Artifact, Path]]) -> Decide:
    """Register a checkpoint and let the gate decide about it."""

    def decide(note: str, bits_per_byte: float, protocol: str = "a") -> Promotion:
        checkpoint, folder = make_checkpoint(note)
        seen = Evidence(
            digest=checkpoint.digest,
            metrics={"bits_per_byte/mono/Python": bits_per_byte, f"extra/{note}": 1.0},
            protocols={"bits_per_byte": protocol},
            logit_difference=1e-6,
        )
        with tracking.run(f"promote {note}", experiment="tiny") as run:
            about = {"name": NAME, "stage": "mono", "evaluations": {}, "dvc_md5": "md5"}
            version = register(
                checkpoint, folder, run=run, parity=logit_parity, max_logit_difference=1e-4, **about
            )  # type: ignore[arg-type]
            number = int(version.statistics["version"])  # type: ignore[arg-type]
            return promote(
                PromotionRequest(NAME, number, "mono", seen, GateConfig()),
                run=run,
                decided_by="ada",
            )

    return decide


def labels(tracking: Tracking) -> list[str]:
    return [one.label for one in list_versions(tracking)]


def test_versions_are_listed_with_their_aliases_and_found_by_them(
    tracking: Tracking, decide: Decide
) -> None:
    assert list_versions(tracking) == []
    for note, bits in (("one", 2.0), ("two", 1.5), ("three", 1.75)):
        decide(note, bits)
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
    assert champion.metrics["bits_per_byte/mono/Python"] == 1.5


def test_two_versions_are_compared_where_the_protocol_is_the_same(
    tracking: Tracking, decide: Decide
) -> None:
    decide("one", 2.0)
    decide("two", 1.5)
    decide("three", 1.0, protocol="b")
    same = {one.metric: one for one in compare(tracking, f"{NAME}/1", f"{NAME}/2")}
    assert sorted(same) == ["bits_per_byte/mono/Python", "extra/one", "extra/two"]
    bits = same["bits_per_byte/mono/Python"]
    assert (bits.left, bits.right, bits.comparable) == (2.0, 1.5, True)
    assert (same["extra/one"].left, same["extra/one"].right) == (1.0, None)
    assert not same["extra/one"].comparable  # Nobody said how it was measured.
    (other,) = (
        one for one in compare(tracking, f"{NAME}/2", f"{NAME}/3") if one.metric == bits.metric
    )
    assert not other.comparable


def test_a_rollback_is_one_decision_more_and_can_be_taken_back(
    tracking: Tracking, decide: Decide
) -> None:
    decide("one", 2.0)
    decide("two", 1.5)
    before = history(tracking, NAME)
    done = rollback(tracking, NAME, "grace", "worse in production")
    assert (done.champion_before, done.champion_after) == (2, 1)
    assert labels(tracking) == [f"{NAME}/1 @champion", f"{NAME}/2 @previous"]
    decisions = history(tracking, NAME)
    assert decisions[:2] == before  # What was decided before is as it was.
    assert [one.decision.outcome for one in decisions] == ["promoted", "promoted", "rolled back"]
    assert (decisions[2].decided_by, decisions[2].decision.checks[0].found) == (
        "grace",
        "worse in production",
    )
    assert rollback(tracking, NAME, "grace", "").champion_after == 2
    assert labels(tracking) == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]


def test_what_cannot_be_rolled_back_or_found_is_said(tracking: Tracking, decide: Decide) -> None:
    with pytest.raises(TrackingError, match=NAME):
        rollback(tracking, NAME, "grace", "")
    decide("one", 2.0)
    with pytest.raises(TrackingError, match="no version before its champion"):
        rollback(tracking, NAME, "grace", "")
    with pytest.raises(TrackingError, match=f"the registry has no {NAME}/7"):
        get_version(tracking, f"{NAME}/7")
    with pytest.raises(TrackingError, match="history"):
        history(tracking, "nobody")
    assert len(history(tracking, NAME)) == 1


def test_a_record_outlives_the_deletion_of_its_run(
    tracking: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    promote_version(tracking, add_version(tracking), make_evidence(1.5))
    before = history(tracking, NAME)
    tracking.client.delete_run(before[0].run_id)
    assert history(tracking, NAME) == before
    shutil.rmtree(tracking.artifacts / before[0].run_id)  # As `mlflow gc` does.
    assert history(tracking, NAME) == before[1:]
    assert f"is gone from the run {before[0].run_id}" in caplog.text


def test_what_is_long_is_kept_with_the_run_and_missed_only_with_it(tracking: Tracking) -> None:
    by_problem = {"humaneval/pass@1": {f"HumanEval/{number}": 0.5 for number in range(164)}}
    settings = {
        "humaneval": {"sets": {"t0.2": {"note": "x" * 200_000}}}
    }  # Longer than a tag may be.
    whole = make_evidence(
        2.0, by_problem=by_problem, settings=settings, contamination={"humaneval": {"nl": 0}}
    )
    promote_version(tracking, add_version(tracking), whole)
    assert evidence_at(tracking, f"{NAME}/1") == whole
    shutil.rmtree(tracking.artifacts / history(tracking, NAME)[0].run_id)
    assert evidence_at(tracking, f"{NAME}/1") == whole.replace(by_problem={}, settings={})


def test_what_the_version_before_this_one_recorded_is_read(tracking: Tracking) -> None:
    version, new = add_version(tracking), ("settings", "by_problem", "contamination")
    with tracking.run("promote mono", experiment="tiny") as run:
        seen = {
            key: value
            for key, value in make_evidence(2.0).model_dump(mode="json").items()
            if key not in new
        }
        checks = [{"rule": "a rule", "passed": True, "found": "2"}]
        about = {
            "model": NAME,
            "version": version,
            "stage": "mono",
            "champion_before": None,
            "champion_after": version,
        }
        when = {"decided_by": "ada", "decided_at": "2026-11-01T00:00:00+00:00"}
        decided = {
            "decision": {"outcome": "promoted", "checks": checks},
            "evidence": seen,
            "champion_evidence": None,
        }
        run.json("promotion.json", {**about, **when, **decided})
        run.tags({"model": NAME, "decision": "promoted", "decided_by": "ada"})
    for key, value in {"evidence": json.dumps(seen), "decision": "promoted", **when}.items():
        tracking.client.set_model_version_tag(NAME, str(version), key, value)
    tracking.client.set_registered_model_alias(NAME, "champion", str(version))
    (recorded,) = history(tracking, NAME)
    assert (recorded.outcome, recorded.decided_at) == ("promoted", when["decided_at"])
    assert (
        promote_version(tracking, add_version(tracking), make_evidence(1.5)).champion_before
        == version
    )
    assert labels(tracking) == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]
    assert rollback(tracking, NAME, "grace", "").champion_after == version


def test_a_previous_version_that_was_deleted_is_no_way_back(tracking: Tracking) -> None:
    for bits in (2.0, 1.5):
        promote_version(tracking, add_version(tracking), make_evidence(bits))
    tracking.client.delete_model_version(NAME, "1")
    assert labels(tracking) == [f"{NAME}/2 @champion"]
    with pytest.raises(TrackingError, match="no version before its champion"):
        rollback(tracking, NAME, "grace", "")
    assert promote_version(tracking, add_version(tracking), make_evidence(1.0)).champion_before == 2


@pytest.mark.slow
def test_the_commands_say_what_the_registry_knows(
    tracking: Tracking, decide: Decide, tmp_path: Path
) -> None:
    decide("one", 2.0)
    decide("two", 1.5)
    place = ["--exec", f"tracking_uri={tracking.uri}", "--exec", f"workspace={tmp_path}"]

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "flows.cli.main", "models", *arguments, *place]
        environment = os.environ | {"COLUMNS": "250"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert [one["version"] for one in json.loads(run("list", "--json"))] == [1, 2]
    assert "-0.5" in run("compare", f"{NAME}/1", f"{NAME}/2")
    assert json.loads(run("rollback", NAME, "--reason", "slow", "--json"))["champion_after"] == 1
    assert "slow" in run("history", NAME)
    run("pull", f"{NAME}@champion", str(tmp_path / "champion"))
    assert (tmp_path / "champion" / "config.json").is_file()
