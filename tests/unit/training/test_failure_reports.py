"""The flow raises the error that a rank reported."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from fixtures.tmpfs import limited_disk

from components.core.errors import (
    CodegenError,
    ConfigError,
    DiskFullError,
    StageInterruptedError,
    StageLockedError,
    TrainingError,
)
from components.training.launch.failure import (
    clear_failure,
    explain_failure,
    has_failure_report,
    report_failure,
    wrap_os_errors,
)


def test_a_platform_error_keeps_its_class_and_its_three_parts(tmp_path: Path) -> None:
    report_failure(tmp_path, 1, DiskFullError("1 MB is free", expected="2 MB", fix="free some"))
    error = explain_failure(tmp_path, tmp_path / "log", "nl")
    assert type(error) is DiskFullError
    assert (error.got, error.expected, error.fix) == ("1 MB is free", "2 MB", "free some")


def test_another_error_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    try:
        {}["missing"]
    except KeyError as error:
        report_failure(tmp_path, 3, error)
    raised = explain_failure(tmp_path, tmp_path / "observed" / "train.log", "mono")
    assert type(raised) is StageInterruptedError
    assert raised.got.startswith("stage mono: rank 3 failed")
    assert raised.got.endswith("KeyError: 'missing'")
    assert "observed/train.log" in raised.fix


def test_the_first_report_counts_until_it_is_cleared(tmp_path: Path) -> None:
    def explained() -> CodegenError:
        return explain_failure(tmp_path, tmp_path / "log", "nl")

    report_failure(tmp_path, 0, ValueError("the cause"))
    report_failure(tmp_path, 1, ValueError("a consequence"))
    assert "the cause" in explained().got
    clear_failure(tmp_path)
    report_failure(tmp_path, 1, ValueError("another"))
    assert "another" in explained().got


def test_no_report_is_written_to_the_folder_of_another_trainer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other trainer's ranks would end."""
    locked = StageLockedError("another trainer is running", expected="one trainer", fix="wait")
    report_failure(tmp_path, 0, locked)
    assert not has_failure_report(tmp_path)
    (tmp_path / "log").write_text(capsys.readouterr().out)
    assert type(explain_failure(tmp_path, tmp_path / "log", "nl")) is StageLockedError


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_without_write_access_is_a_training_error(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(TrainingError, match=rf"work/x: {os.strerror(number)}") as refused,
        wrap_os_errors(tmp_path),
    ):
        raise OSError(number, os.strerror(number), "work/x")
    assert str(tmp_path) in refused.value.expected
    with pytest.raises(FileNotFoundError), wrap_os_errors(tmp_path):
        (tmp_path / "absent").read_text()


LOST_CONNECTIONS = [
    "[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer. This is typically",
    "Connection closed by peer [127.0.0.1]",
    "NCCL error: remote process exited or there was a network error, ncclRemoteError",
]


@pytest.mark.parametrize("message", LOST_CONNECTIONS)
def test_a_lost_connection_is_not_reported_and_the_log_is_shown(
    tmp_path: Path, message: str
) -> None:
    report_failure(tmp_path, 0, RuntimeError(message))
    assert not has_failure_report(tmp_path)
    log = tmp_path / "log"
    lines = [f"line {number}\n" for number in range(100)]
    log.write_text("".join([*lines, "exits with return code = -9\n"]))
    raised = explain_failure(tmp_path, log, "nl")
    assert "no rank reported a reason" in raised.got
    assert raised.got.endswith("exits with return code = -9")
    assert "line 88" not in raised.got
    assert "line 89" in raised.got


def test_a_rank_without_the_folder_reports_through_the_log_of_this_attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for got in ("an earlier attempt", "this attempt"):
        report_failure(tmp_path / "absent" / "work", 1, ConfigError(got, expected="e", fix="d"))
    assert not (tmp_path / "absent").exists()
    earlier_line, line = capsys.readouterr().out.splitlines(keepends=True)
    log = tmp_path / "log"
    log.write_text(f"{earlier_line}1: {line}later\n")  # Slurm can add the number of the task.
    error = explain_failure(tmp_path / "work", log, "nl", log_start=len(earlier_line.encode()))
    assert type(error) is ConfigError
    assert error.got == "this attempt"


def test_a_disk_that_is_too_full_for_a_report_is_a_disk_full_error(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "disk", size_kb=64) as disk:
        (disk / "work").mkdir()
        with suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
            while fill.write(b"x" * 4096):
                pass
        full = DiskFullError("no space for step 4", expected="space", fix="free some")
        report_failure(disk / "work", 0, full)
        error = explain_failure(disk / "work", disk / "train.log", "nl")
        assert type(error) is DiskFullError
        assert str(disk / "work") in error.got
        log = tmp_path / "train.log"  # On another disk.
        report = {"rank": 0, "kind": "DiskFullError", "got": "g", "expected": "", "fix": ""}
        log.write_text(f'reported: {{"rank": 1, "go\nreported: {json.dumps(report)}\n')
        assert explain_failure(disk / "work", log, "nl").got == "g"


def test_without_report_and_log_the_error_names_the_stage(tmp_path: Path) -> None:
    assert "stage nl" in explain_failure(tmp_path / "gone", tmp_path / "log", "nl").got
