"""Does the jail hold, here and now? Honest programs must pass and wrong ones fail; what a jail is for must not work.

One decision: every attempt tells what came of it, and the expected refusal is checked by name. A jail in which nothing
works at all would otherwise look safe: its attacks would "fail" for want of a standard library.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

from components.core.errors import SandboxUnavailable
from components.evaluation.sandbox.execution import Runner, Trial
from components.evaluation.sandbox.limits import Limits

_LIMITS = Limits(cpu_s=1, memory_mib=512)
_HONEST = Trial(
    prompt="from typing import List\n\ndef total(numbers: List[int]) -> int:\n    '''The sum.'''\n",
    completion="    return sum(numbers)\n",
    test="def check(candidate):\n    assert candidate([1, 2, 3]) == 6\n    assert candidate([]) == 0\n",
    entry_point="total",
)
_ATTEMPTS = """
import os, socket

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
    outcome(lambda: leave_a_file("/jail/jailed")),
    outcome(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1)),
    outcome(os.fork),
    outcome(lambda: os.execv("/bin/true", ["true"])),
    outcome(lambda: os.kill(1, 9)),
    outcome(lambda: os.listdir("/proc")),
    outcome(lambda: bytearray(2 * MEMORY)),
    outcome(lambda: sorted(os.environ.keys() & {"PATH", "USER"})),
    outcome(keep_a_file),
])
"""
_EXPECTED = {
    "read a file outside": ("FileNotFoundError", "PermissionError"),
    "write a file outside": ("FileNotFoundError", "PermissionError"),
    "write to what it is shown": ("OSError", "PermissionError"),
    "connect to a listener": ("PermissionError",),
    "start a process": ("PermissionError",),
    "become another program": ("PermissionError",),
    "end the first process": ("PermissionError",),
    "look into processes": ("FileNotFoundError",),
    "allocate twice the memory": ("MemoryError",),
    "read the environment": ("worked: []",),
    "write to its own /tmp": ("worked: 1",),
}


def self_test(runner: Runner) -> dict[str, str]:
    """What came of each check, by name.

    Raises:
        SandboxUnavailable: one of them did not end as it must.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {
        "an honest program": (runner.test(_HONEST, _LIMITS).kind, ("passed",)),
        "a wrong program": (runner.test(_HONEST._replace(completion="    return 6\n"), _LIMITS).kind, ("wrong_answer",)),
        "an early exit": (
            runner.test(_HONEST._replace(completion="    import os; os._exit(0)\n"), _LIMITS).kind,
            ("exited",),
        ),
        "an endless loop": (runner.test(_HONEST._replace(completion="    while True: pass\n"), _LIMITS).kind, ("time_out",)),
    }
    outcomes = _attempts(runner)
    for index, (name, expected) in enumerate(_EXPECTED.items()):
        found[name] = (str(outcomes[index]) if len(outcomes) == len(_EXPECTED) else "no report", expected)
    for name, (outcome, expected) in found.items():
        if outcome not in expected:
            raise SandboxUnavailable(
                f"the self-test of the jail ({runner.jail.description}) failed: {name}: {outcome}",
                expected=" or ".join(expected),
                do="run `codegen doctor`; until it is content, nothing that a model wrote is executed on this machine",
            )
    return {name: outcome for name, (outcome, _) in found.items()}


def _attempts(runner: Runner) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        canary = Path(folder) / "canary"
        canary.write_text("a secret")
        names = f"CANARY, PORT, MEMORY = {str(canary)!r}, {listener.getsockname()[1]}, {_LIMITS.memory_mib << 20}\n"
        value = runner.last_print(names + _ATTEMPTS, _LIMITS).value
    return value if isinstance(value, list) else []
