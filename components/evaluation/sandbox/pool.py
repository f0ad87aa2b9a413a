"""The sandbox: a pool of jails that execute programs in parallel, opened only after a self-test.

`open_sandbox` selects the isolation (`backends`), every worker runs the self-test, and the report
names the isolation. The threads only wait for jails. A program that reached a limit of time runs
once more while no other program runs, and that result counts.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pydantic import Field

from components.core.config import Config
from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox.backends import NoIsolation, find_jail
from components.evaluation.sandbox.jail import Jail
from components.evaluation.sandbox.job import (
    ExecutionMode,
    FunctionTest,
    Job,
    PrintedValue,
    ResourceLimits,
    Verdict,
)
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import compile_seccomp_filters
from components.evaluation.sandbox.worker import PendingJob, Worker

_QUEUE_DEPTH = 2
"""Submitted programs per worker: one runs, the next waits in the jail, which saves time on a busy
machine."""


class JobResult(NamedTuple):
    """The outcome of a job and the time that it took."""

    outcome: Verdict | PrintedValue
    cpu_s: float
    timed_out: bool
    """Whether the program must run again alone before the outcome counts."""


logger = logging.getLogger(__name__)


class SandboxReport(Config):
    """What isolates programs on this machine, or why nothing does. Stored in every result."""

    available: bool
    kind: str = ""
    """bubblewrap, namespaces, landlock, or none for unsafe execution."""
    isolation: str = ""
    """Description of the isolation, with its version."""
    restriction: str = ""
    """Calls that only this kind of jail refuses, so that verdicts may differ; empty if none."""
    isolated: bool = True
    """False for unsafe execution."""
    self_test: dict[str, str] = Field(default_factory=dict)
    """The outcome of each check of the self-test, by name."""
    missing: str = ""
    """What is missing if no sandbox is available."""
    fix: str = ""
    """How to make a sandbox available."""

    @property
    def summary(self) -> str:
        """The isolation, or what is missing, in a line."""
        return self.isolation if self.available else self.missing

    @property
    def protocol_fields(self) -> dict[str, str]:
        """Protocol fields for isolation that changes verdicts; empty for jails of namespaces."""
        if self.available and (self.restriction or not self.isolated):
            return {"isolation": self.kind}
        return {}


class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """Runs programs in jails, `workers` at a time, until it is closed.

    `seccomp_filters` has the compiled system-call filters by role (`compile_seccomp_filters`).

    Raises:
        SandboxUnavailableError: the self-test of a worker failed.
    """

    def __init__(self, jail: Jail, seccomp_filters: dict[str, str], workers: int) -> None:
        self.num_retried = 0
        """Programs that timed out and ran again."""
        self._workers = workers
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        # A jail dies with the thread that started it, so these threads live as long as the sandbox.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        try:
            checks = list(
                self._threads.map(lambda _: self._open(jail, seccomp_filters), range(workers))
            )
        except BaseException:
            self.__exit__()
            raise
        self.report = SandboxReport(
            available=True,
            kind=jail.kind,
            isolation=jail.description,
            restriction=jail.restriction,
            isolated=jail.isolated,
            self_test=checks[0],
        )

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().__exit__()

    def run_tests(
        self, tests: Sequence[FunctionTest], limits: ResourceLimits, mode: ExecutionMode = "split"
    ) -> list[Verdict]:
        """Return the verdict on each function test."""
        return self._run_with_retry([Job(test, limits, mode) for test in tests])

    def last_printed_values(
        self, sources: Sequence[str], limits: ResourceLimits
    ) -> list[PrintedValue]:
        """Return the first argument of each program's last print."""
        return self._run_with_retry([Job(source, limits, "split") for source in sources])

    def cpu_seconds(
        self, tests: Sequence[FunctionTest], limits: ResourceLimits
    ) -> list[float | None]:
        """Return the CPU seconds of each function test; None if it does not pass."""
        outcomes = self._run([Job(test, limits, "split") for test in tests])
        return [
            cpu_s if isinstance(outcome, Verdict) and outcome.passed else None
            for outcome, cpu_s, _ in outcomes
        ]

    def _open(self, jail: Jail, seccomp_filters: dict[str, str]) -> dict[str, str]:
        worker = Worker(jail, seccomp_filters)
        self._idle.put(worker)
        return self_test(worker, jail)

    def _run_with_retry(self, jobs: Sequence[Job]) -> list[Any]:
        results = self._run(jobs)
        for index, result in enumerate(results):
            if result.timed_out:
                (results[index],) = self._run([jobs[index]])
                self.num_retried += 1
        return [result.outcome for result in results]

    def _run(self, jobs: Sequence[Job]) -> list[JobResult]:
        """Run all jobs on the idle workers; returns the results in the order of the jobs."""
        queue_of_jobs = _JobQueue(jobs)
        num_workers = min(self._workers, len(jobs))
        try:
            futures = [self._threads.submit(self._work, queue_of_jobs) for _ in range(num_workers)]
            for future in futures:
                future.result()
        finally:
            queue_of_jobs.clear()  # after an error or an interruption no further job starts
        return [queue_of_jobs.results[index] for index in range(len(jobs))]

    def _work(self, jobs: _JobQueue) -> None:
        """Run jobs on a worker until the queue is empty."""
        worker = self._idle.get()
        pending = deque[tuple[int, PendingJob]]()

        def finish_first() -> None:
            index, first = pending.popleft()
            outcome = worker.result(first)
            timed_out = worker.timed_out or outcome.timed_out
            jobs.add_result(index, JobResult(outcome, worker.cpu_s, timed_out))

        try:
            while (indexed_job := jobs.take()) is not None:
                index, job = indexed_job
                while pending and (
                    len(pending) == _QUEUE_DEPTH or not worker.can_follow(job, pending[-1][1])
                ):
                    finish_first()
                pending.append((index, worker.submit(job)))
            while pending:
                finish_first()
        finally:
            self._idle.put(worker)


class _JobQueue:
    """Thread-safe queue of jobs, with their results by index."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.results: dict[int, JobResult] = {}
        self._jobs: Iterator[tuple[int, Job]] = iter(enumerate(jobs))
        self._lock = threading.Lock()

    def take(self) -> tuple[int, Job] | None:
        with self._lock:
            return next(self._jobs, None)

    def add_result(self, index: int, result: JobResult) -> None:
        with self._lock:
            self.results[index] = result

    def clear(self) -> None:
        with self._lock:
            self._jobs = iter(())


def open_sandbox(workers: int, *, kind: SandboxKind | None = None, unsafe: bool = False) -> Sandbox:
    """Open the best sandbox of this machine, or of `kind`.

    Its self-test has passed; close it after use.

    With `unsafe`, programs run without isolation if no sandbox is available, and the report states
    it.

    Raises:
        SandboxUnavailableError: no isolation is available, or it failed its self-test. No program
            was executed.
    """
    try:
        compile_seccomp_filters()  # a jail without a filter is not accepted
        jail = find_jail(kind)
        return Sandbox(jail, compile_seccomp_filters(namespaces=jail.namespaces), workers)
    except SandboxUnavailableError as error:
        if not unsafe:
            raise
        logger.warning("programs run without isolation (unsafe execution): %s", error.got)
        return Sandbox(NoIsolation(), _available_seccomp_filters(), workers)


def _available_seccomp_filters() -> dict[str, str]:
    try:
        return compile_seccomp_filters()
    except SandboxUnavailableError:
        return {}


def probe(*, kind: SandboxKind | None = None, unsafe: bool = False) -> SandboxReport:
    """Return the report of the sandbox that `open_sandbox` opens.

    Takes a few seconds: it runs the self-test.
    """
    try:
        with open_sandbox(workers=1, kind=kind, unsafe=unsafe) as sandbox:
            return sandbox.report
    except SandboxUnavailableError as error:
        return unavailable_report(error)


def unavailable_report(error: SandboxUnavailableError) -> SandboxReport:
    """Return the report of a sandbox that could not be opened."""
    return SandboxReport(available=False, isolated=False, missing=error.got, fix=error.fix)
