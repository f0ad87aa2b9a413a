"""The commands of docs/promoting.md in order on a real registry.

`codegen promote` and `run` train, so only their settings are checked; see test_approval.py and
test_stage_gates.py for approvals.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from fixtures.doc_commands import page_commands, run_shell
from fixtures.versions import NAME, add_version, make_evidence, promote_version, propose_version

from components.registry.evidence import Evidence
from components.registry.queries import history, list_versions
from components.registry.stage_gate import StageDecision, record_stage_decision
from components.registry.tracking import Tracking
from flows.settings.recipes import tiny

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

TRAINING_COMMANDS = (["codegen", "promote"], ["codegen", "run"])


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    """A registry with a champion and a candidate that solves more problems."""
    registry = Tracking(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")
    promote_version(registry, add_version(registry), _evidence(2.0, 0.25))
    propose_version(registry, add_version(registry), _evidence(1.5, 0.5))
    return registry


def _evidence(bits_per_byte: float, pass_rate: float) -> Evidence:
    """Return evidence with the same pass rate for all of 20 problems."""
    by_problem = {f"HumanEval/{number}": pass_rate for number in range(20)}
    base = make_evidence(bits_per_byte)
    return base.replace(
        metrics={**base.metrics, "humaneval/pass@1": pass_rate},
        protocols={**base.protocols, "humaneval": "b" * 64},
        by_problem={"humaneval/pass@1": by_problem},
    )


def _codegen(tracking: Tracking, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_shell(
        shlex.join(["codegen", *arguments]),
        folder,
        [f"tracking_uri={tracking.uri}", f"workspace={folder}"],
    )


def test_all_commands_of_the_page_work_in_order(tracking: Tracking, tmp_path: Path) -> None:
    outputs = {}
    for command in (
        shlex.split(line) for line in page_commands("promoting.md") if line.startswith("codegen ")
    ):
        if command[:2] in TRAINING_COMMANDS:
            tiny().override([command[command.index("--set") + 1]])
            continue
        if command[:2] == ["codegen", "approve"]:
            _stop_at_gate(tracking, command[2])
        if command[:3] == ["codegen", "models", "promote"] and "candidate" not in _aliases(
            tracking
        ):
            propose_version(tracking, add_version(tracking), _evidence(1.0, 0.75))
        process = _codegen(tracking, tmp_path, *command[1:])
        assert process.returncode == 0, (command, process.stdout, process.stderr)
        outputs[command[1] if command[1] == "approve" else command[2]] = process.stdout
    names = {"list", "show", "compare", "promote", "rollback", "history", "approve"}
    assert set(outputs) == names
    assert "stage nl approved by" in outputs["approve"]
    assert "+0.25 to +0.25" in outputs["compare"]
    assert "worse at comments" in outputs["history"]
    # Version 2 was promoted and rolled back; version 3 is better than 1 by 0.5 in every problem.
    decisions = history(tracking, NAME)
    outcomes = [decision.outcome for decision in decisions]
    assert outcomes == ["promoted", "promoted", "rolled_back", "promoted"]
    assert decisions[1].decision.checks[-1].detail.endswith(": reads well")
    assert "0.5 to 0.5, over 20 problems" in outputs["promote"]
    assert _aliases(tracking) == {"previous", "champion"}


def _stop_at_gate(tracking: Tracking, checkpoint: str) -> None:
    """Record that a run stopped after a checkpoint."""
    decision = StageDecision(
        stage="nl",
        checkpoint=checkpoint,
        digest="d" * 64,
        key="k" * 64,
        outcome="stopped",
        checks=(),
        decided_by="ada",
        decided_at="2031-02-03T04:05:06+00:00",
    )
    with tracking.run("gate of stage nl", experiment="codegen-tiny") as run:
        record_stage_decision(run, decision)


def _aliases(tracking: Tracking) -> set[str]:
    return {alias for version in list_versions(tracking, NAME) for alias in version.aliases}


def test_a_refusal_exits_with_status_3(tracking: Tracking, tmp_path: Path) -> None:
    strict = json.dumps([{"metrics": ["humaneval/pass@1"], "better": "higher", "min_gain": 0.3}])
    command = ["models", "promote", f"{NAME}/2", "-r", "tiny", "--json"]
    command += ["--set", f"promotion.requirements.mono={strict}"]
    process = _codegen(tracking, tmp_path, *command)
    assert process.returncode == 3, process.stderr
    decision = json.loads(process.stdout)["decision"]
    assert decision["outcome"] == "refused"
    assert any("a gain of 0.25" in check["detail"] for check in decision["checks"])
    assert history(tracking, NAME)[-1].decision.outcome == "refused"
    assert [version.label for version in list_versions(tracking)] == [
        f"{NAME}/1 @champion",
        f"{NAME}/2 @candidate",
    ]


def test_the_gate_of_another_recipe_is_refused(tracking: Tracking, tmp_path: Path) -> None:
    """The gate of starter has other requirements than the gate of tiny."""
    process = _codegen(tracking, tmp_path, "models", "promote", f"{NAME}/2")
    assert process.returncode == 1, (process.stdout, process.stderr)
    assert f"the recipe codegen-starter does not train {NAME}" in process.stderr
    assert "use -r tiny" in process.stderr
    assert len(history(tracking, NAME)) == 1
    assert [version.label for version in list_versions(tracking)] == [
        f"{NAME}/1 @champion",
        f"{NAME}/2 @candidate",
    ]
