"""The process that runs the tests. It alone holds the verdict, and it never runs a line that a model wrote.

It executes the prompt (for the helper functions that tests use) and the tests, both from the benchmark, and calls the
candidate through a proxy: arguments and answers cross as plain data. Whatever the tests raise is a failure; only their
plain return is a pass. One decision: since nothing hostile ever runs here, one process judges many programs, with its
tests compiled once; it locks itself down before it reads what a subject says, and is replaced when data from a subject
cost it its time or its memory, and now and then in any case.
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

from . import frames, lockdown, seeding, values

Verdict = dict[str, str]

_CLAIMS = frozenset({"syntax_error", "exception", "memory", "time_out"})
"""Classes of failure that a subject may claim for itself; it cannot claim a success."""
_PROGRAMS_PER_JUDGE = 500
_NUMBER_BYTES = 8
_MAX_NAME = 200
"""Characters of the name of an exception that are passed on: a reply must fit what the launcher reads."""
_CLOSED, _RETIRED, _NOT_LOCKED, _DIED = range(4)
"""Why a judge ended: nobody asks any more, another one is to take its place, it could not be locked, or a program."""


class _CandidateFailed(BaseException):
    """No answer came from the candidate. Not an `Exception`, so that no test can take it for one that it expects."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def serve(control: int, uid: int | None, program: str | None, *, alone: bool) -> None:
    """Have the requests on the socket `control` judged until it closes, by one judge after another.

    A request brings two open files: what to judge, and the channel to the subject. A judge that dies leaves behind which
    request it had not answered: it may also be ended in between, where memory is short, and then nobody waits for a reply.
    """
    unanswered = mmap.mmap(-1, _NUMBER_BYTES)
    lock = None if program is None else lockdown.Filter(program)
    while True:
        pid = os.fork()
        if pid == 0:
            _judge_many(control, uid, lock, unanswered, alone)
        end = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if end in (_CLOSED, _NOT_LOCKED):
            return
        if number := int.from_bytes(unanswered[:]):  # it died over a program, and cannot tell
            _reply(
                control,
                number,
                {"class": "time_out" if end == -signal.SIGXCPU else "exited", "type": ""},
            )
            unanswered[:] = bytes(_NUMBER_BYTES)


def _judge_many(
    control: int, uid: int | None, lock: lockdown.Filter | None, unanswered: mmap.mmap, alone: bool
) -> NoReturn:
    status = _NOT_LOCKED
    try:
        requests = socket.socket(fileno=control)
        lockdown.limit_for_all(alone=alone)
        if uid is not None:
            lockdown.become(uid)
        lockdown.drop_capabilities()
        lockdown.die_with_parent()
        if lock:
            lock.load()
        status = _DIED
        status = _judge_until_worn(requests, unanswered)
    finally:
        os._exit(status)


def _judge_until_worn(requests: socket.socket, unanswered: mmap.mmap) -> int:
    for _ in range(_PROGRAMS_PER_JUDGE):
        message, files, _, _ = socket.recv_fds(requests, 1 << 12, 2)
        if not message:
            return _CLOSED
        request, (work, channel) = json.loads(message), files
        unanswered[:] = request["number"].to_bytes(_NUMBER_BYTES)
        _limit(request["limits"])
        prompt, _, test, entry_point = json.loads(os.pread(work, os.fstat(work).st_size, 0))
        os.close(work)
        verdict = judge(channel, prompt, test, entry_point)
        os.close(channel)
        _reply(requests.fileno(), request["number"], verdict)
        unanswered[:] = bytes(_NUMBER_BYTES)
        if verdict["class"] in ("time_out", "memory"):
            break
    return _RETIRED


def _limit(limits: dict[str, list[int]]) -> None:
    """The limits of one program: processor time counts from here. They are soft ones, to be set anew for the next."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    used_s = {"RLIMIT_CPU": math.ceil(used.ru_utime + used.ru_stime)}
    for name, (most, _) in limits.items():
        which, soft = getattr(resource, name), used_s.get(name, 0) + most
        resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))


def _reply(control: int, number: int, verdict: Verdict) -> None:
    os.write(control, json.dumps({"number": number, **verdict}).encode())


@functools.lru_cache(maxsize=1 << 9)
def _compiled(text: str) -> Any:
    return compile(text, "<benchmark>", "exec", dont_inherit=True)


def _helpers(prompt: str) -> Any:
    """What tests may use of a prompt. One that ends where a body has to follow gets an empty one."""
    try:
        return _compiled(prompt)
    except SyntaxError:
        return _compiled(f"{prompt}    pass\n")


def judge(channel: int, prompt: str, test: str, entry_point: str) -> Verdict:
    """Run the tests on the candidate behind `channel`; returns {"class": ..., "type": ...}."""

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        return _call(channel, arguments, keywords)

    try:
        _expect_ready(channel)
        seeding.seed(test)
        namespace: dict[str, Any] = {}
        exec(_helpers(prompt), namespace)  # noqa: S102  the benchmark's own text
        namespace[entry_point] = candidate
        exec(_compiled(test), namespace)  # noqa: S102  the benchmark's own text
        namespace["check"](candidate)
    except _CandidateFailed as failed:
        return failed.verdict
    except AssertionError:
        return {"class": "wrong_answer", "type": "AssertionError"}
    except MemoryError:
        return {"class": "memory", "type": "MemoryError"}
    except BaseException as error:  # e.g. a TypeError where a test compares a wrong kind of answer
        return {"class": "exception", "type": type(error).__name__}
    return {"class": "passed", "type": ""}


def _expect_ready(channel: int) -> None:
    try:
        report = frames.receive(channel)
    except frames.FrameError:
        raise _CandidateFailed({"class": "exited", "type": ""}) from None
    if report != {"class": "ready"}:
        raise _CandidateFailed(_claimed(report))


def _call(channel: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    try:
        frames.send(channel, values.encode((arguments, keywords)))
        answer = frames.receive(channel)
        if isinstance(answer, dict) and "value" in answer:
            return values.decode(answer["value"])
    except frames.FrameError:
        raise _CandidateFailed({"class": "exited", "type": ""}) from None
    raise _CandidateFailed(_claimed(answer))


def _claimed(report: Any) -> Verdict:
    if isinstance(report, dict) and report.get("class") in _CLAIMS:
        return {"class": report["class"], "type": str(report.get("type"))[:_MAX_NAME]}
    return {"class": "exited", "type": ""}
