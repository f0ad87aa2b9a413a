"""Attacks of programs on the machine, run in real jails.

Every attack reports its outcome, so that a jail in which nothing works does not look safe.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.evaluation.sandbox import NOTHING_PRINTED, FunctionTest, ResourceLimits, Sandbox
from components.evaluation.sandbox.filesystem_view import interpreter_view

LIMITS = ResourceLimits(cpu_s=1, memory_mib=512)


def has_namespaces(sandbox: Sandbox) -> bool:
    return sandbox.report.kind != "landlock"


TASK = FunctionTest(
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
        ("    return 'x' * 3_000_000\n", "needs_fast_mode", "message.length"),
        ("    return 2\ndel double\n", "exception", "NameError"),
        ("    import ctypes; ctypes.string_at(0)\n", "exited", ""),
        ("    import os; os.abort()\n", "exited", ""),
        ("    raise type('A' * 500 + chr(27), (Exception,), {})\n", "exception", "A" * 80),
        ("    raise type('A' * 50_000, (Exception,), {})\n", "exception", "A" * 80),
    ],
)
def test_failures_have_different_classes(
    every_sandbox: Sandbox, completion: str, kind: str, type_name: str
) -> None:
    (verdict,) = every_sandbox.run_tests([TASK._replace(completion=completion)], LIMITS)
    assert verdict == (kind, type_name)


ATTEMPTS = {
    "fork": "os.fork()",
    "fork by posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "run a command": "__import__('subprocess').run(['true'])",
    "another program": "os.execv('/bin/true', ['true'])",
    "kill the parent": "os.kill(os.getppid() or 2, 9)",
    "kill its group": "os.kill(0, 9)",
    "kill everything": "os.kill(-1, 9)",
    "connect outside": "__import__('socket').create_connection(('127.0.0.1', PORT), 1)",
    "any socket": "__import__('socket').socket()",
    "read a file outside": "open(CANARY).read()",
    "write a file outside": "open(CANARY, 'w').write('x')",
    "write beside the code": "open(__import__('jailed').__path__[0] + '/x', 'w')",
    "change its mode": "os.chmod(CANARY, 0o600)",
    "change its times": "os.utime(CANARY, (1, 1))",
    "shorten it": "os.truncate(CANARY, 0)",
    "rename it": "os.rename(CANARY, CANARY + '2')",
    "remove it": "os.unlink(CANARY)",
    "link to it": "os.link(CANARY, CANARY + '2')",
    "an attribute of it": "os.setxattr(CANARY, 'user.x', b'x')",
    "list a folder outside": "os.listdir(os.path.dirname(CANARY))",
    "make a folder outside": "os.mkdir(CANARY + '2')",
    "look into its own process": "open('/proc/self/environ').read()",
    "write in the root": "open('/x', 'w')",
    "change the code": "open(__import__('jailed').__file__, 'a')",
    "read passwords": "open('/etc/shadow').read()",
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


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can write to: only the sandbox prevents access."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_every_attempt_to_leave_the_jail_is_refused(
    every_sandbox: Sandbox, open_folder: Path
) -> None:
    canary = open_folder / "canary"
    canary.write_text("untouched")
    canary.chmod(0o666)
    before = canary.stat()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        source = f"CANARY, PORT = {str(canary)!r}, {listener.getsockname()[1]}\n" + (
            "import ctypes, os, resource, signal\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "def check(result):\n"
            "    if result < 0: raise OSError(ctypes.get_errno(), '')\n"
            "    return result\n"
            "outcomes = {}\n"
        )
        for name, code in ATTEMPTS.items():
            source += f"try:\n    outcomes[{name!r}] = 'worked: ' + repr({code})[:80]\n"
            source += (
                f"except (OSError, ValueError) as error:\n    outcomes[{name!r}] = 'refused'\n"
            )
        printed = every_sandbox.last_printed_values(
            [source + "print(list(outcomes.items()))"], LIMITS
        )[0]
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert printed.exit_verdict.passed
    assert dict(printed.value) == dict.fromkeys(ATTEMPTS, "refused")
    assert canary.read_text() == "untouched"
    assert canary.stat()[:-3] == before[:-3]  # except the access time
    assert list(open_folder.iterdir()) == [canary]


def test_no_other_process_can_be_signalled(every_sandbox: Sandbox) -> None:
    """Neither by pid, nor by a file that signals its owner when it is readable."""
    source = """
import ctypes, fcntl, os
libc = ctypes.CDLL(None, use_errno=True)
parent, (reader, writer), outcomes = os.getppid(), os.pipe(), []
for attempt in (
    lambda: fcntl.fcntl(reader, fcntl.F_SETOWN, parent),
    lambda: fcntl.fcntl(reader, 15, (ctypes.c_int * 2)(1, parent)),
    lambda: fcntl.fcntl(reader, 10, 9),
    lambda: os.kill(parent, 9),
    lambda: 1 / (libc.syscall(234, parent, parent, 9) + 1),
):
    try: outcomes.append(str(attempt()))
    except (PermissionError, ZeroDivisionError): outcomes.append("refused")
print(outcomes)
"""
    assert every_sandbox.last_printed_values([source], LIMITS)[0].value == ["refused"] * 5


def test_programs_have_no_privileges(every_sandbox: Sandbox) -> None:
    source = (
        "import os\nprint([os.getresuid(), os.getresgid(), os.getgroups(), sorted(os.environ)])"
    )
    users, groups, more_groups, environment = every_sandbox.last_printed_values([source], LIMITS)[
        0
    ].value
    assert len(set(users + groups)) == 1
    assert users[0] != 0
    # 65534: unmapped in a user namespace. Without namespaces an ordinary user keeps the groups.
    assert set(more_groups) <= (
        {65534} if has_namespaces(every_sandbox) or os.geteuid() == 0 else set(os.getgroups())
    )
    assert {"PATH", "USER", "CODEGEN_MTPB"}.isdisjoint(environment)


def test_folders_show_only_listed_files(every_sandbox: Sandbox) -> None:
    source = """
import os
def names(folder):
    try: return sorted(os.listdir(folder))
    except PermissionError: return None
print([names("/"), names("/dev"), names("/tmp"), names("/etc")])
"""
    root, devices, scratch, accounts = every_sandbox.last_printed_values([source], LIMITS)[0].value
    if not has_namespaces(every_sandbox):
        assert (root, devices, scratch, accounts) == (None, None, None, None)
        return
    parents_of_python = {target.parts[1] for _, target in interpreter_view().mounts}
    assert {"proc", "sys", "home", "var", "run"}.isdisjoint(set(root) - parents_of_python)
    assert devices == ["full", "null", "random", "shm", "urandom", "zero"]
    assert scratch == []
    assert accounts == ["group", "passwd"]


def test_a_program_sees_the_name_of_its_own_user_only(every_sandbox: Sandbox) -> None:
    source = """
import grp, os, pwd
def outcome(attempt):
    try: return attempt()
    except OSError as error: return type(error).__name__
print([
    [account.pw_name for account in pwd.getpwall()],
    [group.gr_name for group in grp.getgrall()],
    outcome(lambda: open("/etc/passwd", "a")),
    outcome(lambda: os.remove("/etc/passwd")),
    outcome(lambda: open("/etc/new", "w")),
])
"""
    users, groups, *changes = every_sandbox.last_printed_values([source], LIMITS)[0].value
    assert users == groups == (["program"] if has_namespaces(every_sandbox) else [])
    assert set(changes) <= {"OSError", "PermissionError"}


def test_the_number_of_threads_is_limited(every_sandbox: Sandbox) -> None:
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
    limits = LIMITS._replace(memory_mib=4096)  # the memory would allow 500
    (printed,) = every_sandbox.last_printed_values([source], limits)
    # Without a user (namespace) of its own, only stacks of 8 MB limit a program's threads.
    assert printed.value < (129 if has_namespaces(every_sandbox) or os.geteuid() == 0 else 513)


def test_a_program_can_write_files_or_the_report_states_that_it_cannot(
    every_sandbox: Sandbox,
) -> None:
    source = "import tempfile\nwith tempfile.TemporaryFile() as file: print(file.write(b'12'))"
    printed = every_sandbox.last_printed_values([source], LIMITS)[0]
    report = every_sandbox.report
    assert printed.exit_verdict.passed is has_namespaces(every_sandbox)
    assert ("temporary files fail" in report.isolation) is not printed.exit_verdict.passed
    assert report.protocol_fields == (
        {} if printed.exit_verdict.passed else {"isolation": "landlock"}
    )


def test_files_of_a_program_are_removed_before_the_next(every_sandbox: Sandbox) -> None:
    if not has_namespaces(every_sandbox):
        pytest.skip("programs cannot write files")
    write = "import os\nopen('/tmp/note', 'w').write('x')\nprint(os.listdir('/tmp'))"
    read = "import os\nprint(os.listdir('/tmp'))"
    first, second = (
        every_sandbox.last_printed_values([source], LIMITS)[0] for source in (write, read)
    )
    assert "note" in first.value
    assert "note" not in second.value


@pytest.mark.parametrize(
    "end",
    [
        "while True: pass",
        "import os; os._exit(0)",
        "raise ValueError",
        "import sys; sys.exit(3)",
        "1 / 0",
    ],
)
def test_a_printed_value_survives_every_end_but_an_immediate_exit(
    every_sandbox: Sandbox, end: str
) -> None:
    printed = every_sandbox.last_printed_values([f"print(5)\n{end}"], LIMITS)[0]
    assert (printed.value is NOTHING_PRINTED) == ("_exit" in end)  # it ends without a report


def test_huge_output_is_discarded(every_sandbox: Sandbox) -> None:
    printed = every_sandbox.last_printed_values(["while True: print('x' * 1_000_000)"], LIMITS)[0]
    assert printed.exit_verdict.kind == "time_out"


def test_a_value_longer_than_a_frame_is_dropped(every_sandbox: Sandbox) -> None:
    printed = every_sandbox.last_printed_values(["print('x' * 3_000_000)"], LIMITS)[0]
    assert str(printed.value) == ""
    assert printed.exit_verdict.passed


def test_a_forged_report_of_a_print_is_rejected(every_sandbox: Sandbox) -> None:
    forged = """
import json, os
array = {"t": "array", "dtype": "U99999999", "shape": [1], "v": ["a"]}
body = json.dumps({"failure": None, "printed": 1, "value": array})
for fd in range(3, 4096):
    try:
        os.write(fd, len(body).to_bytes(4, "big") + body.encode())
    except OSError:
        pass
"""
    printed = every_sandbox.last_printed_values([forged], LIMITS)[0]
    assert printed.value is NOTHING_PRINTED
    assert printed.exit_verdict.kind == "exited"
