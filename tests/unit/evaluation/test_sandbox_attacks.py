"""Programs that want a verdict they have not earned, or more than a verdict. All run in real jails.

Every attack that should be refused tells what came of it, so that a jail in which nothing works does not look safe.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from components.evaluation.sandbox import NOTHING_PRINTED, Limits, Sandbox, Trial

LIMITS = Limits(cpu_s=1, memory_mib=512)
TASK = Trial(
    prompt="def double(x):\n    '''Twice x.'''\n",
    completion="",
    test="def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n",
    entry_point="double",
)


@pytest.mark.parametrize(
    ("completion", "kind", "type_name"),
    [
        ("    return y\n", "exception", "NameError"),
        ("    return x + None\n", "exception", "TypeError"),
        ("    return double(x)\n", "exception", "RecursionError"),
        ("    return [x] * 10**10\n", "memory", "MemoryError"),
        ("    return bytes(10**9)\n", "memory", "MemoryError"),
        ("    while True: pass\n", "time_out", ""),
        ("    return 'x' * 3_000_000\n", "wrong_answer", "AssertionError"),
        ("    return 2\ndel double\n", "exception", "NameError"),
        ("    import ctypes; ctypes.string_at(0)\n", "exited", ""),
        ("    import os; os.abort()\n", "exited", ""),
        ("    raise type('A' * 500 + chr(27), (Exception,), {})\n", "exception", "A" * 80),
        ("    raise type('A' * 50_000, (Exception,), {})\n", "exception", "A" * 80),
    ],
)
def test_failures_are_told_apart(sandbox: Sandbox, completion: str, kind: str, type_name: str) -> None:
    (verdict,) = sandbox.test([TASK._replace(completion=completion)], LIMITS)
    assert verdict == (kind, type_name)


ATTEMPTS = {
    "fork": "os.fork()",
    "fork by posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "run a command": "__import__('subprocess').run(['true'])",
    "another program": "os.execv('/bin/true', ['true'])",
    "kill the first process": "os.kill(1, 9)",
    "kill everything": "os.kill(-1, 9)",
    "connect outside": "__import__('socket').create_connection(('127.0.0.1', PORT), 1)",
    "any socket": "__import__('socket').socket()",
    "read a file outside": "open(CANARY).read()",
    "write a file outside": "open(CANARY, 'w').write('x')",
    "write beside the code": "open('/jail/jailed/x', 'w')",
    "write in the root": "open('/x', 'w')",
    "change the code": "open(__import__('jailed').__file__, 'a')",
    "read passwords": "open('/etc/passwd').read()",
    "list processes": "os.listdir('/proc')",
    "raise its own limit": "__import__('resource').setrlimit(7, (4096, 4096))",
    "become root": "os.setuid(0)",
    "change root": "os.chroot('/tmp')",
    "mount": "check(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "a namespace of its own": "check(libc.unshare(0x10000000))",
    "trace": "check(libc.ptrace(0, 0, 0, 0))",
    "keys": "check(libc.syscall(250, 0, 0, 0))",
    "a file in memory": "os.memfd_create('x')",
    "fill the disk": "[open(f'/tmp/{i}', 'wb').write(bytes(1 << 20)) for i in range(64)]",
    "too many files": "[open(f'/tmp/e{i}', 'w').close() for i in range(5000)]",
    "a file that is too long": "open('/tmp/long', 'wb').write(bytes(20 << 20))",
    "a device": "os.mknod('/tmp/disk', 0o60666, os.makedev(8, 0))",
}


def test_the_jail_gives_nothing_away(sandbox: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        source = f"CANARY, PORT = {str(canary)!r}, {listener.getsockname()[1]}\n" + (
            "import ctypes, os, resource, signal\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "def check(result):\n    if result < 0: raise OSError(ctypes.get_errno(), '')\n    return result\n"
            "outcomes = {}\n"
        )
        for name, code in ATTEMPTS.items():
            source += f"try:\n    outcomes[{name!r}] = 'worked: ' + repr({code})[:80]\n"
            source += f"except (OSError, ValueError) as error:\n    outcomes[{name!r}] = 'refused'\n"
        printed = sandbox.last_prints([source + "print(list(outcomes.items()))"], LIMITS)[0]
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert printed.end.passed
    assert dict(printed.value) == dict.fromkeys(ATTEMPTS, "refused")
    assert canary.read_text() == "untouched"
    assert list(tmp_path.iterdir()) == [canary]


def test_there_is_no_privilege_left(sandbox: Sandbox) -> None:
    source = """
import os
print([
    os.getresuid(), os.getresgid(), os.getgroups(), sorted(os.environ), sorted(os.listdir("/")), sorted(os.listdir("/dev")),
])
"""
    users, groups, more_groups, environment, root, devices = sandbox.last_prints([source], LIMITS)[0].value
    assert len(set(users + groups)) == 1
    assert users[0] != 0
    assert set(more_groups) <= {65534}  # in a user namespace, what has no name there
    assert {"PATH", "USER", "CODEGEN_MTPB"}.isdisjoint(environment)
    assert {"etc", "proc", "sys", "home", "var", "run"}.isdisjoint(root)
    assert devices == ["full", "null", "random", "urandom", "zero"]


def test_threads_are_no_fork_bomb(sandbox: Sandbox) -> None:
    source = """
import threading
gate = threading.Event()
started = 0
try:
    for _ in range(10_000):
        threading.Thread(target=gate.wait, daemon=True).start()
        started += 1
except (RuntimeError, MemoryError):
    pass
gate.set()
print(started)
"""
    printed = sandbox.last_prints([source], LIMITS._replace(memory_mib=4096))[0]  # memory alone would allow 500
    assert printed.value < 65


def test_one_program_leaves_nothing_for_the_next(sandbox: Sandbox) -> None:
    leave = "import os\nopen('/tmp/note', 'w').write('x')\nprint(os.listdir('/tmp'))"
    look = "import os\nprint(os.listdir('/tmp'))"
    first, second = (sandbox.last_prints([source], LIMITS)[0] for source in (leave, look))
    assert "note" in first.value
    assert "note" not in second.value


@pytest.mark.parametrize(
    "end", ["while True: pass", "import os; os._exit(0)", "raise ValueError", "import sys; sys.exit(3)", "1 / 0"]
)
def test_how_a_program_ends_after_its_print(sandbox: Sandbox, end: str) -> None:
    printed = sandbox.last_prints([f"print(5)\n{end}"], LIMITS)[0]
    assert (printed.value is NOTHING_PRINTED) == ("_exit" in end)  # then it has not lived to tell


def test_huge_output_goes_nowhere(sandbox: Sandbox) -> None:
    printed = sandbox.last_prints(["while True: print('x' * 1_000_000)"], LIMITS)[0]
    assert printed.end.kind == "time_out"


def test_a_value_that_is_too_long_is_no_value(sandbox: Sandbox) -> None:
    printed = sandbox.last_prints(["print('x' * 3_000_000)"], LIMITS)[0]
    assert str(printed.value) == ""
    assert printed.end.passed


def test_claims_about_a_print_are_only_data(sandbox: Sandbox) -> None:
    forged = """
import json, os
body = json.dumps({"failure": None, "printed": 1, "value": {"t": "array", "dtype": "U99999999", "shape": [1], "v": ["a"]}})
for fd in range(3, 4096):
    try:
        os.write(fd, len(body).to_bytes(4, "big") + body.encode())
    except OSError:
        pass
"""
    printed = sandbox.last_prints([forged], LIMITS)[0]
    assert printed.value is NOTHING_PRINTED
    assert printed.end.kind == "exited"
