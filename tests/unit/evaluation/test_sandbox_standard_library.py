"""Honest programs of the standard library pass in every sandbox and in both modes."""

from __future__ import annotations

import textwrap

import pytest
from fixtures.standard_library_programs import PROGRAMS, WITH_ACCOUNT, WITH_FILES

from components.evaluation.sandbox import ExecutionMode, FunctionTest, ResourceLimits, Sandbox

LIMITS = ResourceLimits(3)


def _function_test(body: str) -> FunctionTest:
    return FunctionTest(
        "def run():\n    'Run the body.'\n",
        textwrap.indent(f"{body.strip()}\nreturn 1\n", "    "),
        "def check(candidate):\n    assert candidate() == 1\n",
        "run",
    )


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_programs_of_the_standard_library_pass(every_sandbox: Sandbox, mode: ExecutionMode) -> None:
    """Without namespaces, programs that write files or ask for the name of a user fail."""
    has_namespaces = every_sandbox.report.kind != "landlock"
    programs = PROGRAMS | WITH_FILES | WITH_ACCOUNT
    tests = [_function_test(body) for body in programs.values()]
    verdicts = every_sandbox.run_tests(tests, LIMITS, mode)
    failed = {
        name: verdict
        for name, verdict in zip(programs, verdicts, strict=True)
        if not verdict.passed and (has_namespaces or name in PROGRAMS)
    }
    assert failed == {}


def test_programs_of_the_standard_library_run_as_sources(every_sandbox: Sandbox) -> None:
    sources = [f"{body}\nprint(1)" for body in PROGRAMS.values()]
    printed = every_sandbox.last_printed_values(sources, LIMITS)
    failed = {
        name: value.exit_verdict
        for name, value in zip(PROGRAMS, printed, strict=True)
        if (value.value, value.exit_verdict.kind) != (1, "passed")
    }
    assert failed == {}


IMPOSSIBLE = {
    "a process": "import multiprocessing\nmultiprocessing.Process(target=print).start()",
    "a pool of processes": (
        "from concurrent.futures import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(1) as pool: pool.submit(int).result()"
    ),
    "a command": "import subprocess\nsubprocess.run(['true'])",
    "a socket": "import socket\nsocket.socket()",
    "a server": "import http.server\nhttp.server.HTTPServer(('127.0.0.1', 0), None)",
    "a pair of datagram sockets": "import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)",
    "open files in messages": (
        "import socket\nleft, right = socket.socketpair()\nsocket.send_fds(left, [b'x'], [0])"
    ),
    "a file in memory": "import os\nos.memfd_create('x')",
    "a lower limit": "import resource\nresource.prlimit(0, resource.RLIMIT_NOFILE, (64, 64))",
    "priorities": "import os\nos.nice(1)",
    "a processor": "import os\nos.sched_setaffinity(0, [0])",
    "an owner of a file": "import os\nos.chown('.', -1, -1)",
}


def test_programs_that_the_pages_call_impossible_fail(every_sandbox: Sandbox) -> None:
    """As docs/sandbox.md lists them; with an exception that a program can handle."""
    verdicts = every_sandbox.run_tests(
        [_function_test(body) for body in IMPOSSIBLE.values()], LIMITS
    )
    by_name = dict(zip(IMPOSSIBLE, verdicts, strict=True))
    assert by_name == dict.fromkeys(IMPOSSIBLE, ("exception", "PermissionError"))
