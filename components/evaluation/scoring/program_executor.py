"""Executing what models wrote: one sandbox for a whole evaluation, at work while further samples are drawn.

Decisions: where nothing isolates, nothing is executed, and then there is no score at all. Limits are calibrated once:
HumanEval's canonical solutions run first, and where the slowest takes longer than it did where the limits were chosen, so
may every program. Equal programs are executed once; within `keeping`, also by a run that goes on after a kill.
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
from components.evaluation.benchmarks.problems import load_humaneval
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox import (
    FunctionTest,
    Limits,
    Mode,
    PrintedValue,
    Sandbox,
    SandboxReport,
    Verdict,
    as_record,
    from_record,
    open_sandbox,
    unavailable,
)

CALIBRATION_S = 0.16
"""Processor seconds of HumanEval's slowest canonical solution where the limits were chosen (two cores, Python 3.11, measured
in November 2026). Where it takes longer, programs are given as many times more."""
_CALIBRATION_LIMIT_S = 60
_BATCH_SIZE = 256
"""Programs that are given to the sandbox together: enough that its workers do not wait, few enough to see progress."""
_POLL_INTERVAL_S = 0.5


class Program(NamedTuple):
    """What is executed, and how."""

    source: FunctionTest | str
    """A trial is tested; of a text, the last print is wanted."""
    limits: Limits
    mode: Mode

    @property
    def digest(self) -> str:
        """SHA-256 of all of it; a text may hold half a character, so it is hashed in ASCII."""
        return hashlib.sha256(json.dumps(self).encode("ascii")).hexdigest()


class ProgramExecutor(AbstractContextManager["ProgramExecutor"]):
    """Executes programs, `workers` at a time, in the background; use it in a `with` block.

    The sandbox is opened when it is first asked for. `report` says what isolates, or why nothing is executed.
    """

    def __init__(
        self, workers: int, *, kind: SandboxKind | None = None, unsafe: bool = False
    ) -> None:
        self._workers, self._kind, self._unsafe = workers, kind, unsafe
        self._sandbox: Sandbox | None = None
        self._report: SandboxReport | None = None
        self._todo: deque[Program] = deque()
        self._outcomes: dict[Program, Verdict | PrintedValue | None] = {}
        """By program; none while it waits or runs."""
        self._journal: Journal | None = None
        self._kept: dict[str, Verdict | PrintedValue] = {}
        """What a killed run has found, by the digest of the program."""
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self.slowest_canonical_s: float | None = None
        """Processor seconds; none as long as nothing was executed."""
        self.num_executed = 0
        self.num_cached = 0
        """Outcomes that a killed run left; 0 outside of `keeping`."""
        self.busy_s = 0.0
        """Seconds in which programs were executed."""

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            self._todo.clear()
            self._changed.notify_all()
        if self._thread:
            self._thread.join()
        if self._sandbox:
            self._sandbox.__exit__()

    @property
    def report(self) -> SandboxReport:
        """What isolates here; opens the sandbox, which takes a few seconds."""
        if self._report is None:
            try:
                self._sandbox = open_sandbox(self._workers, kind=self._kind, unsafe=self._unsafe)
                self._report = self._sandbox.report
            except SandboxUnavailableError as error:
                self._report = unavailable(error)
        return self._report

    @property
    def num_retried(self) -> int:
        """Programs that ran out of time, and were run again."""
        return self._sandbox.num_retried if self._sandbox else 0

    @contextmanager
    def journaled(self, path: Path) -> Iterator[None]:
        """What is found meanwhile is also kept in a journal at `path`, and what a killed run has left there is known.

        The journal is removed when the block ends well. Its name has to tell apart whatever changes an outcome beside the
        program: what isolates, and the versions of what executes.
        """

        def keep(record: Any) -> None:
            self._kept[str(record["program"])] = from_record(record)

        with Journal(path, keep) as journal:
            with self._changed:
                self._journal, self.num_cached = journal, len(self._kept)
            try:
                yield
            finally:
                with self._changed:
                    self._journal, self.num_cached = None, 0
                    self._kept.clear()
        path.unlink(missing_ok=True)

    def submit(self, program: Program) -> None:
        """Have a program executed soon; nothing happens where nothing is executed.

        Raises:
            EvaluationError: see `outcomes`; said here, it spares whoever is still drawing samples.
        """
        if not self.report.available:
            return
        if self._failure is not None:
            raise self._failure
        with self._changed:
            if program in self._outcomes:
                return
            self._outcomes[program] = self._kept.get(program.digest) if self._kept else None
            if self._outcomes[program] is not None:
                return
            self._todo.append(program)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
                self._thread.start()

    def results(self, programs: Sequence[Program]) -> list[Verdict | PrintedValue] | None:
        """What came of each program, and forget it; none where nothing is executed.

        Raises:
            EvaluationError: a canonical solution does not pass here, so no verdict could be relied on.
        """
        if not self.report.available:
            return None
        for program in programs:
            self.submit(program)
        different = dict.fromkeys(programs)
        with track("execute programs", len(different), "programs") as advance, self._changed:
            left = list(different)
            while left and self._failure is None:
                before, left = (
                    len(left),
                    [program for program in left if self._outcomes[program] is None],
                )
                advance(before - len(left))
                if left:
                    self._changed.wait(_POLL_INTERVAL_S)
            if self._failure is not None:
                raise self._failure
            found = {
                program: outcome
                for program in different
                if (outcome := self._outcomes.pop(program)) is not None
            }
        return [found[program] for program in programs]

    def calibrated(self, limits: Limits) -> Limits:
        """The limits on this machine; those given as long as nothing was executed."""
        return (
            limits.times(self.slowest_canonical_s / CALIBRATION_S)
            if self.slowest_canonical_s
            else limits
        )

    def _work(self) -> None:
        """The background: some programs at a time, until the judge is closed."""
        sandbox = self._sandbox
        try:
            while sandbox and (some := self._next_batch()):
                if self.slowest_canonical_s is None:
                    self.slowest_canonical_s = slowest_canonical_solution(sandbox)
                started = time.monotonic()
                outcomes = self._execute(sandbox, some)
                self.busy_s += time.monotonic() - started
                with self._changed:
                    self.num_executed += len(some)
                    self._outcomes.update(zip(some, outcomes, strict=True))
                    if self._journal:
                        found = zip(some, outcomes, strict=True)
                        self._journal.add(
                            {"program": one.digest, **as_record(outcome)} for one, outcome in found
                        )
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next_batch(self) -> list[Program]:
        """Programs of one kind, as soon as there are any; none when the judge is closed."""
        with self._changed:
            while not self._todo and not self._closing:
                self._changed.wait()
            some: list[Program] = []
            while (
                self._todo
                and len(some) < _BATCH_SIZE
                and (not some or _same_batch(some[0], self._todo[0]))
            ):
                some.append(self._todo.popleft())
            return some

    def _execute(
        self, sandbox: Sandbox, some: Sequence[Program]
    ) -> Sequence[Verdict | PrintedValue]:
        limits = self.calibrated(some[0].limits)
        trials = [one.source for one in some if isinstance(one.source, FunctionTest)]
        if trials:
            return sandbox.test(trials, limits, some[0].mode)
        return sandbox.last_prints(
            [one.source for one in some if isinstance(one.source, str)], limits
        )


def _same_batch(one: Program, other: Program) -> bool:
    same_kind = isinstance(one.source, FunctionTest) == isinstance(other.source, FunctionTest)
    return same_kind and (one.limits, one.mode) == (other.limits, other.mode)


def slowest_canonical_solution(sandbox: Sandbox) -> float:
    """Processor seconds; on the way, proof that what is right passes here.

    Raises:
        EvaluationError: something that is right does not pass.
    """
    problems = load_humaneval()
    trials = [
        FunctionTest(one.prompt, one.canonical_solution, one.test, one.entry_point)
        for one in problems
    ]
    seconds = sandbox.cpu_seconds(trials, Limits(_CALIBRATION_LIMIT_S))
    failed = [
        problem.task_id for problem, taken in zip(problems, seconds, strict=True) if taken is None
    ]
    if failed:
        raise EvaluationError(
            f"the canonical solution of {', '.join(failed[:3])} does not pass ({len(failed)} of {len(problems)} fail)",
            expected="all of them to pass, else no verdict of this machine means anything",
            fix="run `codegen doctor`, look for a lack of memory or an overloaded machine, then run the same command again",
        )
    return max(taken for taken in seconds if taken is not None)
