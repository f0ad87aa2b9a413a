"""Where isolation is missing, old, or does not hold, nothing is executed and the reason is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.core.errors import EvaluationError, SandboxUnavailable
from components.evaluation.sandbox import Limits, Sandbox, Trial, open_sandbox, probe
from components.evaluation.sandbox.bubblewrap import Bubblewrap
from components.evaluation.sandbox.execution import Runner
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import seccomp_program
from components.evaluation.sandbox.view import command, this_interpreter

TRIAL = Trial("def one():\n    '1.'\n", "    return 1\n", "def check(candidate):\n    assert candidate() == 1\n", "one")


def test_without_bubblewrap_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        open_sandbox(workers=1)
    report = probe()
    assert not report.available
    assert "bwrap" in report.summary
    assert "apt-get install bubblewrap" in report.remedy
    assert report.self_test == {}


@pytest.mark.parametrize("answer", ["bubblewrap 0.6.1", "something else"])
def test_an_old_bubblewrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\necho {answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match=answer):
        open_sandbox(workers=1)


def test_a_bubblewrap_that_cannot_make_namespaces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo bubblewrap 0.8.0 && exit\necho 'No permissions to create' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "No permissions to create" in probe().missing


class NoJail:
    """Starts the jailed modules where they stand: limits and filter hold, namespaces there are none."""

    as_root = False
    description = "nothing"

    def command(self, module: str, channel: int) -> list[str]:
        return command(this_interpreter(), module, channel)


def test_the_self_test_notices_that_there_are_no_walls() -> None:
    here = Path(sys.modules[Runner.__module__].__file__ or "").parent
    environment = {**this_interpreter().environment, "PYTHONPATH": str(here)}
    with Runner(NoJail(), environment, seccomp_program()) as runner:
        assert runner.test(TRIAL, Limits(cpu_s=1)).passed
        with pytest.raises(SandboxUnavailable, match="read a file outside: worked"):
            self_test(runner)


def test_without_the_filter_nothing_runs(sandbox: Sandbox) -> None:
    view = this_interpreter()
    with Runner(Bubblewrap(view), view.environment, b"") as runner:
        assert not runner.test(TRIAL, Limits(cpu_s=1)).passed
        with pytest.raises(SandboxUnavailable, match="an honest program: exited"):
            self_test(runner)


def test_when_the_judges_are_gone_it_is_an_error_and_no_verdict(sandbox: Sandbox) -> None:
    view = this_interpreter()
    with Runner(Bubblewrap(view), view.environment, seccomp_program()) as runner:
        # A judge that has spoken: bubblewrap ties a jail to its maker a moment after it has made it.
        assert runner.test(TRIAL, Limits(cpu_s=1)).passed
        jail = _descendants(runner._judges.pid)  # bubblewrap dies at once, what it holds a moment later
        runner._judges.kill()
        runner._judges.wait()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in jail):
            assert time.monotonic() < deadline
        with pytest.raises(EvaluationError, match="judges programs ended"):
            runner.test(TRIAL, Limits(cpu_s=1))


def test_jails_die_with_the_process_that_made_them(sandbox: Sandbox) -> None:
    code = (
        "from components.evaluation.sandbox import *\n"
        "sandbox = open_sandbox(1)\n"
        "print('ready', flush=True)\n"
        "sandbox.last_prints(['import time; time.sleep(600)'], Limits(cpu_s=300))\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while len(jails := _descendants(launcher.pid)) < 6:  # judges and subject, each bubblewrap twice and a Python
            assert time.monotonic() < deadline
        launcher.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in jails):
        assert time.monotonic() < deadline


def _descendants(pid: int) -> set[int]:
    """Every process below `pid`; one that ends meanwhile has none."""
    found: set[int] = set()
    for task in Path("/proc").glob(f"{pid}/task/*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = {int(child) for child in task.read_text().split()}
            found |= children.union(*(_descendants(child) for child in children))
    return found
