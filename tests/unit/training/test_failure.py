"""What a rank reports is what the flow raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import CodegenError, StorageFull, TrainingError
from components.training.failure import explain_failure, forget_failure, report_failure


def test_an_error_of_ours_keeps_its_kind_and_its_three_parts(tmp_path: Path) -> None:
    report_failure(tmp_path, 1, StorageFull("1 MB is free", expected="2 MB", do="free some"))
    error = explain_failure(tmp_path, tmp_path / "log", "nl")
    assert type(error) is StorageFull
    assert (error.got, error.expected, error.do) == ("1 MB is free", "2 MB", "free some")


def test_any_other_error_is_told_by_its_last_lines(tmp_path: Path) -> None:
    try:
        {}["missing"]
    except KeyError as error:
        report_failure(tmp_path, 3, error)
    told = explain_failure(tmp_path, tmp_path / "observed" / "train.log", "mono")
    assert type(told) is TrainingError
    assert told.got.startswith("stage mono: rank 3 failed")
    assert told.got.endswith("KeyError: 'missing'")
    assert "observed/train.log" in told.do


def test_the_first_report_counts_until_it_is_forgotten(tmp_path: Path) -> None:
    def told() -> CodegenError:
        return explain_failure(tmp_path, tmp_path / "log", "nl")

    report_failure(tmp_path, 0, ValueError("the cause"))
    report_failure(tmp_path, 1, ValueError("a consequence"))
    assert "the cause" in told().got
    forget_failure(tmp_path)
    report_failure(tmp_path, 1, ValueError("another"))
    assert "another" in told().got


@pytest.mark.parametrize("said", ["Connection reset by peer. This is typically", "Connection closed by peer [127.0.0.1]"])
def test_a_lost_neighbour_is_no_reason_so_the_log_is_told(tmp_path: Path, said: str) -> None:
    report_failure(tmp_path, 0, RuntimeError(f"[gloo/transport/tcp/pair.cc:537] Read error: {said}"))
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "exits with return code = -9\n")
    told = explain_failure(tmp_path, log, "nl")
    assert "want of memory" in told.got
    assert told.got.endswith("exits with return code = -9")
    assert "line 88" not in told.got
    assert "line 89" in told.got


def test_no_report_and_no_log(tmp_path: Path) -> None:
    assert "stage nl" in explain_failure(tmp_path / "gone", tmp_path / "log", "nl").got
