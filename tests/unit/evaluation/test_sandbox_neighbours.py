"""Effects of programs on other programs and on the launcher: resources, remains, memory."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from fixtures.function_tests import RETURNS_ONE

from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.sandbox import (
    ExecutionMode,
    FunctionTest,
    ResourceLimits,
    Sandbox,
    Verdict,
)
from components.evaluation.sandbox.backends import find_jail
from components.evaluation.sandbox.job import Job
from components.evaluation.sandbox.system_calls import compile_seccomp_filters
from components.evaluation.sandbox.worker import Worker

LIMITS = ResourceLimits(cpu_s=1, memory_mib=512)
HONEST = [problem.canonical_test() for problem in load_humaneval()]

GREEDY = {
    "loop": "while True: pass",
    "loop that swallows its end": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "loop in C": "sum(iter(int, 1))",
    "one long power": "10 ** 10 ** 10",
    "a backtracking expression": "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory, mapped": "import mmap\nx = [mmap.mmap(-1, 1 << 30) for _ in range(99)]",
    "recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    "output": "import sys\nwhile True: sys.stdout.write('x' * 10 ** 6)",
    "output to the channel": "import os\nwhile True: os.write(3, bytes(9999))",
    "disk": "i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))",
    "empty files": "i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'wb').close()",
    "folders in folders": "import os\nwhile True:\n    os.mkdir('/tmp/d')\n    os.chdir('/tmp/d')",
    "open files": "x = []\nwhile True: x.append(open('/dev/null'))",
    "pipes, filled": (
        "import os\nx = []\nwhile True:\n    x.append(os.pipe())\n"
        "    os.write(x[-1][1], bytes(1 << 16))"
    ),
    "sockets, filled": (
        "import socket\nx = []\nwhile True:\n    x.append(socket.socketpair())\n"
        "    x[-1][0].setblocking(False)\n    try:\n"
        "        while True: x[-1][0].send(bytes(1 << 16))\n    except BlockingIOError: pass"
    ),
    "shared memory": (
        "import itertools\nfor i in itertools.count():\n"
        "    open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 20))"
    ),
    "signals to itself": "import os\nfor number in range(1, 65): os.kill(os.getpid(), number)",
    "threads": (
        "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()"
    ),
    "forks": "import os\nwhile True: os.fork()",
    "kills": (
        "import os\nfor pid in range(-1, 999): \n    try: os.kill(pid, 9)\n    except OSError: pass"
    ),
    "thread signals": (
        "import ctypes\nfor pid in range(1, 999): ctypes.CDLL(None).syscall(234, pid, pid, 9)"
    ),
    "stop": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "no signals": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"
    ),
    "a long name": "raise type('A' * 10 ** 7, (Exception,), {})",
    "a deep answer": "x = []\nfor _ in range(10 ** 6): x = [x]\nprint(x)",
    "a wide answer": "print(list(range(10 ** 7)))",
    "an answer that prints itself for ever": (
        "class A:\n    def __str__(self):\n        while True: pass\nprint(A())"
    ),
    "an endless iterator": "import itertools\nprint(itertools.count())",
    "colliding keys": "print({(2 ** 61 - 1) * i for i in range(20_000)})",
    "the channel, closed": "import os\nos.closerange(0, 256)",
    "a hook for the end": "import atexit, time\natexit.register(time.sleep, 10 ** 6)",
    "its own limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10 ** 6, 10 ** 6))\n"
        "while True: pass"
    ),
}  # fmt: skip


@pytest.mark.process_heavy
def test_greedy_completions_do_not_affect_other_programs(every_sandbox: Sandbox) -> None:
    """A greedy completion after every five honest completions."""
    programs = []
    for number, code in enumerate(GREEDY.values()):
        programs += HONEST[5 * number : 5 * number + 5]
        body = "".join(f"    {line}\n" for line in code.splitlines())
        programs.append(
            RETURNS_ONE._replace(completion="    return 2\n" + f"def run():\n{body}\nrun()\n")
        )
    verdicts = [verdict.passed for verdict in every_sandbox.run_tests(programs, LIMITS)]
    assert verdicts == [program in HONEST for program in programs]


@pytest.mark.process_heavy
def test_greedy_sources_do_not_affect_other_programs(every_sandbox: Sandbox) -> None:
    """The same as MTPB programs, between programs that print 1."""
    sources = [source for code in GREEDY.values() for source in (code, "print(1)")]
    printed = every_sandbox.last_printed_values(sources, LIMITS)
    assert [value.value for value in printed[1::2]] == [1] * len(GREEDY)


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_every_program_gets_its_verdict(every_sandbox: Sandbox, mode: ExecutionMode) -> None:
    """Programs of all verdicts and of two servers in an irregular order; the next waits in the
    jail.
    """
    cases = [
        (RETURNS_ONE, "passed"),
        (RETURNS_ONE._replace(completion="    return 2\n"), "wrong_answer"),
        (RETURNS_ONE._replace(completion="    return (\n"), "syntax_error"),
        (RETURNS_ONE._replace(completion="    import os; os._exit(0)\n"), "exited"),
        (
            RETURNS_ONE._replace(
                prompt="import numpy\n" + RETURNS_ONE.prompt,
                completion="    return numpy.int64(1)\n",
            ),
            "passed",
        ),
        (
            RETURNS_ONE._replace(
                prompt="import numpy\n" + RETURNS_ONE.prompt,
                completion="    return numpy.int64(2)\n",
            ),
            "wrong_answer",
        ),
        (RETURNS_ONE._replace(completion="    return nowhere\n"), "exception"),
    ]
    programs = [cases[number * number * 5 % 11 % len(cases)] for number in range(300)]
    verdicts = every_sandbox.run_tests(
        [program for program, _ in programs], ResourceLimits(2), mode
    )
    assert [verdict.kind for verdict in verdicts] == [kind for _, kind in programs]


MARK = "".join(("left ", "by the ", "first"))
REMAINS = {
    "a file": "open('/tmp/note', 'w').write(MARK)",
    "a file in a folder": "os.makedirs('/tmp/a/b'); open('/tmp/a/b/c', 'w').write(MARK)",
    "a hidden file": "open('/tmp/.note', 'w').write(MARK)",
    "a link": "os.symlink(MARK, '/tmp/link')",
    "the folder's mode": "os.chmod('/tmp', 0o700)",
    "the folder, closed": "os.chmod('/tmp', 0)",
    "the folder's time": "os.utime('/tmp', (1, 1))",
    "names of files": "for i in range(2000): open(f'/tmp/{i} {MARK}', 'w').close()",
    "a file that was removed": "open('/tmp/note', 'w').close(); os.remove('/tmp/note')",
    "a module": "import math; math.note = MARK",
    "a builtin": "import builtins; builtins.note = MARK",
    "an environment variable": "os.environ['NOTE'] = MARK; os.putenv('NOTE', MARK)",
    "a file's mask": "os.umask(0)",
    "a file in the code": "import jailed; open(jailed.__path__[0] + '/note.py', 'w').write(MARK)",
    "a lock": "import fcntl, jailed; fcntl.flock(open(jailed.__file__), fcntl.LOCK_EX)",
    "memory": "x = [MARK + str(i) for i in range(100_000)]",
    "shared memory": "open('/dev/shm/note', 'w').write(MARK)",
    "a named pipe": "os.mkfifo('/tmp/pipe')",
    "a message in a socket": "import socket; socket.socketpair()[0].send(MARK.encode())",
}
SEARCH = """
import builtins, ctypes, fcntl, gc, jailed, math, os, re, stat
found = [name for name in ("note",) if hasattr(math, name) or hasattr(builtins, name)]
try: found += os.listdir("/tmp")
except PermissionError: pass  # no program can write to it
found += [name for name in ("NOTE",) if name in os.environ or ctypes.CDLL(None).getenv(b"NOTE")]
state = os.stat("/tmp")
if stat.S_IMODE(state.st_mode) != 0o1777 or state.st_mtime < 1e9: found.append("folder")
mask = os.umask(0)
if mask == 0: found.append("mask")
fcntl.flock(open(jailed.__file__), fcntl.LOCK_EX | fcntl.LOCK_NB)
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
end, (reader, writer) = libc.sbrk(0), os.pipe()
pages = set(range(end - (32 << 20), end, 4096))
for arena in {id(item) >> 20 for item in gc.get_objects()}:
    pages.update(range(arena << 20, arena + 1 << 20, 4096))
mark = re.compile(b"left [b]y the first")  # the search writes no copy of the mark to memory
for page in pages:
    if libc.write(writer, ctypes.c_void_p(page), 4096) == 4096:
        if mark.search(os.read(reader, 4096)):
            found.append("memory")
            break
print(found)
"""


def test_remains_of_a_program_are_not_visible_to_the_next(single_jail: Sandbox) -> None:
    for name, write in REMAINS.items():
        first = (
            f"import os\nMARK = {MARK!r}\ntry:\n    {write}\nexcept OSError: pass\n"
            "print(os.getpid())"
        )
        pid, remains = (
            value.value for value in single_jail.last_printed_values([first, SEARCH], LIMITS)
        )
        assert (pid == 1) is not bool(
            single_jail.report.restriction
        )  # the first process of a namespace
        assert remains == [], name


@pytest.mark.usefixtures("sandbox")
def test_remains_of_a_test_do_not_affect_the_next() -> None:
    """Values and threads of a test, which share a process with the next test."""
    tests = {
        "large values": (
            "kept = []\ndef check(candidate):\n    for _ in range(150): kept.append(candidate())\n"
        ),
        "much memory": (
            "def check(candidate):\n    assert len(bytes(400 << 20)) > len(candidate())\n"
        ),
        "a thread": (
            "import threading\ndef check(candidate):\n"
            "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        ),
        "no thread": (
            "import threading\ndef check(candidate):\n    assert threading.active_count() == 1\n"
        ),
    }
    with Worker(find_jail(), compile_seccomp_filters()) as worker:
        for name, test in tests.items():
            program = FunctionTest("def f():\n", "    return 'x' * 1_000_000\n", test, "f")
            limits = ResourceLimits(cpu_s=5, memory_mib=512)
            assert (name, worker.run(Job(program, limits, "split"))) == (name, Verdict("passed"))


def _growth(sandbox: Sandbox, num_programs: int) -> float:
    """Return the growth of this process in MB over the second half of the programs."""
    batch = [
        program._replace(completion=f"{program.completion}# {number}\n")
        for number, program in enumerate(HONEST)
    ]
    batch += [RETURNS_ONE._replace(completion="    return 'x' * 500_000\n")] * 36
    sizes = []
    for _ in range(num_programs // len(batch)):
        sandbox.run_tests(batch, LIMITS, "fast")
        sizes.append(psutil.Process(os.getpid()).memory_info().rss / 1e6)
    return sizes[-1] - sizes[len(sizes) // 2]


def test_memory_does_not_grow(sandbox: Sandbox) -> None:
    assert _growth(sandbox, 1_200) < 2


@pytest.mark.process_heavy
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_over_twenty_thousand_programs(sandbox: Sandbox) -> None:
    assert _growth(sandbox, 20_000) < 2


def test_no_temporary_file_remains(
    every_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    every_sandbox.run_tests(HONEST[:4], LIMITS)
    assert list(tmp_path.iterdir()) == []
