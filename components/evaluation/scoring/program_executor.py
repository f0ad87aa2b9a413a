"""Executes generated programs in the background while further samples are generated.

Without a sandbox nothing is executed and there is no score. Limits are calibrated once: HumanEval's
canonical solutions run first, and if the slowest takes longer than on the machine where the limits
were chosen, every program may take longer. Equal programs are executed once; with `journaled`, also
across interrupted runs.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import EvaluationError, SandboxUnavailableError
from components.core.journal import Journal
from components.core.progress import track
from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox import (
    ExecutionMode,
    FunctionTest,
    PrintedValue,
    ResourceLimits,
    Sandbox,
    SandboxReport,
    Verdict,
    as_record,
    from_record,
    open_sandbox,
    unavailable_report,
)

Outcome = Verdict | PrintedValue

CALIBRATION_S = 0.16
"""CPU seconds of HumanEval's slowest canonical solution on the machine where the limits were
chosen (two cores, Python 3.11, measured in November 2026). Limits grow in proportion on slower
machines."""
_CALIBRATION_LIMIT_S = 60
_BATCH_SIZE = 256
"""Programs per call of the sandbox: enough to keep its workers busy, few enough to show
progress."""
_POLL_INTERVAL_S = 0.5


class Program(NamedTuple):
    """One program to execute."""

    source: FunctionTest | str
    """A function test, or a text whose last print is recorded."""
    limits: ResourceLimits
    mode: ExecutionMode

    @property
    def digest(self) -> str:
        """SHA-256 of all fields; ASCII, because a text may hold a lone surrogate."""
        return hashlib.sha256(json.dumps(self).encode("ascii")).hexdigest()


class ProgramExecutor(AbstractContextManager["ProgramExecutor"]):
    """Executes programs, `workers` at a time, in a background thread; use it in a `with` block.

    The sandbox is opened on first use. `report` names the isolation, or the reason why nothing is
    executed.
    """

    def __init__(
        self, workers: int, *, kind: SandboxKind | None = None, unsafe: bool = False
    ) -> None:
        self._workers, self._kind, self._unsafe = workers, kind, unsafe
        self._sandbox: Sandbox | None = None
        self._report: SandboxReport | None = None
        self._queue: deque[Program] = deque()
        self._outcomes: dict[Program, Outcome | None] = {}
        """None while a program waits or runs."""
        self._journal: Journal | None = None
        self._cached: dict[str, Outcome] = {}
        """Outcomes of an interrupted run, by the digest of the program."""
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self.slowest_canonical_s: float | None = None
        """CPU seconds; None before the first execution."""
        self.num_executed = 0
        self.num_cached = 0
        """Outcomes of an interrupted run; 0 outside of `journaled`."""
        self.busy_s = 0.0
        """Wall time of execution."""

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_closing = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread:
            self._thread.join()
        if self._sandbox:
            self._sandbox.__exit__()

    @property
    def report(self) -> SandboxReport:
        """The isolation of programs; opens the sandbox, which takes a few seconds."""
        if self._report is None:
            try:
                self._sandbox = open_sandbox(self._workers, kind=self._kind, unsafe=self._unsafe)
                self._report = self._sandbox.report
            except SandboxUnavailableError as error:
                self._report = unavailable_report(error)
        return self._report

    @property
    def num_retried(self) -> int:
        """Programs that timed out and ran again."""
        return self._sandbox.num_retried if self._sandbox else 0

    @contextmanager
    def journaled(self, path: Path) -> Iterator[None]:
        """Write outcomes to a journal at `path`, and reuse those that an interrupted run wrote.

        The journal is removed when the block ends without an error. Its name must identify
        everything that changes an outcome besides the program: the isolation, and the versions of
        Python and packages.
        """

        def add_cached(record: Any) -> None:
            self._cached[str(record["program"])] = from_record(record)

        with Journal(path, add_cached) as journal:
            with self._changed:
                self._journal, self.num_cached = journal, len(self._cached)
            try:
                yield
            finally:
                with self._changed:
                    self._journal, self.num_cached = None, 0
                    self._cached.clear()
        path.unlink(missing_ok=True)

    def submit(self, program: Program) -> None:
        """Queue a program for execution; does nothing without a sandbox.

        Raises:
            EvaluationError: see `results`; raised here, it stops the generation of further samples.
        """
        if not self.report.available:
            return
        if self._error is not None:
            raise self._error
        with self._changed:
            if program in self._outcomes:
                return
            self._outcomes[program] = self._cached.get(program.digest) if self._cached else None
            if self._outcomes[program] is not None:
                return
            self._queue.append(program)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="executor", daemon=True)
                self._thread.start()

    def results(self, programs: Sequence[Program]) -> list[Outcome] | None:
        """Wait for the programs, return their outcomes and forget them; None without a sandbox.

        Raises:
            EvaluationError: a canonical solution does not pass on this machine, so no verdict is
                reliable.
        """
        if not self.report.available:
            return None
        for program in programs:
            self.submit(program)
        distinct = list(dict.fromkeys(programs))
        with track("execute programs", len(distinct), "programs") as advance, self._changed:
            unfinished = distinct
            while unfinished and self._error is None:
                num_before = len(unfinished)
                unfinished = [program for program in unfinished if self._outcomes[program] is None]
                advance(num_before - len(unfinished))
                if unfinished:
                    self._changed.wait(_POLL_INTERVAL_S)
            if self._error is not None:
                raise self._error
            outcomes: dict[Program, Outcome] = {}
            for program in distinct:
                outcome = self._outcomes.pop(program)
                if outcome is not None:
                    outcomes[program] = outcome
        return [outcomes[program] for program in programs]

    def calibrated(self, limits: ResourceLimits) -> ResourceLimits:
        """Return the limits for this machine; unchanged before the first execution."""
        if not self.slowest_canonical_s:
            return limits
        return limits.scaled(self.slowest_canonical_s / CALIBRATION_S)

    def _work(self) -> None:
        """Execute batches in the background until the executor is closed."""
        sandbox = self._sandbox
        try:
            while sandbox and (batch := self._next_batch()):
                if self.slowest_canonical_s is None:
                    self.slowest_canonical_s = time_canonical_solutions(sandbox)
                started = time.monotonic()
                outcomes = self._execute(sandbox, batch)
                self.busy_s += time.monotonic() - started
                self._add_outcomes(batch, outcomes)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _add_outcomes(self, batch: Sequence[Program], outcomes: Sequence[Outcome]) -> None:
        with self._changed:
            self.num_executed += len(batch)
            self._outcomes.update(zip(batch, outcomes, strict=True))
            if self._journal:
                self._journal.add(
                    {"program": program.digest, **as_record(outcome)}
                    for program, outcome in zip(batch, outcomes, strict=True)
                )
            self._changed.notify_all()

    def _next_batch(self) -> list[Program]:
        """Wait for programs and return a batch of one kind; empty when the executor is closed."""
        with self._changed:
            while not self._queue and not self._is_closing:
                self._changed.wait()
            batch: list[Program] = []
            while self._queue and len(batch) < _BATCH_SIZE:
                if batch and not _fits_batch(batch[0], self._queue[0]):
                    break
                batch.append(self._queue.popleft())
            return batch

    def _execute(self, sandbox: Sandbox, batch: Sequence[Program]) -> Sequence[Outcome]:
        limits, mode = self.calibrated(batch[0].limits), batch[0].mode
        tests = [program.source for program in batch if isinstance(program.source, FunctionTest)]
        if tests:
            return sandbox.run_tests(tests, limits, mode)
        sources = [program.source for program in batch if isinstance(program.source, str)]
        return sandbox.last_printed_values(sources, limits)


def _fits_batch(first: Program, program: Program) -> bool:
    is_test = isinstance(program.source, FunctionTest)
    same_kind = isinstance(first.source, FunctionTest) == is_test
    return same_kind and (first.limits, first.mode) == (program.limits, program.mode)


def time_canonical_solutions(sandbox: Sandbox) -> float:
    """Return the CPU seconds of HumanEval's slowest canonical solution.

    Raises:
        EvaluationError: a canonical solution does not pass.
    """
    problems = load_humaneval()
    tests = [problem.canonical_test() for problem in problems]
    seconds = sandbox.cpu_seconds(tests, ResourceLimits(_CALIBRATION_LIMIT_S))
    failed = [
        problem.task_id for problem, cpu_s in zip(problems, seconds, strict=True) if cpu_s is None
    ]
    if failed:
        raise EvaluationError(
            f"the canonical solution of {', '.join(failed[:3])} does not pass ({len(failed)} of "
            f"{len(problems)} fail)",
            expected="all to pass; otherwise no verdict of this machine is reliable",
            fix="run `codegen doctor`, look for a lack of memory or an overloaded machine, then "
            "run the same command again",
        )
    return max(cpu_s for cpu_s in seconds if cpu_s is not None)
