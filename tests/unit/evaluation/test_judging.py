"""The judge at work in the background, in real jails."""

from __future__ import annotations

import pytest

from components.core.errors import EvaluationError
from components.evaluation.judging import Judge, Program
from components.evaluation.sandbox import Limits, Printed, Trial, Verdict

CHECK = "def check(candidate):\n    assert candidate() == 1\n"
LIMITS = Limits(3)


def trial(body: str) -> Program:
    return Program(Trial("def one():\n", f"    {body}\n", CHECK, "one"), LIMITS, "split")


@pytest.mark.usefixtures("sandbox")
def test_programs_are_executed_before_they_are_asked_for_and_once() -> None:
    right, wrong, prints = trial("return 1"), trial("return 2"), Program("print(3)\n", Limits(3, 2048), "split")
    with Judge(workers=2) as judge:
        for one in (right, wrong, prints, right):
            judge.begin(one)
        first = judge.outcomes([right, prints, right])
        assert first is not None
        assert [first[0], first[2]] == [Verdict("passed")] * 2
        assert isinstance(first[1], Printed)
        assert first[1].value == 3
        assert judge.outcomes([wrong]) == [Verdict("wrong_answer", "AssertionError")]
        assert judge.slowest_canonical_s is not None
        assert judge.calibrated(LIMITS).cpu_s >= 3


@pytest.mark.usefixtures("sandbox")
def test_an_endless_program_is_no_end_of_the_others() -> None:
    programs = [trial("while True: pass"), *(trial(f"return {number}") for number in (1, 2, 1, 3))]
    with Judge(workers=2) as judge:
        outcomes = judge.outcomes([one._replace(limits=Limits(1)) for one in programs])
        assert [one.kind for one in outcomes or [] if isinstance(one, Verdict)] == [
            "time_out",
            "passed",
            "wrong_answer",
            "passed",
            "wrong_answer",
        ]
        assert judge.num_retried == 1


@pytest.mark.usefixtures("sandbox")
def test_a_judge_that_is_closed_early_ends() -> None:
    with Judge(workers=1) as judge:
        for number in range(600):
            judge.begin(trial(f"return {number}"))
    assert judge.report.available


def test_without_isolation_nothing_is_executed(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Judge(workers=1, kind="bubblewrap") as judge:
        judge.begin(trial("return 1"))
        assert judge.outcomes([trial("return 1")]) is None
        assert not judge.report.available
        assert "bubblewrap" in judge.report.missing


@pytest.mark.usefixtures("sandbox")
def test_a_failure_in_the_background_reaches_the_one_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> float:
        raise EvaluationError("nothing passes", expected="something", do="look")

    monkeypatch.setattr("components.evaluation.judging.slowest_canonical_solution", fails)
    with Judge(workers=1) as judge, pytest.raises(EvaluationError, match="nothing passes"):
        judge.outcomes([trial("return 1")])
