"""Exit codes and error messages of the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fixtures.codegen_command import run_codegen

BUG = """
import flows.cli.inspect
def broken(*arguments):
    raise ZeroDivisionError("a bug of ours\\nand more of it")
flows.cli.inspect.load_recipe = broken
"""
LIST_RECIPES = ("recipe", "list")


def test_an_unexpected_exception_is_reported_as_an_internal_error() -> None:
    result = run_codegen(*LIST_RECIPES, prelude=BUG)
    assert result.returncode == 70
    first, *rest = result.stderr.strip().splitlines()
    assert first == "✗ ZeroDivisionError: a bug of ours (line 4 of <string>)"
    assert [line.split(":")[0].strip() for line in rest] == ["expected", "fix"]
    assert "bug of codegen" in rest[0]
    assert "--debug" in rest[1]


def test_a_closed_stage_gate_exits_with_3() -> None:
    prelude = """
import flows.cli.inspect
from components.core.errors import StageGateError
def closed(*arguments):
    raise StageGateError("stage nl did not pass its gate", expected="a value", fix="approve it")
flows.cli.inspect.load_recipe = closed
"""
    result = run_codegen(*LIST_RECIPES, prelude=prelude)
    assert result.returncode == 3
    assert result.stderr.startswith("✗ stage nl did not pass its gate\n  expected: a value\n")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--debug", *LIST_RECIPES), {}),
        ((*LIST_RECIPES, "--debug"), {}),
        (LIST_RECIPES, {"CODEGEN_DEBUG": "1"}),
    ],
    ids=["before", "after", "environment"],
)
def test_debug_prints_the_traceback_of_an_internal_error(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    result = run_codegen(*arguments, prelude=BUG, **environment)
    assert result.returncode == 70
    assert result.stderr.count("Traceback (most recent call last)") == 1
    assert "in broken" in result.stderr
    assert "✗ ZeroDivisionError" in result.stderr


def test_debug_prints_the_traceback_of_a_user_error() -> None:
    plain = run_codegen("recipe", "show", "absent")
    debugged = run_codegen("recipe", "show", "absent", "--debug")
    assert plain.returncode == debugged.returncode == 1
    assert plain.stderr.startswith("✗ there is no recipe 'absent'\n  expected: ")
    assert "Traceback" not in plain.stderr
    assert debugged.stderr.startswith("Traceback")
    assert debugged.stderr.endswith(plain.stderr)


def test_codegen_debug_0_prints_no_traceback() -> None:
    assert "Traceback" not in run_codegen("recipe", "show", "absent", CODEGEN_DEBUG="0").stderr


def test_an_unknown_option_exits_with_2() -> None:
    result = run_codegen("recipe", "list", "--nothing")
    assert result.returncode == 2
    assert "No such option: --nothing" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_after_an_interrupt_contains_the_signal(number: signal.Signals) -> None:
    kill = BUG.replace(
        'raise ZeroDivisionError("a bug of ours\\nand more of it")',
        f"import os; os.kill(os.getpid(), {number:d})",
    )
    result = run_codegen(*LIST_RECIPES, prelude=kill)
    assert result.returncode == 128 + number
    assert result.stderr == f"stopped by {number.name}; run the same command to resume\n"


UNINTERRUPTIBLE = """
import os, signal, subprocess, sys, time
import flows.cli.inspect, flows.cli.interrupts
def endless(*arguments):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    while True:
        try:
            SIGNAL
            time.sleep(0.1)
        except KeyboardInterrupt:
            continue
flows.cli.inspect.load_recipe = endless
"""
"""A command that catches KeyboardInterrupt, with a child."""


def test_a_second_ctrl_c_ends_a_command_at_once() -> None:
    prelude = UNINTERRUPTIBLE.replace("SIGNAL", "os.kill(os.getpid(), signal.SIGINT)")
    result = run_codegen(*LIST_RECIPES, prelude=prelude)
    assert result.returncode == 130
    assert result.stderr == "stopped by SIGINT; run the same command to resume\n"
    assert not psutil.pid_exists(int(result.stdout))


def test_a_command_that_does_not_react_to_a_signal_is_ended() -> None:
    prelude = UNINTERRUPTIBLE.replace("SIGNAL", "os.kill(os.getpid(), signal.SIGTERM)")
    prelude += "flows.cli.interrupts._GRACE_S = 1"
    result = run_codegen(*LIST_RECIPES, prelude=prelude)
    assert result.returncode == 143
    assert result.stderr == "stopped by SIGTERM; run the same command to resume\n"
    assert not psutil.pid_exists(int(result.stdout))


def test_a_signal_during_a_callback_of_a_weak_reference_is_not_lost() -> None:
    callback = BUG.replace(
        'raise ZeroDivisionError("a bug of ours\\nand more of it")',
        """import os, signal, time, weakref
    class Thing: pass
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing
    while True:
        time.sleep(0.01)""",
    )
    callback += "import flows.cli.interrupts; flows.cli.interrupts._GRACE_S = 600"
    result = run_codegen(*LIST_RECIPES, prelude=callback)
    assert result.returncode == 130
    assert result.stderr == "stopped by SIGINT; run the same command to resume\n"


def test_an_ignored_signal_does_not_end_a_command() -> None:
    """`nohup codegen ...` and `codegen ... &` in a script."""
    prelude = BUG.replace(
        'raise ZeroDivisionError("a bug of ours\\nand more of it")',
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise SystemExit(5)",
    )
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert run_codegen(*LIST_RECIPES, prelude=f"{ignore}\n{prelude}").returncode == 5


def test_the_module_can_be_run_from_another_folder(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout.startswith("Usage: codegen [OPTIONS] COMMAND")


def test_an_empty_store_is_reported_with_the_command_that_fills_it(tmp_path: Path) -> None:
    result = run_codegen("artifacts", CODEGEN_WORKSPACE=str(tmp_path / "workspace"))
    assert result.returncode == 0
    assert "codegen run" in result.stdout
    as_json = run_codegen("artifacts", "--json", CODEGEN_WORKSPACE=str(tmp_path / "workspace"))
    assert as_json.stdout.strip() == "[]"
