"""The process that runs the tests. It alone holds the verdict, and it never runs a line that a model wrote.

It executes the prompt (for the helper functions that tests use) and the tests, both from the benchmark, and calls the
candidate through a proxy: arguments and answers cross as plain data. Whatever the tests raise is a failure; only their
plain return is a pass. Since nothing hostile ever runs here, judges are forked from one warm process (an interpreter of
its own would double the cost of a program); each locks itself down before it reads what a subject says.
"""

from __future__ import annotations

import os
import random  # noqa: F401  the tests' imports, done once for all judges
import signal
import socket
from typing import Any

from . import frames, lockdown, values

Verdict = dict[str, str]

_CLAIMS = frozenset({"syntax_error", "exception", "memory", "time_out"})
"""Classes of failure that a subject may claim for itself; it cannot claim a success."""


class _CandidateFailed(BaseException):
    """No answer came from the candidate. Not an `Exception`, so that no test can take it for one that it expects."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def main(control: int) -> None:
    """Fork a judge for every message on the socket `control`, until it closes.

    A message brings three open files: the set-up, the channel to the subject, and where the verdict goes.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=control) as requests:
        while True:
            message, files, _, _ = socket.recv_fds(requests, 1, 3)
            if not message:
                return
            if os.fork() == 0:
                requests.close()
                _judge_once(*files)
            for file in files:
                os.close(file)


def _judge_once(setup_file: int, channel: int, verdict_out: int) -> None:
    """The life of one judge. Nothing that a subject sent is read before the locks are on."""
    try:
        setup = lockdown.read_setup(setup_file)
        lockdown.lock_down(setup)
        lockdown.seed_random(setup["test"])
        signal.signal(signal.SIGXCPU, _out_of_time)
        frames.send(verdict_out, judge(channel, setup["prompt"], setup["test"], setup["entry_point"]))
    finally:
        os._exit(0)


def _out_of_time(_signal: int, _frame: Any) -> None:
    raise _CandidateFailed({"class": "time_out", "type": ""})


def judge(channel: int, prompt: str, test: str, entry_point: str) -> Verdict:
    """Run the tests on the candidate behind `channel`; returns {"class": ..., "type": ...}."""

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        return _call(channel, arguments, keywords)

    try:
        _expect_ready(channel)
        namespace: dict[str, Any] = {}
        exec(prompt, namespace)  # noqa: S102  the benchmark's own text
        namespace[entry_point] = candidate
        exec(test, namespace)  # noqa: S102  the benchmark's own text
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
        return {"class": report["class"], "type": str(report.get("type"))}
    return {"class": "exited", "type": ""}
