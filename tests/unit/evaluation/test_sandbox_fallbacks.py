"""The isolation that is selected if a better kind is refused by the kernel.

A separate process filters its own system calls, as a container's profile does, and then opens a
sandbox.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fixtures.function_tests import RETURNS_ONE

from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox import PrintedValue, ResourceLimits, Verdict, open_sandbox
from components.evaluation.sandbox.backends import find_jail
from components.evaluation.sandbox.jail import ReservedUsers
from components.evaluation.sandbox.job import Job
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import compile_seccomp_filters
from components.evaluation.sandbox.worker import Worker

PROBE = """
import errno, json, os, sys
import pyseccomp
from components.evaluation.sandbox import probe
from components.evaluation.sandbox.jailed import lockdown

rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
for name in sys.argv[2:]:
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
if "unshare" in sys.argv:
    for flag in (0x20000, 0x10000000, 0x20000000, 0x40000000):  # new mounts, users, pids, networks
        condition = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag)
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", condition)
rules.load()
if sys.argv[1] == "powerless":
    lockdown.keep_capabilities(())
print(probe().model_dump_json())
"""
AS_A_CONTAINER = ("unshare", "mount", "pivot_root", "setns")
NO_LANDLOCK = ("landlock_create_ruleset",)


def probe_without(
    refused: tuple[str, ...] = (), *, path: str | None = None, powerless: bool = False
) -> dict[str, Any]:
    """Return the report of a process that may not make these system calls."""
    environment = os.environ | ({} if path is None else {"PATH": path})
    command = [sys.executable, "-c", PROBE, "powerless" if powerless else "", *refused]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    report: dict[str, Any] = json.loads(process.stdout)
    return report


def require(kind: SandboxKind) -> None:
    try:
        find_jail(kind)
    except SandboxUnavailableError as error:
        pytest.skip(error.got)


def test_own_namespaces_replace_a_missing_bubblewrap(tmp_path: Path) -> None:
    require("namespaces")
    report = probe_without(path=str(tmp_path))
    assert report["kind"] == "namespaces"
    assert report["isolation"].startswith("own namespaces")
    assert report["self_test"]["write to its own /tmp"] == "worked: 1"


def test_landlock_replaces_missing_namespaces_and_states_the_restriction() -> None:
    require("landlock")
    report = probe_without(AS_A_CONTAINER)
    assert report["kind"] == "landlock"
    assert "temporary files fail" in report["isolation"]
    assert report["self_test"]["write to its own /tmp"] == "PermissionError"


def test_without_any_kind_the_report_names_each_with_a_fix() -> None:
    report = probe_without((*AS_A_CONTAINER, *NO_LANDLOCK))
    assert not report["available"]
    assert all(
        f"{kind}: " in report["missing"] for kind in ("bubblewrap", "namespaces", "landlock")
    )
    assert "making namespaces: Operation not permitted" in report["missing"]
    assert "has no Landlock" in report["missing"] or "closed to them" in report["missing"]
    assert "user.max_user_namespaces" in report["fix"]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user's programs are not root in any case"
)
def test_root_without_the_right_to_change_users_executes_nothing() -> None:
    report = probe_without(powerless=True)
    assert not report["available"]
    assert "programs would be root" in report["missing"]
    assert "ordinary user" in report["fix"]


def test_the_self_test_refuses_landlock_rules_that_allow_everything() -> None:
    require("landlock")
    jail = find_jail("landlock")
    assert jail.landlock_rules is not None
    jail.landlock_rules["read"] = ["/"]
    with (
        Worker(jail, compile_seccomp_filters(namespaces=False)) as worker,
        pytest.raises(SandboxUnavailableError, match="read a file outside: worked"),
    ):
        self_test(worker, jail)


def test_no_two_jails_share_a_user() -> None:
    """Users are reserved until the jail is closed."""
    users = range(4_000_000, 4_000_006)
    with ReservedUsers(users) as first, ReservedUsers(users) as second:
        with ReservedUsers(users) as third:
            assert sorted(first.uids + second.uids + third.uids) == list(users)
            with pytest.raises(SandboxUnavailableError, match="4000000 to 4000005"):
                ReservedUsers(users)
        with ReservedUsers(users) as fourth:
            assert fourth.uids == third.uids


THREADS = """
import threading
gate = threading.Event()
for _ in range(90): threading.Thread(target=gate.wait, daemon=True).start()
gate.wait(WAIT_S)
print("ended")
"""


def test_threads_of_a_jail_do_not_count_in_another(sandbox_kind: SandboxKind) -> None:
    """90 of at most 128 threads in each of two jails, at the same time."""
    limits = ResourceLimits(10, memory_mib=2048)
    jail = find_jail(sandbox_kind)
    filters = compile_seccomp_filters(namespaces=jail.namespaces)
    with Worker(jail, filters) as first, Worker(jail, filters) as second:
        pending = first.submit(Job(f"WAIT_S = 1000\n{THREADS}", limits, "split"))
        while not any(process.num_threads() > 90 for process in _descendants()):
            time.sleep(0.05)
        printed = second.run(Job(f"WAIT_S = 0\n{THREADS}", limits, "split"))
        assert isinstance(printed, PrintedValue)
        assert (printed.value, printed.exit_verdict.kind) == ("ended", "passed")
        assert any(process.num_threads() > 90 for process in _descendants())
        os.close(pending.answer_fd)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture
def many_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
    yield
    for file in files:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_open_files")
def test_a_process_with_1200_open_files_can_open_a_sandbox(
    sandbox_kind: SandboxKind,
) -> None:
    list_files = (
        "import os\nopen_files = []\nfor fd in range(4, 2048):\n"
        "    try: os.fstat(fd); open_files.append(fd)\n"
    )
    with open_sandbox(workers=1, kind=sandbox_kind) as sandbox:
        assert sandbox.run_tests([RETURNS_ONE], ResourceLimits(1))[0].passed
        assert (
            sandbox.last_printed_values(
                [f"{list_files}    except OSError: pass\nprint(open_files)"], ResourceLimits(1)
            )[0].value
            == []
        )


def test_a_program_that_could_not_be_submitted_is_run_again_at_once(
    sandbox_kind: SandboxKind,
) -> None:
    """The server received the program, the test runner did not: a wait would take two hours."""
    runner_end, jail_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    runner_end.shutdown(socket.SHUT_WR)
    with runner_end, jail_end, Worker(find_jail(sandbox_kind), compile_seccomp_filters()) as worker:
        assert worker.run(Job(RETURNS_ONE, ResourceLimits(1), "split")) == Verdict("passed")
        worker._test_runners.close()
        worker._test_runners = runner_end
        assert worker.run(Job(RETURNS_ONE, ResourceLimits(2_400), "split")) == Verdict("passed")
