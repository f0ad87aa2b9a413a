"""How the command line ends: with which status, and with which words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def ended(
    *arguments: str, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`codegen` in a process of its own; `before` is run in it first."""
    script = f"import sys; sys.argv = ['codegen', *sys.argv[1:]]\n{before}\nfrom flows.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


BROKEN = """
import flows.cli.inspect
def broken(*arguments):
    raise ZeroDivisionError("a bug of ours\\nand more of it")
flows.cli.inspect.chosen_recipe = broken
"""
LIST = ("recipe", "list")


def test_an_exception_that_nobody_foresaw_is_said_to_be_a_defect_of_ours() -> None:
    done = ended(*LIST, before=BROKEN)
    assert done.returncode == 70
    first, *rest = done.stderr.strip().splitlines()
    assert first == "✗ ZeroDivisionError: a bug of ours (line 5 of <string>)"
    assert [line.split(":")[0].strip() for line in rest] == ["expected", "fix"]
    assert "a defect of ours" in rest[0]
    assert "--debug" in rest[1]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(("--debug", *LIST), {}), ((*LIST, "--debug"), {}), (LIST, {"CODEGEN_DEBUG": "1"})],
    ids=["before", "after", "environment"],
)
def test_its_traceback_is_shown_where_it_is_asked_for(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    done = ended(*arguments, before=BROKEN, **environment)
    assert done.returncode == 70
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "in broken" in done.stderr
    assert "✗ ZeroDivisionError" in done.stderr


def test_an_error_that_can_be_mended_has_a_traceback_too_where_it_is_asked_for() -> None:
    plain, debugged = (ended("recipe", "show", "nobody", *more) for more in ((), ("--debug",)))
    assert plain.returncode == debugged.returncode == 1
    assert plain.stderr.startswith("✗ there is no recipe 'nobody'\n  expected: ")
    assert "Traceback" not in plain.stderr
    assert debugged.stderr.startswith("Traceback")
    assert debugged.stderr.endswith(plain.stderr)


def test_a_zero_is_no_wish_to_debug() -> None:
    assert "Traceback" not in ended("recipe", "show", "nobody", CODEGEN_DEBUG="0").stderr


def test_wrong_usage_has_a_status_of_its_own() -> None:
    done = ended("recipe", "list", "--nothing")
    assert done.returncode == 2
    assert "No such option: --nothing" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_was_interrupted_says_by_what(number: signal.Signals) -> None:
    kill = BROKEN.replace(
        'raise ZeroDivisionError("a bug of ours\\nand more of it")',
        f"import os; os.kill(os.getpid(), {number:d})",
    )
    done = ended(*LIST, before=kill)
    assert done.returncode == 128 + number
    assert "interrupted; the same command goes on from here" in done.stderr


def test_the_module_is_a_program_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("Usage: codegen [OPTIONS] COMMAND")
