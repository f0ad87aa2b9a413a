"""Does the jail hold, here and now? Honest programs must pass and wrong ones fail; what a jail is for must not work.

One decision: every attempt tells what came of it, and the expected refusal is checked by name. A jail in which nothing
works at all would otherwise look safe: its attacks would "fail" for want of a standard library.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from components.core.errors import EvaluationError, SandboxUnavailableError
from components.evaluation.sandbox.jail import Jail
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.verdict import PrintedValue, Verdict
from components.evaluation.sandbox.worker import FunctionTest, Job, Mode, Worker

_LIMITS = Limits(cpu_s=1, memory_mib=512)
_HONEST = FunctionTest(
    prompt="from typing import List\n\ndef total(numbers: List[int]) -> int:\n    '''The sum.'''\n",
    completion="    return sum(numbers)\n",
    test="def check(candidate):\n    assert candidate([1, 2, 3]) == 6\n    assert candidate([]) == 0\n",
    entry_point="total",
)
_ATTEMPTS = """
import os, socket, jailed

def outcome(attempt):
    try:
        return "worked: " + repr(attempt())[:40]
    except BaseException as error:
        return type(error).__name__

def leave_a_file(folder):
    with open(folder + "/left", "w") as file:
        return file.write("x")

def keep_a_file():
    with open("/tmp/kept", "w") as file:
        return file.write("x")

print([
    outcome(lambda: open(CANARY).read()),
    outcome(lambda: leave_a_file(os.path.dirname(CANARY))),
    outcome(lambda: os.chmod(CANARY, 0o600)),
    outcome(lambda: os.listdir(os.path.dirname(CANARY))),
    outcome(lambda: leave_a_file(os.path.dirname(jailed.__file__))),
    outcome(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1)),
    outcome(os.fork),
    outcome(lambda: os.execv("/bin/true", ["true"])),
    outcome(lambda: os.kill(1, 9)),
    outcome(lambda: os.listdir("/proc")),
    outcome(lambda: bytearray(2 * MEMORY)),
    outcome(lambda: sorted(os.environ.keys() & {"PATH", "USER"})),
    outcome(lambda: __import__("colorsys").__name__),
    outcome(keep_a_file),
])
"""
_EXPECTED = {
    "read a file outside": ("FileNotFoundError", "PermissionError"),
    "write a file outside": ("FileNotFoundError", "PermissionError"),
    "change a file outside": ("FileNotFoundError", "PermissionError"),
    "list a folder outside": ("FileNotFoundError", "PermissionError"),
    "write to what it is shown": ("OSError", "PermissionError"),
    "connect to a listener": ("PermissionError",),
    "start a process": ("PermissionError",),
    "become another program": ("PermissionError",),
    "end the first process": ("PermissionError",),
    "look into processes": ("FileNotFoundError", "PermissionError"),
    "allocate twice the memory": ("MemoryError",),
    "read the environment": ("worked: []",),
    "import a module": ("worked: 'colorsys'",),
    "write to its own /tmp": ("worked: 1",),
}
"""By check: what must come of it; of the last one, where programs have a folder to write to."""


_COMPLETIONS = {
    "an honest program": ("    return sum(numbers)\n", "passed"),
    "a wrong program": ("    return 6\n", "wrong_answer"),
    "an early exit": ("    import os; os._exit(0)\n", "exited"),
    "an endless loop": ("    while True: pass\n", "time_out"),
}


def self_test(worker: Worker, jail: Jail) -> dict[str, str]:
    """What came of each check, by name; without isolation, of those alone that need none.

    Raises:
        SandboxUnavailable: one of them did not end as it must.
    """
    try:
        found = _completions(worker) | (_attempts(worker, jail) if jail.isolated else {})
    except EvaluationError as error:
        raise _failed(jail.description, error.got, error.expected) from error
    for name, (outcome, allowed) in found.items():
        if outcome not in allowed:
            raise _failed(jail.description, f"{name}: {outcome}", " or ".join(allowed))
    return {name: outcome for name, (outcome, _) in found.items()}


def _failed(description: str, got: str, expected: str) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"the self-test of the jail ({description}) failed: {got}",
        expected=expected,
        fix="run `codegen doctor`; until it is content, nothing that a model wrote is executed on this machine",
    )


def _completions(worker: Worker) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What came of programs whose verdict is known, in both modes, and what must."""
    modes: tuple[Mode, ...] = ("split", "fast")
    return {
        name: (
            " and ".join(
                sorted(
                    {
                        _kind(worker, Job(_HONEST._replace(completion=code), _LIMITS, mode))
                        for mode in modes
                    }
                )
            ),
            (expected,),
        )
        for name, (code, expected) in _COMPLETIONS.items()
    }


def _kind(worker: Worker, job: Job) -> str:
    outcome = worker.run(job)
    return outcome.kind if isinstance(outcome, Verdict) else outcome.end.kind


def _attempts(worker: Worker, jail: Jail) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What came of attempts to get out of the jail, as they tell it, and what must."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        canary = Path(folder) / "canary"
        canary.write_text("a secret")
        # Open to every user: what keeps a program from it is to be the jail.
        Path(folder).chmod(0o777)
        canary.chmod(0o666)
        names = f"CANARY, PORT, MEMORY = {str(canary)!r}, {listener.getsockname()[1]}, {_LIMITS.memory_mib << 20}\n"
        printed = worker.run(Job(names + _ATTEMPTS, _LIMITS, "split"))
    value = printed.value if isinstance(printed, PrintedValue) else None
    expected = (
        _EXPECTED
        if jail.namespaces
        else _EXPECTED | {"write to its own /tmp": ("PermissionError",)}
    )
    told = (
        [str(one) for one in value]
        if isinstance(value, list) and len(value) == len(expected)
        else []
    )
    return {
        name: (outcome, allowed)
        for (name, allowed), outcome in zip(
            expected.items(), told or ["no report"] * len(expected), strict=True
        )
    }
