"""The door of the sandbox: many programs, a few at a time, after a self-test.

One decision: isolation is chosen (`kinds`) and proved once, when a sandbox is opened, by every worker, and what was chosen
is part of its report. The threads only wait for jails. A program that ran out of time is run once more when no other one
runs, and that result counts. Not covered: machines that cannot isolate; they are told what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import Field

from components.core.config import Config
from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox.backends import find_jail
from components.evaluation.sandbox.jail import Jail
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.no_isolation import NoIsolation, filters_if_any
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import seccomp_programs
from components.evaluation.sandbox.verdict import PrintedValue, Verdict
from components.evaluation.sandbox.worker import FunctionTest, Job, Mode, PendingJob, Worker

_QUEUE_DEPTH = 2
"""Programs that a worker was given: one runs, and the next one waits in the jail, so that a busy machine costs less."""

logger = logging.getLogger(__name__)


class SandboxReport(Config):
    """What isolates programs on this machine, or why nothing does. Recorded in every result."""

    available: bool
    kind: str = ""
    """bubblewrap, namespaces, landlock, or none where a user asked for unsafe execution."""
    isolation: str = ""
    caveat: str = ""
    """What programs cannot do under this isolation that they can under others."""
    isolated: bool = True
    """Whether what `isolation` names is any isolation; it is none where a user asked for unsafe execution."""
    self_test: dict[str, str] = Field(default_factory=dict)
    """What came of each check of the self-test, by its name."""
    missing: str = ""
    """Where nothing isolates: what is missing."""
    remedy: str = ""
    """Where nothing isolates: what to do about it."""

    @property
    def summary(self) -> str:
        """What isolates, or what is missing, in a line."""
        return self.isolation if self.available else self.missing

    @property
    def protocol_fields(self) -> dict[str, str]:
        """What of this changes verdicts, as protocols have it: nothing in jails of namespaces, which all show the same."""
        return (
            {"isolation": self.kind}
            if self.available and (self.caveat or not self.isolated)
            else {}
        )


class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """Runs programs in jails, `workers` at a time, until it is closed.

    Raises:
        SandboxUnavailable: the self-test of a worker failed.
    """

    def __init__(self, jail: Jail, filters: dict[str, str], workers: int) -> None:
        self.num_retried = 0
        """Programs that ran out of time, and were run again."""
        self._workers = workers
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        # A jail dies with the thread that made it: these threads live as long as the sandbox, and make all of its jails.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        try:
            checks = list(
                self._threads.map(lambda number: self._open(jail, filters, number), range(workers))
            )
        except BaseException:
            self.__exit__()
            raise
        self.report = SandboxReport(
            available=True,
            kind=jail.kind,
            isolation=jail.description,
            caveat=jail.caveat,
            isolated=jail.isolated,
            self_test=checks[0],
        )

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().__exit__()

    def test(
        self, trials: Sequence[FunctionTest], limits: Limits, mode: Mode = "split"
    ) -> list[Verdict]:
        """The verdict on each trial."""
        return self._retried([Job(trial, limits, mode) for trial in trials])

    def last_prints(self, sources: Sequence[str], limits: Limits) -> list[PrintedValue]:
        """What each program printed last."""
        return self._retried([Job(source, limits, "split") for source in sources])

    def cpu_seconds(
        self, trials: Sequence[FunctionTest], limits: Limits, mode: Mode = "split"
    ) -> list[float | None]:
        """The processor time of each trial that passes, in seconds."""
        outcomes = self._all([Job(trial, limits, mode) for trial in trials])
        return [
            cpu_s if isinstance(outcome, Verdict) and outcome.passed else None
            for outcome, cpu_s in outcomes
        ]

    def _open(self, jail: Jail, filters: dict[str, str], number: int) -> dict[str, str]:
        worker = Worker(jail, filters, number, self._workers)
        self._idle.put(worker)
        return self_test(worker, jail)

    def _retried(self, jobs: Sequence[Job]) -> list[Any]:
        outcomes = [outcome for outcome, _ in self._all(jobs)]
        for place, outcome in enumerate(outcomes):
            if outcome.out_of_time:
                ((outcomes[place], _),) = self._all([jobs[place]])
                self.num_retried += 1
        return outcomes

    def _all(self, jobs: Sequence[Job]) -> list[tuple[Verdict | PrintedValue, float]]:
        """What came of each job, and its processor time in seconds."""
        todo, ended = iter(enumerate(jobs)), dict[int, tuple[Verdict | PrintedValue, float]]()
        lock = threading.Lock()

        def work() -> None:
            worker, begun = self._idle.get(), deque[tuple[int, PendingJob]]()

            def end_first() -> None:
                place, running = begun.popleft()
                outcome = worker.end(running), worker.cpu_s
                with lock:
                    ended[place] = outcome

            try:
                while True:
                    with lock:
                        place, job = next(todo, (-1, None))
                    if job is None:
                        break
                    while begun and (
                        len(begun) == _QUEUE_DEPTH or not worker.can_follow(job, begun[-1][1])
                    ):
                        end_first()
                    begun.append((place, worker.begin(job)))
                while begun:
                    end_first()
            finally:
                self._idle.put(worker)

        try:
            for thread in [
                self._threads.submit(work) for _ in range(min(self._workers, len(jobs)))
            ]:
                thread.result()
        finally:
            with lock:
                deque(todo, maxlen=0)  # after an error, or an interruption, nothing more is begun
        return [ended[place] for place in range(len(jobs))]


def open_sandbox(workers: int, *, kind: SandboxKind | None = None, unsafe: bool = False) -> Sandbox:
    """A sandbox whose self-test has passed; close it, or use it in a `with` block.

    It is the best that can be had on this machine, or of the `kind` that is asked for. With `unsafe`, programs run without
    isolation where there is none, and the report says so.

    Raises:
        SandboxUnavailable: isolation cannot be had on this machine, or did not hold; nothing has been executed then.
    """
    try:
        seccomp_programs()  # without a filter there is no use in any walls
        jail = find_jail(kind)
        return Sandbox(jail, seccomp_programs(namespaces=jail.namespaces), workers)
    except SandboxUnavailableError as error:
        if not unsafe:
            raise
        logger.warning("programs are executed without isolation, as asked: %s", error.got)
        return Sandbox(NoIsolation(), filters_if_any(), workers)


def probe(*, kind: SandboxKind | None = None, unsafe: bool = False) -> SandboxReport:
    """What `open_sandbox` would find. Takes a few seconds: it runs the self-test."""
    try:
        with open_sandbox(workers=1, kind=kind, unsafe=unsafe) as sandbox:
            return sandbox.report
    except SandboxUnavailableError as error:
        return unavailable(error)


def unavailable(error: SandboxUnavailableError) -> SandboxReport:
    """The report of a sandbox that could not be had."""
    return SandboxReport(available=False, isolated=False, missing=error.got, remedy=error.fix)
