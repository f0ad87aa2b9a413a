"""Missing, old or ineffective isolation: nothing is executed and the error names the reason."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.function_tests import RETURNS_ONE

from components.core.errors import EvaluationError, SandboxUnavailableError
from components.evaluation.sandbox import (
    ResourceLimits,
    SandboxKind,
    Verdict,
    jailed,
    open_sandbox,
    probe,
)
from components.evaluation.sandbox.backends import NoIsolation, find_jail
from components.evaluation.sandbox.job import Job
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import compile_seccomp_filters
from components.evaluation.sandbox.worker import Worker

LIMITS = ResourceLimits(cpu_s=1)
JOB = Job(RETURNS_ONE, LIMITS, "split")


def test_the_error_names_the_package_of_a_missing_bubblewrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailableError, match="apt-get install bubblewrap"):
        open_sandbox(workers=1, kind="bubblewrap")
    report = probe(kind="bubblewrap")
    assert not report.available
    assert "bwrap" in report.summary
    assert "apt-get install bubblewrap" in report.fix
    assert report.self_test == {}


@pytest.mark.parametrize("output", ["bubblewrap 0.6.1", "something else"])
def test_an_old_bubblewrap_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\necho {output}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailableError, match=output):
        open_sandbox(workers=1, kind="bubblewrap")


def test_a_bubblewrap_without_namespaces_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\n'
        "echo 'No permissions to create' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "No permissions to create" in probe(kind="bubblewrap").missing


def test_unsafe_execution_runs_programs_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with open_sandbox(workers=1, kind="bubblewrap", unsafe=True) as sandbox:
        assert sandbox.report.available
        assert not sandbox.report.isolated
        assert sandbox.report.isolation == "none (unsafe execution)"
        assert "read a file outside" not in sandbox.report.self_test
        source = "import os, tempfile\nprint([os.getcwd(), tempfile.gettempdir()])"
        folder, temporary = sandbox.last_printed_values([source], LIMITS)[0].value
        assert folder == temporary
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        wrong = RETURNS_ONE._replace(completion="    return 2\n")
        for mode in ("split", "fast"):
            assert [
                verdict.kind for verdict in sandbox.run_tests([RETURNS_ONE, wrong], LIMITS, mode)
            ] == [
                "passed",
                "wrong_answer",
            ]


@pytest.mark.usefixtures("sandbox")
def test_unsafe_execution_isolates_if_possible() -> None:
    assert probe(unsafe=True).isolated


def test_the_self_test_detects_missing_isolation() -> None:
    jail = NoIsolation()
    jail.isolated = True
    with Worker(jail, compile_seccomp_filters()) as worker:
        assert worker.run(JOB) == Verdict("passed")
        with pytest.raises(SandboxUnavailableError, match="read a file outside: worked"):
            self_test(worker, jail)
    # The attempt to write into the code folder works without isolation.
    (Path(jailed.__file__).parent / "new").unlink(missing_ok=True)


@pytest.mark.parametrize("missing", ["server", "test_runner", "program"])
def test_no_program_runs_if_a_filter_is_missing(sandbox_kind: SandboxKind, missing: str) -> None:
    jail = find_jail(sandbox_kind)
    filters = compile_seccomp_filters(namespaces=jail.namespaces) | {missing: ""}
    with (
        Worker(jail, filters) as worker,
        pytest.raises(SandboxUnavailableError, match=r"an honest program: exited|a jail was lost"),
    ):
        self_test(worker, jail)


def test_a_lost_jail_is_replaced_and_its_program_runs_again(sandbox_kind: SandboxKind) -> None:
    other_children = _children(os.getpid())
    with Worker(find_jail(sandbox_kind), compile_seccomp_filters()) as worker:
        assert worker.run(JOB) == Verdict("passed")
        # bubblewrap sets the death signal shortly after the start; a jail that has answered has it.
        (jail,) = _children(os.getpid()) - other_children
        inside = _descendants(jail)
        os.kill(jail, signal.SIGKILL)
        _wait_until_gone(inside)
        assert worker.run(JOB) == Verdict("passed")
        assert len(_children(os.getpid()) - other_children) == 1


def test_a_jail_that_is_lost_twice_is_an_error(
    sandbox_kind: SandboxKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    jail, other_children = find_jail(sandbox_kind), _children(os.getpid())
    with Worker(jail, compile_seccomp_filters()) as worker:
        assert worker.run(JOB) == Verdict("passed")
        monkeypatch.setattr(jail, "command", lambda _: ["/bin/false"])
        (running,) = _children(os.getpid()) - other_children
        inside = _descendants(running)
        os.kill(running, signal.SIGKILL)
        _wait_until_gone(inside)
        with pytest.raises(EvaluationError, match="lost twice"):
            worker.run(JOB)


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_a_package_that_cannot_be_imported_is_named(
    sandbox_kind: SandboxKind, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    servers = ((re.compile("numpy"), ("nowhere",)), (None, ()))
    monkeypatch.setattr("components.evaluation.sandbox.worker.SERVERS", servers)
    job = JOB._replace(mode=mode)
    with Worker(find_jail(sandbox_kind), compile_seccomp_filters()) as worker:
        numpy = RETURNS_ONE._replace(prompt="import numpy\n" + RETURNS_ONE.prompt)
        with pytest.raises(EvaluationError, match="import nowhere: ModuleNotFoundError"):
            worker.run(job._replace(program=numpy))
        assert worker.run(job) == Verdict("passed")


# The starter, six servers, the program; bubblewrap has two more processes, our own jail one.
NUM_PROCESSES = {"bubblewrap": 9, "namespaces": 8, "landlock": 7}


def test_jails_die_with_their_launcher(sandbox_kind: SandboxKind) -> None:
    code = (
        "from components.evaluation.sandbox import ResourceLimits\n"
        "from components.evaluation.sandbox.backends import find_jail\n"
        "from components.evaluation.sandbox.job import Job\n"
        "from components.evaluation.sandbox.system_calls import compile_seccomp_filters\n"
        "from components.evaluation.sandbox.worker import Worker\n"
        f"jail = find_jail({sandbox_kind!r})\n"
        "worker = Worker(jail, compile_seccomp_filters(namespaces=jail.namespaces))\n"
        "print('ready', flush=True)\n"
        "worker.run(Job('import time; time.sleep(600)', ResourceLimits(cpu_s=300), 'split'))\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while len(jails := _descendants(launcher.pid)) < NUM_PROCESSES[sandbox_kind]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        launcher.kill()
    _wait_until_gone(jails)


def _wait_until_gone(processes: set[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _children(pid: int) -> set[int]:
    children: set[int] = set()
    for task in Path("/proc").glob(f"{pid}/task/*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children |= {int(child) for child in task.read_text().split()}
    return children


def _descendants(pid: int) -> set[int]:
    """Return all descendants of `pid`; a process that ended meanwhile has none."""
    children = _children(pid)
    return children.union(*(_descendants(child) for child in children))
