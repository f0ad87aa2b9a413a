"""The judge at work in the background, in real jails."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import EvaluationError
from components.evaluation.sandbox import (
    FunctionTest,
    PrintedValue,
    ResourceLimits,
    Verdict,
    as_record,
)
from components.evaluation.scoring.program_executor import Program, ProgramExecutor

CHECK = "def check(candidate):\n    assert candidate() == 1\n"
LIMITS = ResourceLimits(3)


def trial(body: str) -> Program:
    return Program(FunctionTest("def one():\n", f"    {body}\n", CHECK, "one"), LIMITS, "split")


@pytest.mark.usefixtures("sandbox")
def test_programs_are_executed_before_they_are_asked_for_and_once() -> None:
    right, wrong, prints = (
        trial("return 1"),
        trial("return 2"),
        Program("print(3)\n", ResourceLimits(3, 2048), "split"),
    )
    with ProgramExecutor(workers=2) as judge:
        for one in (right, wrong, prints, right):
            judge.submit(one)
        first = judge.results([right, prints, right])
        assert first is not None
        assert [first[0], first[2]] == [Verdict("passed")] * 2
        assert isinstance(first[1], PrintedValue)
        assert first[1].value == 3
        assert judge.results([wrong]) == [Verdict("wrong_answer", "AssertionError")]
        assert judge.slowest_canonical_s is not None
        assert judge.calibrated(LIMITS).cpu_s >= 3


@pytest.mark.usefixtures("sandbox")
def test_an_endless_program_is_no_end_of_the_others() -> None:
    programs = [trial("while True: pass"), *(trial(f"return {number}") for number in (1, 2, 1, 3))]
    with ProgramExecutor(workers=2) as judge:
        outcomes = judge.results([one._replace(limits=ResourceLimits(1)) for one in programs])
        assert [one.kind for one in outcomes or [] if isinstance(one, Verdict)] == [
            "time_out",
            "passed",
            "wrong_answer",
            "passed",
            "wrong_answer",
        ]
        assert judge.num_retried == 1


PRINTS = [
    "{1: {2, 3}}",
    "[float('nan'), 10**30, (1, 'a')]",
    "object()",
    "__import__('numpy').arange(4.0)",
    "'\\ud83d'",
]


@pytest.mark.usefixtures("sandbox")
def test_what_a_killed_run_found_is_not_executed_again(tmp_path: Path) -> None:
    """Nor is it changed on the way: what was printed stays as it was sent, though it be no JSON."""
    path = tmp_path / "verdicts.jsonl"
    printing = [Program(f"print({one})\n", ResourceLimits(3, 2048), "split") for one in PRINTS]
    silent = [
        Program(one, ResourceLimits(3, 2048), "split")
        for one in ("x = 1\n", "raise KeyError('it')\n")
    ]
    first = [
        trial("return 1"),
        trial("return 2"),
        trial("raise MemoryError"),
        trial("return '\ud83d'"),
        *printing,
        *silent,
    ]
    with ProgramExecutor(workers=2) as judge:
        with pytest.raises(KeyboardInterrupt), judge.journaled(path):
            found = judge.results(first)
            raise KeyboardInterrupt
        assert judge.num_executed == len(first) == path.read_bytes().count(b"\n")
    path.write_bytes(path.read_bytes() + b'{"program": "torn')
    with ProgramExecutor(workers=2) as judge:
        with judge.journaled(path):
            assert judge.num_cached == len(first)
            again = judge.results([*first, trial("return 3")])
            once_more = judge.results(first[:1])
        assert judge.num_executed == 1
        assert judge.num_cached == 0
    assert found is not None
    assert again is not None
    assert [as_record(one) for one in again[:-1]] == [as_record(one) for one in found]
    assert [str(one) for one in again[:4]] == [str(one) for one in found[:4]]
    assert once_more == [Verdict("passed")]
    assert not path.exists()
    texts = [one.text for one in again if isinstance(one, PrintedValue)]
    assert texts == [one.text for one in found if isinstance(one, PrintedValue)]
    assert "[0. 1. 2. 3.]" in texts


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "damaged",
    [
        '{"program": "x"}',
        '{"program": "x", "verdict": {"class": "won"}}',
        '{"verdict": {"class": "passed"}}',
        "7",
    ],
)
def test_a_line_that_is_no_verdict_is_executed_again(tmp_path: Path, damaged: str) -> None:
    path, wrong = tmp_path / "verdicts.jsonl", trial("return 2")
    path.write_text(damaged.replace('"x"', f'"{wrong.digest}"') + "\n")
    with ProgramExecutor(workers=1) as judge, judge.journaled(path):
        assert judge.results([wrong]) == [Verdict("wrong_answer", "AssertionError")]


def test_another_limit_or_mode_is_another_program() -> None:
    one = trial("return 1")
    others = [
        one,
        one._replace(limits=ResourceLimits(4)),
        one._replace(mode="fast"),
        trial("return 2"),
        Program("", LIMITS, "split"),
    ]
    assert len({other.digest for other in others}) == len(others)


@pytest.mark.usefixtures("sandbox")
def test_a_judge_that_is_closed_early_ends() -> None:
    with ProgramExecutor(workers=1) as judge:
        for number in range(600):
            judge.submit(trial(f"return {number}"))
    assert judge.report.available


def test_without_isolation_nothing_is_executed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with ProgramExecutor(workers=1, kind="bubblewrap") as judge:
        judge.submit(trial("return 1"))
        assert judge.results([trial("return 1")]) is None
        assert not judge.report.available
        assert "bubblewrap" in judge.report.missing


@pytest.mark.usefixtures("sandbox")
def test_a_failure_in_the_background_reaches_the_one_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: object) -> float:
        raise EvaluationError("nothing passes", expected="something", fix="look")

    monkeypatch.setattr(
        "components.evaluation.scoring.program_executor.time_canonical_solutions", fails
    )
    with (
        ProgramExecutor(workers=1) as judge,
        pytest.raises(EvaluationError, match="nothing passes"),
    ):
        judge.results([trial("return 1")])
