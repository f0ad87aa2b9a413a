"""The self-test of a jail: honest programs must pass and attempts to escape must fail.

Each attempt reports its outcome and the expected exception is checked by name. Otherwise a jail in
which nothing works would look safe: its attacks would fail because the standard library is missing.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from components.core.errors import EvaluationError, SandboxUnavailableError
from components.evaluation.sandbox.jail import Jail
from components.evaluation.sandbox.job import (
    ExecutionMode,
    FunctionTest,
    Job,
    PrintedValue,
    ResourceLimits,
    Verdict,
)
from components.evaluation.sandbox.worker import Worker

_LIMITS = ResourceLimits(cpu_s=1, memory_mib=512)
_HONEST = FunctionTest(
    prompt="from typing import List\n\ndef total(numbers: List[int]) -> int:\n    '''The sum.'''\n",
    completion="    return sum(numbers)\n",
    test=(
        "def check(candidate):\n"
        "    assert candidate([1, 2, 3]) == 6\n"
        "    assert candidate([]) == 0\n"
    ),
    entry_point="total",
)
_ATTEMPTS = """
import os, socket, jailed

def outcome(attempt):
    try:
        return "worked: " + repr(attempt())[:40]
    except BaseException as error:
        return type(error).__name__

def write_file(path):
    with open(path, "w") as file:
        return file.write("x")

print([
    outcome(lambda: open(CANARY).read()),
    outcome(lambda: write_file(os.path.dirname(CANARY) + "/new")),
    outcome(lambda: os.chmod(CANARY, 0o600)),
    outcome(lambda: os.listdir(os.path.dirname(CANARY))),
    outcome(lambda: write_file(os.path.dirname(jailed.__file__) + "/new")),
    outcome(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1)),
    outcome(os.fork),
    outcome(lambda: os.execv("/bin/true", ["true"])),
    outcome(lambda: os.kill(os.getppid() or 2, 0)),
    outcome(lambda: os.listdir("/proc")),
    outcome(lambda: bytearray(2 * MEMORY)),
    outcome(lambda: sorted(os.environ.keys() & {"PATH", "USER"})),
    outcome(lambda: __import__("colorsys").__name__),
    outcome(lambda: write_file("/tmp/new")),
])
"""
_WRITE_SCRATCH = "write to its own /tmp"
_EXPECTED = {
    "read a file outside": ("FileNotFoundError", "PermissionError"),
    "write a file outside": ("FileNotFoundError", "PermissionError"),
    "change a file outside": ("FileNotFoundError", "PermissionError"),
    "list a folder outside": ("FileNotFoundError", "PermissionError"),
    "write to a read-only folder": ("OSError", "PermissionError"),
    "connect to a listener": ("PermissionError",),
    "start a process": ("PermissionError",),
    "execute another program": ("PermissionError",),
    "signal another process": ("PermissionError",),
    "list processes": ("FileNotFoundError", "PermissionError"),
    "allocate twice the memory": ("MemoryError",),
    "read the environment": ("worked: []",),
    "import a module": ("worked: 'colorsys'",),
    _WRITE_SCRATCH: ("worked: 1",),
}
"""The allowed outcomes of each attempt, in order; the last applies if programs have a writable
folder."""

_COMPLETIONS = {
    "an honest program": ("    return sum(numbers)\n", "passed"),
    "a wrong program": ("    return 6\n", "wrong_answer"),
    "an early exit": ("    import os; os._exit(0)\n", "exited"),
    "an endless loop": ("    while True: pass\n", "time_out"),
}
_MODES: tuple[ExecutionMode, ...] = ("split", "fast")

_Check = tuple[str, tuple[str, ...]]
"""The outcome of a check, and the allowed outcomes."""


def self_test(worker: Worker, jail: Jail) -> dict[str, str]:
    """Return the outcome of each check by name.

    Without isolation the attempts to escape are skipped.

    Raises:
        SandboxUnavailableError: a check has a wrong outcome.
    """
    try:
        checks = _check_completions(worker)
        if jail.isolated:
            checks |= _check_attempts(worker, jail)
    except EvaluationError as error:
        raise _failed(jail.description, error.got, error.expected) from error
    for name, (outcome, allowed) in checks.items():
        if outcome not in allowed:
            raise _failed(jail.description, f"{name}: {outcome}", " or ".join(allowed))
    return {name: outcome for name, (outcome, _) in checks.items()}


def _failed(description: str, got: str, expected: str) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"the self-test of the jail ({description}) failed: {got}",
        expected=expected,
        fix="run `codegen doctor`; no generated code is executed on this machine until its checks "
        "pass",
    )


def _check_completions(worker: Worker) -> dict[str, _Check]:
    """Run programs with a known verdict in both modes."""
    checks: dict[str, _Check] = {}
    for name, (completion, expected) in _COMPLETIONS.items():
        program = _HONEST._replace(completion=completion)
        kinds = {_verdict_kind(worker, Job(program, _LIMITS, mode)) for mode in _MODES}
        checks[name] = (" and ".join(sorted(kinds)), (expected,))
    return checks


def _verdict_kind(worker: Worker, job: Job) -> str:
    outcome = worker.run(job)
    return outcome.kind if isinstance(outcome, Verdict) else outcome.exit_verdict.kind


def _check_attempts(worker: Worker, jail: Jail) -> dict[str, _Check]:
    """Run attempts to escape from the jail, which report their outcomes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        canary = Path(folder) / "canary"
        canary.write_text("a secret")
        # Every user may read and write it: only the jail prevents access.
        Path(folder).chmod(0o777)
        canary.chmod(0o666)
        port, memory = listener.getsockname()[1], _LIMITS.memory_mib << 20
        source = f"CANARY, PORT, MEMORY = {str(canary)!r}, {port}, {memory}\n{_ATTEMPTS}"
        printed = worker.run(Job(source, _LIMITS, "split"))
    expected = dict(_EXPECTED)
    if not jail.namespaces:
        expected[_WRITE_SCRATCH] = ("PermissionError",)
    value = printed.value if isinstance(printed, PrintedValue) else None
    if not isinstance(value, list) or len(value) != len(expected):
        value = ["no report"] * len(expected)
    return {
        name: (str(outcome), allowed)
        for (name, allowed), outcome in zip(expected.items(), value, strict=True)
    }
