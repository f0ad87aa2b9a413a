"""Whose verdict is it? Replies that nobody waits for any more, or that never came, must not become another program's."""

from __future__ import annotations

from typing import Any, cast

import psutil
import pytest

from components.evaluation.sandbox import FunctionTest, ResourceLimits, SandboxKind, open_sandbox

LIMITS = ResourceLimits(cpu_s=1, memory_mib=512)
RIGHT = FunctionTest(
    "def one():\n    '1.'\n",
    "    return 1\n",
    "def check(candidate):\n    assert candidate() == 1\n",
    "one",
)
WRONG = RIGHT._replace(completion="    return 2\n")
TURNS, KINDS = [WRONG, RIGHT] * 5, ["wrong_answer", "passed"] * 5


def _below(process: psutil.Process) -> list[psutil.Process]:
    """The longest line of descent: in an idle jail its end is the judge."""
    return [process, *max((_below(child) for child in process.children()), key=len, default=[])]


def test_a_judge_that_is_ended_between_two_programs_costs_nobody_a_verdict(
    sandbox_kind: SandboxKind,
) -> None:
    others = set(psutil.Process().children())
    with open_sandbox(workers=1, kind=sandbox_kind) as sandbox:
        (jail,) = set(psutil.Process().children()) - others
        for _ in range(3):
            assert [verdict.kind for verdict in sandbox.test(TURNS, LIMITS)] == KINDS
            *_, judges, judge = _below(jail)
            judge.kill()  # as the kernel does where memory is short
            psutil.wait_procs([judge], timeout=60)
            assert judges.is_running()
        assert [verdict.kind for verdict in sandbox.test(TURNS, LIMITS)] == KINDS


def test_a_judge_that_dies_over_each_program_gives_each_its_own_verdict(
    sandbox_kind: SandboxKind,
) -> None:
    ended = RIGHT._replace(
        test="import os\ndef check(candidate):\n    candidate()\n    os.abort()\n"
    )
    with open_sandbox(workers=1, kind=sandbox_kind) as sandbox:
        verdicts = sandbox.test([ended, RIGHT, ended, ended, WRONG, RIGHT], LIMITS)
    assert [verdict.kind for verdict in verdicts] == [
        "exited",
        "passed",
        "exited",
        "exited",
        "wrong_answer",
        "passed",
    ]


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_a_batch_that_ends_in_an_error_leaves_no_verdict_for_the_next(
    sandbox_kind: SandboxKind, mode: Any
) -> None:
    with open_sandbox(workers=1, kind=sandbox_kind) as sandbox:
        for _ in range(2):
            with pytest.raises(TypeError):
                sandbox.test([RIGHT, cast(FunctionTest, None)], LIMITS, mode)
            assert [verdict.kind for verdict in sandbox.test(TURNS, LIMITS, mode)] == KINDS
