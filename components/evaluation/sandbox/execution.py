"""One program at a time: start its jails, hand out the work, wait with a deadline, and end everything that was started.

One decision: the launcher trusts nobody. What comes back is read into a bounded buffer, parsed as one frame and checked
field by field; without a good frame the answer is a failure. A program under test is run by two (`split`): a subject, in
a jail of its own, runs what a model wrote; a judge, in another, runs the tests and owns the only socket that a verdict can
come through. A program whose last print is wanted has a subject alone, and what it says is compared out here.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from components.core.errors import EvaluationError
from components.evaluation.sandbox.channels import memory_file, read_frame
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.verdict import NOTHING_PRINTED, Printed, Verdict, as_printed, as_verdict

_GRACE_S = 1.0
"""Seconds that a process whose channel closed may take to be gone."""
_FIRST_UID, _NUM_UIDS = 60_578, 606
"""Users that nobody has, by systemd's table of uid ranges (60578-61183), for jails that root makes."""
_OUT_OF_TIME = frozenset({-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGKILL})


class Jail(Protocol):
    """What builds the command line of a jailed process; bubblewrap so far."""

    as_root: bool

    @property
    def description(self) -> str: ...

    def command(self, module: str, channel: int) -> list[str]: ...


class Trial(NamedTuple):
    """Prompt and completion of one function, with the benchmark's tests for it."""

    prompt: str
    completion: str
    test: str
    entry_point: str


class Runner(contextlib.AbstractContextManager["Runner"]):
    """Runs single programs in jails of one kind, from any number of threads, until it is closed.

    `environment` is all the environment that jailed processes get, `seccomp` the compiled system-call filter.
    """

    def __init__(self, jail: Jail, environment: dict[str, str], seccomp: bytes) -> None:
        self.jail, self._environment = jail, environment
        self._filter = base64.b64encode(seccomp).decode()
        self._turn = itertools.count()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._judges = self._start("judge", theirs, subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        self._requests.close()
        self._judges.kill()
        self._judges.wait()

    def test(self, program: Trial, limits: Limits) -> Verdict:
        """Whether `program` passes its tests; anything but a well-formed "passed" from the judge is a failure.

        Raises:
            EvaluationError: the process that judges come from has ended.
        """
        deadline = time.monotonic() + limits.wall_s
        serve = {"ask": "serve", "source": program.prompt + program.completion + "\n", "entry_point": program.entry_point}
        with contextlib.ExitStack() as cleanup:
            ends = (cleanup.enter_context(end) for end in (*socket.socketpair(), *socket.socketpair()))
            questions, answers, verdicts, verdict_out = ends
            subject = cleanup.enter_context(self._subject(answers, serve, limits))
            self._ask_judge(program, limits, questions, verdict_out)
            for end in (questions, answers, verdict_out):
                end.close()  # so that each side sees the other one go
            verdict = as_verdict(read_frame(verdicts, deadline))
            if verdict is None:
                self._check_judges()
            elif verdict.kind != "exited":
                return verdict
            late = time.monotonic() >= deadline or _ended_by_limit(subject)
            return Verdict("time_out" if late else "exited")

    def last_print(self, source: str, limits: Limits) -> Printed:
        """What the last `print` of `source` was given first, as plain data, and how the program ended."""
        deadline = time.monotonic() + limits.wall_s
        with contextlib.ExitStack() as cleanup:
            ours, theirs = (cleanup.enter_context(end) for end in socket.socketpair())
            subject = cleanup.enter_context(self._subject(theirs, {"ask": "last_print", "source": source}, limits))
            theirs.close()
            report = read_frame(ours, deadline)
            if report is None:
                late = time.monotonic() >= deadline or _ended_by_limit(subject)
                return Printed(Verdict("time_out" if late else "exited"), NOTHING_PRINTED, "")
        return as_printed(report)

    @contextlib.contextmanager
    def _subject(self, channel: socket.socket, work: dict[str, Any], limits: Limits) -> Iterator[subprocess.Popen[bytes]]:
        """A jail that has been given its work; it and all that runs in it are gone when the block ends."""
        with memory_file(self._setup(work, limits)) as stdin:
            process = self._start("subject", channel, stdin)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _ask_judge(self, program: Trial, limits: Limits, questions: socket.socket, verdict_out: socket.socket) -> None:
        work = {"prompt": program.prompt, "test": program.test, "entry_point": program.entry_point}
        with memory_file(self._setup(work, limits)) as setup:
            try:
                socket.send_fds(self._requests, [b"!"], [setup, questions.fileno(), verdict_out.fileno()])
            except OSError:
                self._check_judges()
                raise

    def _check_judges(self) -> None:
        if self._judges.poll() is not None:
            raise EvaluationError(
                f"the process that judges programs ended with status {self._judges.returncode}",
                expected="it to live as long as the evaluation",
                do="look for a lack of memory, then run the same command again",
            )

    def _setup(self, work: dict[str, Any], limits: Limits) -> dict[str, Any]:
        uid = _FIRST_UID + next(self._turn) % _NUM_UIDS if self.jail.as_root else None
        return {**work, "limits": limits.as_rlimits(), "uid": uid, "filter": self._filter}

    def _start(self, module: str, channel: socket.socket, stdin: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.jail.command(module, channel.fileno()),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(channel.fileno(),),
            env=self._environment,
            cwd="/",
        )


def _ended_by_limit(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process that has closed its channel was ended by its limit of processor time."""
    try:
        return process.wait(_GRACE_S) in _OUT_OF_TIME
    except subprocess.TimeoutExpired:
        return False
