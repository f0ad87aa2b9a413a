"""A stale or missing reply must not become the verdict of another program."""

from __future__ import annotations

from typing import Any, cast

import psutil
import pytest
from fixtures.function_tests import RETURNS_ONE

from components.evaluation.sandbox import (
    FunctionTest,
    ResourceLimits,
    Sandbox,
    SandboxKind,
    open_sandbox,
)

LIMITS = ResourceLimits(cpu_s=1, memory_mib=512)
WRONG = RETURNS_ONE._replace(completion="    return 2\n")
ALTERNATING, KINDS = [WRONG, RETURNS_ONE] * 5, ["wrong_answer", "passed"] * 5


def _deepest_line(process: psutil.Process) -> list[psutil.Process]:
    """Return the longest line of descendants: in an idle jail it ends with the test runner."""
    return [
        process,
        *max((_deepest_line(child) for child in process.children()), key=len, default=[]),
    ]


def test_a_test_runner_killed_between_programs_changes_no_verdict(
    sandbox_kind: SandboxKind,
) -> None:
    other_children = set(psutil.Process().children())
    with open_sandbox(workers=1, kind=sandbox_kind) as sandbox:
        (jail,) = set(psutil.Process().children()) - other_children
        for _ in range(3):
            assert [verdict.kind for verdict in sandbox.run_tests(ALTERNATING, LIMITS)] == KINDS
            *_, server, test_runner = _deepest_line(jail)
            test_runner.kill()  # as the kernel does when memory is exhausted
            psutil.wait_procs([test_runner], timeout=60)
            assert server.is_running()
        assert [verdict.kind for verdict in sandbox.run_tests(ALTERNATING, LIMITS)] == KINDS


def test_a_test_runner_that_dies_gives_each_program_its_verdict(single_jail: Sandbox) -> None:
    aborts = RETURNS_ONE._replace(
        test="import os\ndef check(candidate):\n    candidate()\n    os.abort()\n"
    )
    verdicts = single_jail.run_tests(
        [aborts, RETURNS_ONE, aborts, aborts, WRONG, RETURNS_ONE], LIMITS
    )
    assert [verdict.kind for verdict in verdicts] == [
        "exited",
        "passed",
        "exited",
        "exited",
        "wrong_answer",
        "passed",
    ]


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_a_failed_batch_leaves_no_verdict_for_the_next(single_jail: Sandbox, mode: Any) -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            single_jail.run_tests([RETURNS_ONE, cast(FunctionTest, None)], LIMITS, mode)
        verdicts = single_jail.run_tests(ALTERNATING, LIMITS, mode)
        assert [verdict.kind for verdict in verdicts] == KINDS
