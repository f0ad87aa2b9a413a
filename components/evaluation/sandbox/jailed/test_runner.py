"""The process that runs the tests. It alone holds the verdict and never executes generated code.

It executes the prompt (tests may use its helper functions) and the tests, both from the benchmark,
and calls the candidate through a proxy: arguments and results cross as plain data. Only a normal
return of the tests is a pass. Since no hostile code runs here, a process tests many programs and
compiles each test once. It restricts itself before it reads data of a candidate, and is replaced
when such data cost it its time or memory, and after `_PROGRAMS_PER_RUNNER` programs.
"""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
import resource
import signal
import socket
from typing import Any, NoReturn

from . import frames, lockdown, values
from .candidate import seed_generators

Verdict = dict[str, str]

_CLAIMABLE = frozenset({"syntax_error", "exception", "memory", "time_out"})
"""Classes of failure that a candidate may report of itself; it cannot report a success."""
_PROGRAMS_PER_RUNNER = 500
_NUMBER_BYTES = 8
_MAX_NAME_CHARS = 200
"""Longest exception name in a reply, which must fit the launcher's buffer."""
_CLOSED, _RETIRED, _NOT_LOCKED, _DIED = range(4)
"""Exit status of a runner: no more requests, to be replaced, lockdown failed, or died during a
program."""


class _CandidateFailed(BaseException):
    """The candidate gave no result. Not an `Exception`, so that no test can expect and catch it."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


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
            verdict_class = "time_out" if status == -signal.SIGXCPU else "exited"
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
        prompt, _, test, entry_point = json.loads(os.pread(test_fd, os.fstat(test_fd).st_size, 0))
        os.close(test_fd)
        verdict = run_tests(channel, prompt, test, entry_point)
        os.close(channel)
        _reply(requests.fileno(), request["number"], verdict)
        unanswered[:] = bytes(_NUMBER_BYTES)
        if verdict["class"] in ("time_out", "memory"):
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


@functools.lru_cache(maxsize=1 << 9)
def _compile(text: str) -> Any:
    return compile(text, "<benchmark>", "exec", dont_inherit=True)


def _compile_prompt(prompt: str) -> Any:
    """Compile the helpers of a prompt.

    A prompt that ends before a function body gets an empty body.
    """
    try:
        return _compile(prompt)
    except SyntaxError:
        return _compile(f"{prompt}    pass\n")


def run_tests(channel: int, prompt: str, test: str, entry_point: str) -> Verdict:
    """Run the tests on the candidate behind `channel`; returns {"class": ..., "type": ...}."""

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        return _call(channel, arguments, keywords)

    try:
        _expect_ready(channel)
        seed_generators(test)
        namespace: dict[str, Any] = {}
        exec(_compile_prompt(prompt), namespace)  # noqa: S102  the benchmark's own text
        namespace[entry_point] = candidate
        exec(_compile(test), namespace)  # noqa: S102  the benchmark's own text
        namespace["check"](candidate)
    except _CandidateFailed as failed:
        return failed.verdict
    except AssertionError:
        return {"class": "wrong_answer", "type": "AssertionError"}
    except MemoryError:
        return {"class": "memory", "type": "MemoryError"}
    except BaseException as error:  # e.g. a TypeError if a test compares a result of a wrong type
        return {"class": "exception", "type": type(error).__name__}
    return {"class": "passed", "type": ""}


def _expect_ready(channel: int) -> None:
    try:
        report = frames.receive(channel)
    except frames.FrameError:
        raise _CandidateFailed({"class": "exited", "type": ""}) from None
    if report != {"class": "ready"}:
        raise _CandidateFailed(_claimed_failure(report))


def _call(channel: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    try:
        frames.send(channel, values.encode((arguments, keywords)))
        answer = frames.receive(channel)
        if isinstance(answer, dict) and "value" in answer:
            return values.decode(answer["value"])
    except frames.FrameError:
        raise _CandidateFailed({"class": "exited", "type": ""}) from None
    raise _CandidateFailed(_claimed_failure(answer))


def _claimed_failure(report: Any) -> Verdict:
    if isinstance(report, dict) and report.get("class") in _CLAIMABLE:
        return {"class": report["class"], "type": str(report.get("type"))[:_MAX_NAME_CHARS]}
    return {"class": "exited", "type": ""}
