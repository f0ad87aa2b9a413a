"""The door of the sandbox: many programs, a few at a time, after a self-test.

One decision: isolation is chosen and proved once, when a sandbox is opened, and what was chosen is part of its report. The
workers are threads: they only wait for processes. Not covered: a warm interpreter that forks for every program; each one
starts cold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import Field

from components.core.config import Config
from components.core.errors import SandboxUnavailable
from components.core.progress import track
from components.evaluation.sandbox.bubblewrap import Bubblewrap
from components.evaluation.sandbox.execution import Runner, Trial
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.self_test import self_test
from components.evaluation.sandbox.system_calls import seccomp_program
from components.evaluation.sandbox.verdict import Printed, Verdict
from components.evaluation.sandbox.view import this_interpreter

Work = TypeVar("Work")
Result = TypeVar("Result")


class SandboxReport(Config):
    """What isolates programs on this machine, or why nothing does. Recorded in every result."""

    available: bool
    isolation: str = ""
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


class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """Runs programs in jails, `workers` at a time, until it is closed."""

    def __init__(self, runner: Runner, workers: int, report: SandboxReport) -> None:
        self._runner, self._workers, self.report = runner, workers, report

    def __exit__(self, *_: object) -> None:
        self._runner.__exit__()

    def test(self, trials: Sequence[Trial], limits: Limits) -> list[Verdict]:
        """The verdict on each trial."""
        return self._all(lambda trial: self._runner.test(trial, limits), trials)

    def last_prints(self, sources: Sequence[str], limits: Limits) -> list[Printed]:
        """What each program printed last."""
        return self._all(lambda source: self._runner.last_print(source, limits), sources)

    def _all(self, run: Callable[[Work], Result], work: Sequence[Work]) -> list[Result]:
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="sandbox")
        try:
            with track("execute programs", len(work), "programs") as advance:
                return list(_counted(pool.map(run, work), advance))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _counted(results: Iterable[Result], advance: Callable[[int], None]) -> Iterable[Result]:
    for result in results:
        advance(1)
        yield result


def open_sandbox(workers: int) -> Sandbox:
    """A sandbox whose self-test has passed; close it, or use it in a `with` block.

    Raises:
        SandboxUnavailable: isolation cannot be had on this machine, or did not hold; nothing has been executed then.
    """
    view = this_interpreter()
    runner = Runner(Bubblewrap(view), view.environment, seccomp_program())
    try:
        checks = self_test(runner)
    except BaseException:
        runner.__exit__()
        raise
    return Sandbox(runner, workers, SandboxReport(available=True, isolation=runner.jail.description, self_test=checks))


def probe() -> SandboxReport:
    """What `open_sandbox` would find. Takes a second or two: it runs the self-test."""
    try:
        with open_sandbox(workers=1) as sandbox:
            return sandbox.report
    except SandboxUnavailable as error:
        return unavailable(error)


def unavailable(error: SandboxUnavailable) -> SandboxReport:
    """The report of a sandbox that could not be had."""
    return SandboxReport(available=False, missing=error.got, remedy=error.do)
