"""A program that reaches its limit of CPU time is reported as such and runs again alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from fixtures.function_tests import RETURNS_ONE

from components.evaluation.sandbox import ExecutionMode, ResourceLimits, Sandbox
from components.evaluation.sandbox.jailed.lockdown import limited_cpu_s

LIMITS = ResourceLimits(cpu_s=1)
SPIN = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass"


def test_the_kernel_kills_a_process_when_its_limited_cpu_time_reaches_the_limit() -> None:
    """The time is read after the process has ended and before it is reaped."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert limited_cpu_s(process.pid) >= 1
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_a_program_that_the_kernel_kills_timed_out(sandbox: Sandbox, mode: ExecutionMode) -> None:
    """No handler of a signal runs in a loop of C code."""
    num_retried = sandbox.num_retried
    loop = RETURNS_ONE._replace(completion="    return sum(iter(int, 1))\n")
    verdicts = sandbox.run_tests([loop], LIMITS, mode)
    assert [verdict.kind for verdict in verdicts] == ["time_out"]
    assert sandbox.num_retried == num_retried + 1


@pytest.mark.parametrize(
    ("after", "kind"),
    [("return 1", "passed"), ("return 2", "wrong_answer"), ("import os; os._exit(0)", "time_out")],
)
def test_a_program_that_handles_the_signal_runs_again(
    sandbox: Sandbox, after: str, kind: str
) -> None:
    """Its outcome depends on the time that it had."""
    num_retried = sandbox.num_retried
    completion = f"""    try:
        while True:
            x = 1
    except Exception: {after}
"""
    program = RETURNS_ONE._replace(completion=completion)
    (verdict,) = sandbox.run_tests([program], LIMITS, "fast")
    assert (verdict.kind, sandbox.num_retried) == (kind, num_retried + 1)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.abort()", "os.kill(os.getpid(), 9); 1 / 0"])
def test_a_program_that_ends_itself_did_not_time_out(every_sandbox: Sandbox, end: str) -> None:
    num_retried = every_sandbox.num_retried
    program = RETURNS_ONE._replace(completion=f"    import os; {end}\n")
    (verdict,) = every_sandbox.run_tests([program], LIMITS)
    # The first process of a namespace survives its own SIGKILL.
    assert verdict.kind in ("exited", "exception")
    assert every_sandbox.num_retried == num_retried
