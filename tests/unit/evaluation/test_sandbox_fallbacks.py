"""Which isolation is taken where the better one cannot be had, on a kernel that really refuses it.

A process of its own refuses itself system calls, as a container's profile does, and then looks for a sandbox.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import SandboxUnavailable
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox import FunctionTest, ResourceLimits, Verdict, open_sandbox
from components.evaluation.sandbox.backends import find_jail
from components.evaluation.sandbox.jail import uids_for_worker
from components.evaluation.sandbox.job import Job
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import seccomp_programs
from components.evaluation.sandbox.worker import Worker

TRIAL = FunctionTest(
    "def one():\n    '1.'\n",
    "    return 1\n",
    "def check(candidate):\n    assert candidate() == 1\n",
    "one",
)
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
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
rules.load()
if sys.argv[1] == "powerless":
    lockdown.keep_capabilities(())
print(probe().model_dump_json())
"""
AS_A_CONTAINER = ("unshare", "mount", "pivot_root", "setns")
NO_LANDLOCK = ("landlock_create_ruleset",)


def found_where(
    refused: tuple[str, ...] = (), *, path: str | None = None, powerless: bool = False
) -> dict[str, Any]:
    """The report of a process that may not make these system calls."""
    environment = os.environ | ({} if path is None else {"PATH": path})
    command = [sys.executable, "-c", PROBE, "powerless" if powerless else "", *refused]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def require(kind: SandboxKind) -> None:
    try:
        find_jail(kind)
    except SandboxUnavailable as error:
        pytest.skip(error.got)


def test_without_bubblewrap_our_own_namespaces_take_its_place(tmp_path: Path) -> None:
    require("namespaces")
    report = found_where(path=str(tmp_path))
    assert report["kind"] == "namespaces"
    assert report["isolation"].startswith("own namespaces")
    assert report["self_test"]["write to its own /tmp"] == "worked: 1"


def test_without_namespaces_landlock_takes_their_place_and_says_what_is_lost() -> None:
    require("landlock")
    report = found_where(AS_A_CONTAINER)
    assert report["kind"] == "landlock"
    assert "temporary files fail" in report["isolation"]
    assert report["self_test"]["write to its own /tmp"] == "PermissionError"


def test_without_any_of_them_each_is_named_with_what_to_do() -> None:
    report = found_where((*AS_A_CONTAINER, *NO_LANDLOCK))
    assert not report["available"]
    assert all(
        f"{kind}: " in report["missing"] for kind in ("bubblewrap", "namespaces", "landlock")
    )
    assert "making namespaces: Operation not permitted" in report["missing"]
    assert "has no Landlock" in report["missing"] or "closed to them" in report["missing"]
    assert "user.max_user_namespaces" in report["remedy"]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user's programs are not root in any case"
)
def test_root_that_cannot_change_the_user_executes_nothing() -> None:
    report = found_where(powerless=True)
    assert not report["available"]
    assert "programs would be root" in report["missing"]
    assert "ordinary user" in report["remedy"]


def test_landlock_that_shows_everything_is_refused() -> None:
    require("landlock")
    jail = find_jail("landlock")
    assert jail.landlock_rules is not None
    jail.landlock_rules["read"] = ["/"]
    with (
        Worker(jail, seccomp_programs(namespaces=False)) as worker,
        pytest.raises(SandboxUnavailable, match="read a file outside: worked"),
    ):
        self_test(worker, jail)


@pytest.mark.parametrize("num_workers", [1, 2, 7, 605, 900])
def test_no_two_workers_share_a_user(num_workers: int) -> None:
    """As long as there are as many: 605 without the judges'."""
    of_workers = [
        set(uids_for_worker(worker, num_workers)) for worker in range(min(num_workers, 605))
    ]
    assert all(of_workers)
    assert sum(map(len, of_workers)) == len(set().union(*of_workers)) == 605
    assert uids_for_worker(899, 900)


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
def test_a_process_with_more_open_files_than_select_can_count_has_a_sandbox(
    sandbox_kind: SandboxKind,
) -> None:
    look = "import os\nopen_files = []\nfor fd in range(4, 2048):\n    try: os.fstat(fd); open_files.append(fd)\n"
    with open_sandbox(workers=1, kind=sandbox_kind) as sandbox:
        assert sandbox.test([TRIAL], ResourceLimits(1))[0].passed
        assert (
            sandbox.last_prints(
                [f"{look}    except OSError: pass\nprint(open_files)"], ResourceLimits(1)
            )[0].value
            == []
        )


def test_a_program_that_could_not_be_handed_over_is_not_waited_for(
    sandbox_kind: SandboxKind,
) -> None:
    """The server has been asked, the judge cannot be: with these limits the wait would be two hours."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.shutdown(socket.SHUT_WR)
    with ours, theirs, Worker(find_jail(sandbox_kind), seccomp_programs()) as worker:
        assert worker.run(Job(TRIAL, ResourceLimits(1), "split")) == Verdict("passed")
        worker._test_runners.close()
        worker._test_runners = ours
        assert worker.run(Job(TRIAL, ResourceLimits(2_400), "split")) == Verdict("passed")
