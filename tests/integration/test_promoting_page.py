"""Every command of docs/promoting.md, in its order, on a real registry; of `codegen promote`, which trains, the settings."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from fixtures.doc_commands import page_commands, run_shell
from fixtures.versions import NAME, add_version, evidence, judge, suggest

from components.registry.queries import history, list_versions
from components.registry.tracking import Tracking
from flows.settings.recipes import tiny

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

HEAVY = ["codegen", "promote"]
"""It trains where nothing is trained yet; what waits for a person is in test_approval.py."""


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    """A champion, and a candidate that writes better programs."""
    made = Tracking(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")
    judge(made, add_version(made), _evidence(2.0, 0.25))
    suggest(made, add_version(made), _evidence(1.5, 0.5))
    return made


def _evidence(bits_per_byte: float, passed: float):
    """Every problem of 20 is solved so often."""
    by_problem = {f"HumanEval/{number}": passed for number in range(20)}
    plain = evidence(bits_per_byte)
    return plain.replace(
        metrics={**plain.metrics, "humaneval/pass@1": passed},
        protocols={**plain.protocols, "humaneval": "b" * 64},
        by_problem={"humaneval/pass@1": by_problem},
    )


def _codegen(tracking: Tracking, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_shell(
        shlex.join(["codegen", *arguments]),
        folder,
        [f"tracking_uri={tracking.uri}", f"workspace={folder}"],
    )


def test_every_command_of_the_page(tracking: Tracking, tmp_path: Path) -> None:
    said = {}
    for command in (
        shlex.split(one) for one in page_commands("promoting.md") if one.startswith("codegen ")
    ):
        if command[:2] == HEAVY:
            tiny().override([command[command.index("--set") + 1]])
            continue
        if command[:3] == ["codegen", "models", "promote"] and "candidate" not in _aliases(
            tracking
        ):
            suggest(tracking, add_version(tracking), _evidence(1.0, 0.75))
        done = _codegen(tracking, tmp_path, *command[1:])
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said[command[2]] = done.stdout
    assert set(said) == {"list", "show", "compare", "promote", "rollback", "history"}
    assert "+0.25 to +0.25" in said["compare"]
    assert "worse at comments" in said["history"]
    # Version 2 took over and was rolled back; version 3 gained 0.5 on version 1 in every problem.
    assert [one.outcome for one in history(tracking, NAME)] == [
        "promoted",
        "promoted",
        "rolled_back",
        "promoted",
    ]
    assert history(tracking, NAME)[1].decision.checks[-1].detail.endswith(": reads well")
    assert "0.5 to 0.5, over 20 problems" in said["promote"]
    assert _aliases(tracking) == {"previous", "champion"}


def _aliases(tracking: Tracking) -> set[str]:
    return {alias for one in list_versions(tracking, NAME) for alias in one.aliases}


def test_a_refused_gate_ends_with_3(tracking: Tracking, tmp_path: Path) -> None:
    strict = json.dumps([{"metrics": ["humaneval/pass@1"], "better": "higher", "min_gain": 0.3}])
    command = [
        "models",
        "promote",
        f"{NAME}/2",
        "-r",
        "tiny",
        "--set",
        f"promotion.requirements.mono={strict}",
        "--json",
    ]
    done = _codegen(tracking, tmp_path, *command)
    assert done.returncode == 3, done.stderr
    decision = json.loads(done.stdout)["decision"]
    assert decision["outcome"] == "refused"
    assert any("a gain of 0.25" in check["detail"] for check in decision["checks"])
    assert history(tracking, NAME)[-1].decision.outcome == "refused"
    assert [one.label for one in list_versions(tracking)] == [
        f"{NAME}/1 @champion",
        f"{NAME}/2 @candidate",
    ]


def test_another_recipe_does_not_judge(tracking: Tracking, tmp_path: Path) -> None:
    """The starter's gate knows nothing of what the recipe of this model asks for."""
    done = _codegen(tracking, tmp_path, "models", "promote", f"{NAME}/2")
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert f"the recipe codegen-starter is to judge {NAME}, which it does not make" in done.stderr
    assert "give -r tiny" in done.stderr
    assert len(history(tracking, NAME)) == 1
    assert [one.label for one in list_versions(tracking)] == [
        f"{NAME}/1 @champion",
        f"{NAME}/2 @candidate",
    ]
