"""What a shell is told when Tab is pressed, through the variables that its completion script sets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def told(shell: str, typed: str) -> str:
    """The answer to the last word of what was typed."""
    words = typed.split(" ")
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": typed}
    asked |= {"_CODEGEN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [
        ("codegen pr", ["prepare", "promote"]),
        ("codegen models ", ["list", "show", "compare", "history", "rollback", "pull"]),
        ("codegen run --recipe ", ["starter", "tiny", "350m", "2b", "6b", "16b"]),
        ("codegen run -r t", ["tiny"]),
        ("codegen recipe show s", ["starter"]),
        ("codegen train --stage m", ["multi", "mono"]),
        ("codegen plan --gpu a100", ["a100-80", "a100-40"]),
        ("codegen artifacts --kind pre", ["prepared-corpus"]),
        ("codegen export a b --format g", ["gptj"]),
        ("codegen data status --js", ["--json"]),
        ("codegen why --deb", ["--debug"]),
    ],
)
def test_bash(typed: str, proposed: list[str]) -> None:
    assert set(proposed) <= set(told("bash", typed).split())
    if typed[-1] != " ":
        assert told("bash", typed).split() == proposed


def test_zsh_and_fish_are_told_the_help_as_well() -> None:
    assert '"doctor":"What this machine has and lacks' in told("zsh", "codegen doc")
    assert told("fish", "codegen doc").startswith("doctor\tWhat this machine has and lacks")


def test_the_script_that_asks_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main"],
        env=os.environ | {"_CODEGEN_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "_CODEGEN_COMPLETE=complete_bash" in done.stdout
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
