"""Execution of programs in the background, in real jails."""

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


def program(body: str) -> Program:
    return Program(FunctionTest("def one():\n", f"    {body}\n", CHECK, "one"), LIMITS, "split")


def test_submitted_programs_are_executed_once(executor: ProgramExecutor) -> None:
    right = program("return 1")
    wrong = program("return 2")
    prints = Program("print(3)\n", ResourceLimits(3, 2048), "split")
    num_executed = executor.num_executed
    for submitted in (right, wrong, prints, right):
        executor.submit(submitted)
    first = executor.results([right, prints, right])
    assert first is not None
    assert [first[0], first[2]] == [Verdict("passed")] * 2
    assert isinstance(first[1], PrintedValue)
    assert first[1].value == 3
    assert executor.results([wrong]) == [Verdict("wrong_answer", "AssertionError")]
    assert executor.num_executed == num_executed + 3
    assert executor.slowest_canonical_s is not None
    assert executor.calibrated(LIMITS).cpu_s >= 3


def test_an_endless_program_does_not_stop_the_others(executor: ProgramExecutor) -> None:
    programs = [
        program("while True: pass"),
        *(program(f"return {number}") for number in (1, 2, 1, 3)),
    ]
    num_retried = executor.num_retried
    outcomes = executor.results([item._replace(limits=ResourceLimits(1)) for item in programs])
    assert [verdict.kind for verdict in outcomes or [] if isinstance(verdict, Verdict)] == [
        "time_out",
        "passed",
        "wrong_answer",
        "passed",
        "wrong_answer",
    ]
    assert executor.num_retried == num_retried + 1


PRINTS = [
    "{1: {2, 3}}",
    "[float('nan'), 10**30, (1, 'a')]",
    "object()",
    "__import__('numpy').arange(4.0)",
    "'\\ud83d'",
]


def test_a_resumed_run_does_not_execute_journaled_programs_again(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    """The journal preserves printed values, also those that JSON cannot represent. The executor
    itself forgets outcomes that it has returned."""
    path = tmp_path / "journal.jsonl"
    printing = [Program(f"print({value})\n", ResourceLimits(3, 2048), "split") for value in PRINTS]
    silent = [
        Program(source, ResourceLimits(3, 2048), "split")
        for source in ("x = 1\n", "raise KeyError('it')\n")
    ]
    first = [
        program("return 1"),
        program("return 2"),
        program("raise MemoryError"),
        program("return '\ud83d'"),
        *printing,
        *silent,
    ]
    num_executed = executor.num_executed
    with pytest.raises(KeyboardInterrupt), executor.journaled(path):
        outcomes = executor.results(first)
        raise KeyboardInterrupt
    assert executor.num_executed - num_executed == len(first) == path.read_bytes().count(b"\n")
    path.write_bytes(path.read_bytes() + b'{"program": "torn')
    num_executed = executor.num_executed
    with executor.journaled(path):
        assert executor.num_cached == len(first)
        again = executor.results([*first, program("return 3")])
        repeated = executor.results(first[:1])
    assert executor.num_executed == num_executed + 1
    assert executor.num_cached == 0
    assert outcomes is not None
    assert again is not None
    assert list(map(as_record, again[:-1])) == list(map(as_record, outcomes))
    assert list(map(str, again[:4])) == list(map(str, outcomes[:4]))
    assert repeated == [Verdict("passed")]
    assert not path.exists()
    texts = [value.text for value in again if isinstance(value, PrintedValue)]
    assert texts == [value.text for value in outcomes if isinstance(value, PrintedValue)]
    assert "[0. 1. 2. 3.]" in texts


REPORTING = """
import json, os
body = json.dumps({report}).encode()
for fd in range(3, 64):
    try:
        os.write(fd, len(body).to_bytes(4, "big") + body)
    except OSError:
        pass
os._exit(0)
"""
FORGED_REPORTS = {
    "deep": "{'value': 1, 'str': '', 'more': json.loads('[' * 900 + ']' * 900)}",
    "a deep text": "{'value': 1, 'str': json.loads('[' * 900 + ']' * 900)}",
    "a list as a text": "{'value': 1, 'str': []}",
    "a list as a class": "{'failure': {'class': []}, 'value': 1}",
    "containers": "{'value': 1, 'str': '', 'more': [{}] * 20_000}",
    "valid with another field": "{'value': 1, 'str': '1', 'more': [[[]]]}",
}


def test_forged_reports_are_bounded_and_do_not_break_a_resumed_run(
    tmp_path: Path, executor: ProgramExecutor
) -> None:
    path = tmp_path / "journal.jsonl"
    programs = [
        Program(REPORTING.replace("{report}", report), ResourceLimits(3, 2048), "split")
        for report in FORGED_REPORTS.values()
    ]
    with pytest.raises(KeyboardInterrupt), executor.journaled(path):
        outcomes = executor.results(programs)
        raise KeyboardInterrupt
    assert outcomes is not None
    *invalid, valid = map(as_record, outcomes)
    nothing = {"printed": {"failure": {"class": "exited", "type": ""}}}
    assert invalid == [nothing] * len(invalid)
    assert valid == {"printed": {"failure": None, "value": 1, "str": "1"}}
    with executor.journaled(path):
        assert executor.num_cached == len(programs)
        resumed = executor.results(programs)
    assert list(map(as_record, resumed or [])) == [*invalid, valid]


@pytest.mark.parametrize(
    "damaged",
    [
        '{"program": "x"}',
        '{"program": "x", "verdict": {"class": "won"}}',
        '{"verdict": {"class": "passed"}}',
        "7",
    ],
)
def test_a_program_with_a_damaged_journal_line_is_executed_again(
    tmp_path: Path, executor: ProgramExecutor, damaged: str
) -> None:
    path, wrong = tmp_path / "journal.jsonl", program("return 2")
    path.write_text(damaged.replace('"x"', f'"{wrong.digest}"') + "\n")
    with executor.journaled(path):
        assert executor.results([wrong]) == [Verdict("wrong_answer", "AssertionError")]


def test_limits_and_mode_are_part_of_the_digest() -> None:
    first = program("return 1")
    programs = [
        first,
        first._replace(limits=ResourceLimits(4)),
        first._replace(mode="fast"),
        program("return 2"),
        Program("", LIMITS, "split"),
    ]
    assert len({program.digest for program in programs}) == len(programs)


@pytest.mark.usefixtures("sandbox")
def test_an_executor_can_be_closed_before_its_programs_end() -> None:
    with ProgramExecutor(workers=1) as executor:
        for number in range(600):
            executor.submit(program(f"return {number}"))
    assert executor.report.available


def test_without_a_sandbox_nothing_is_executed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with ProgramExecutor(workers=1, kind="bubblewrap") as executor:
        executor.submit(program("return 1"))
        assert executor.results([program("return 1")]) is None
        assert not executor.report.available
        assert "bubblewrap" in executor.report.missing


@pytest.mark.usefixtures("sandbox")
def test_an_error_in_the_background_is_raised_to_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: object) -> float:
        raise EvaluationError("nothing passes", expected="something", fix="look")

    monkeypatch.setattr(
        "components.evaluation.scoring.program_executor.time_canonical_solutions", fails
    )
    with (
        ProgramExecutor(workers=1) as executor,
        pytest.raises(EvaluationError, match="nothing passes"),
    ):
        executor.results([program("return 1")])
