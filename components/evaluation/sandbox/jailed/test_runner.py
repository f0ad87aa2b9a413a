"""The process that runs the tests. It alone holds the verdict and never executes generated code.

It executes the prompt (tests may use its helper functions) and the tests, both from the benchmark,
and calls the program through proxies (`shared_objects`). Only a normal return of the tests is a
pass. Since no hostile code runs here, a process tests many programs and
compiles each test once. It restricts itself before it reads data of a candidate, and is replaced
when such data cost it its time or memory, and after `_PROGRAMS_PER_RUNNER` programs.
"""

from __future__ import annotations

import builtins
import json
import math
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from . import lockdown, shared_objects, test_source
from .candidate import seed_generators
from .value_types import is_plain

Verdict = dict[str, str]

_PROGRAMS_PER_RUNNER = 500
_MAX_RSS_KIB = 256 << 10
"""Resident memory above which a runner is replaced, since the memory that it does not return would
count against the limit of later programs (assumption; NumPy and pandas take half of it)."""
_NUMBER_BYTES = 8
_GRACE_S = 2.0
"""Seconds beyond a program's wall limit after which its tests are killed: they may wait for a call
of the program. The launcher waits 15 s."""
_MAX_NAME_CHARS = 200
"""Longest exception name in a reply, which must fit the launcher's buffer."""
_CLOSED, _RETIRED, _NOT_LOCKED, _DIED = range(4)
"""Exit status of a runner: no more requests, to be replaced, lockdown failed, or died during a
program."""


def serve(control: int, uid: int | None, encoded_filter: str | None, *, has_own_user: bool) -> None:
    """Fork test runners in succession to answer requests until `control` closes.

    A request brings two open files: the test and the channel to the candidate. A runner stores the
    number of its unanswered request in shared memory. If the kernel kills it between two requests,
    no reply is due.
    """
    unanswered = mmap.mmap(-1, _NUMBER_BYTES)
    seccomp_filter = lockdown.SeccompFilter(encoded_filter) if encoded_filter is not None else None
    while True:
        pid = os.fork()
        if pid == 0:
            _run_process(control, uid, seccomp_filter, unanswered, has_own_user)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status in (_CLOSED, _NOT_LOCKED):
            return
        if number := int.from_bytes(unanswered[:]):  # it died during a program
            is_limit = status in (-signal.SIGXCPU, -signal.SIGALRM)
            verdict_class = "time_out" if is_limit else "exited"
            _reply(control, number, {"class": verdict_class, "type": ""})
            unanswered[:] = bytes(_NUMBER_BYTES)


def _run_process(
    control: int,
    uid: int | None,
    seccomp_filter: lockdown.SeccompFilter | None,
    unanswered: mmap.mmap,
    has_own_user: bool,
) -> NoReturn:
    status = _NOT_LOCKED
    try:
        requests = socket.socket(fileno=control)
        lockdown.set_common_limits(has_own_user=has_own_user)
        if uid is not None:
            lockdown.switch_user(uid)
        lockdown.drop_capabilities()
        lockdown.die_with_parent()
        if seccomp_filter:
            seccomp_filter.load()
        status = _DIED
        status = _answer_requests(requests, unanswered)
    finally:
        os._exit(status)


def _answer_requests(requests: socket.socket, unanswered: mmap.mmap) -> int:
    for _ in range(_PROGRAMS_PER_RUNNER):
        message, files, _, _ = socket.recv_fds(requests, 1 << 12, 2)
        if not message:
            return _CLOSED
        request = json.loads(message)
        test_fd, channel = files
        unanswered[:] = request["number"].to_bytes(_NUMBER_BYTES)
        _set_limits(request["limits"])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, request["wall_s"] + _GRACE_S)
        prompt, completion, test, entry_point = json.loads(
            os.pread(test_fd, os.fstat(test_fd).st_size, 0)
        )
        os.close(test_fd)
        verdict = run_tests(channel, prompt, completion, test, entry_point)
        os.close(channel)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(requests.fileno(), request["number"], verdict)
        unanswered[:] = bytes(_NUMBER_BYTES)
        if (
            verdict["class"] in ("time_out", "memory")
            or test_source.compile_prompt(prompt).fast_reason
            or shared_objects.has_changed_process()
            or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _MAX_RSS_KIB
        ):
            break
    return _RETIRED


def _set_limits(limits: dict[str, list[int]]) -> None:
    """Set soft limits for the next program; its CPU time counts from here."""
    used_s = {"RLIMIT_CPU": math.ceil(lockdown.limited_cpu_s(os.getpid()))}
    for name, (limit, _) in limits.items():
        resource_id = getattr(resource, name)
        soft = used_s.get(name, 0) + limit
        resource.setrlimit(resource_id, (soft, resource.getrlimit(resource_id)[1]))


def _reply(control: int, number: int, verdict: Verdict) -> None:
    os.write(control, json.dumps({"number": number, **verdict}).encode())


def run_tests(channel: int, prompt: str, completion: str, test: str, entry_point: str) -> Verdict:
    """Run the tests on the program behind `channel`; returns {"class": ..., "type": ...}.

    The completion is read, never executed.
    """
    namespace: dict[str, Any] = {}
    program = shared_objects.TestSide(channel, namespace)

    def run() -> None:
        candidate = program.receive_candidate()
        compiled = test_source.compile_source(test)
        seed_generators(prompt + test)
        if compiled.fast_reason or (compiled.is_seeding and "random" in prompt + completion):
            program.abort(compiled.fast_reason or "random.seed")
        names = _Names(program)
        namespace["__builtins__"] = names
        namespace[test_source.IS_IDENTICAL] = program.is_identical
        exec(test_source.compile_prompt(prompt).code, namespace)  # noqa: S102  of the benchmark
        names.take_constants(namespace)
        namespace[entry_point] = candidate
        exec(compiled.code, namespace)  # noqa: S102  of the benchmark
        namespace["check"](candidate)

    verdict = _catch_verdict(run)
    namespace.clear()  # functions refer to it: its values would wait for a garbage collection
    program.clear()
    return program.failure or verdict  # the test may have caught `TestAborted`


class _Names(dict[str, Any]):
    """The builtins, the data of the prompt, and the other global names of the program."""

    def __init__(self, program: shared_objects.TestSide) -> None:
        super().__init__(vars(builtins))
        self._program = program
        self._constants: dict[str, Any] = {}
        self._checked: dict[str, int] = {}
        """The number of messages when a constant was last compared with that of the program."""

    def take_constants(self, namespace: dict[str, Any]) -> None:
        """Remove the data of the prompt from its namespace, since a program may change them."""
        del namespace["__builtins__"]
        for name, value in list(namespace.items()):
            kind = type(value)
            if is_plain(kind) or namespace.get(kind.__name__) is kind:
                self._constants[name] = namespace.pop(name)
        namespace["__builtins__"] = self

    def __missing__(self, name: str) -> Any:
        if name not in self._constants:
            return self._program.find_name(name)
        constant = self._constants[name]
        if self._checked.get(name) != self._program.num_messages:
            if not is_plain(type(constant)) or not _is_equal(
                self._program.find_name(name), constant
            ):
                self._program.abort(f"prompt.{name}")
            self._checked[name] = self._program.num_messages
        return constant


def _is_equal(left: Any, right: Any) -> bool:
    try:
        return bool(left == right)
    except ValueError:  # of arrays
        return False


def _catch_verdict(run: Callable[[], None]) -> Verdict:
    """Run tests: only a normal return is a pass."""
    try:
        run()
    except AssertionError:
        return {"class": "wrong_answer", "type": "AssertionError"}
    except SyntaxError as error:
        return {"class": "syntax_error", "type": type(error).__name__}
    except MemoryError:
        return {"class": "memory", "type": "MemoryError"}
    except BaseException as error:  # e.g. a TypeError if a test compares a result of a wrong type
        return {"class": "exception", "type": type(error).__name__[:_MAX_NAME_CHARS]}
    return {"class": "passed", "type": ""}
