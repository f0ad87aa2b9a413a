"""What a rank reports is what the flow raises."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from fixtures.tmpfs import limited_disk

from components.core.errors import (
    CodegenError,
    ConfigError,
    DiskFullError,
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


def test_an_error_of_ours_keeps_its_kind_and_its_three_parts(tmp_path: Path) -> None:
    report_failure(tmp_path, 1, DiskFullError("1 MB is free", expected="2 MB", fix="free some"))
    error = explain_failure(tmp_path, tmp_path / "log", "nl")
    assert type(error) is DiskFullError
    assert (error.got, error.expected, error.fix) == ("1 MB is free", "2 MB", "free some")


def test_any_other_error_is_told_by_its_last_lines(tmp_path: Path) -> None:
    try:
        {}["missing"]
    except KeyError as error:
        report_failure(tmp_path, 3, error)
    told = explain_failure(tmp_path, tmp_path / "observed" / "train.log", "mono")
    assert type(told) is TrainingError
    assert told.got.startswith("stage mono: rank 3 failed")
    assert told.got.endswith("KeyError: 'missing'")
    assert "observed/train.log" in told.fix


def test_the_first_report_counts_until_it_is_forgotten(tmp_path: Path) -> None:
    def told() -> CodegenError:
        return explain_failure(tmp_path, tmp_path / "log", "nl")

    report_failure(tmp_path, 0, ValueError("the cause"))
    report_failure(tmp_path, 1, ValueError("a consequence"))
    assert "the cause" in told().got
    clear_failure(tmp_path)
    report_failure(tmp_path, 1, ValueError("another"))
    assert "another" in told().got


def test_another_trainers_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ranks look for a report there, and end when there is one."""
    report_failure(
        tmp_path, 0, StageLockedError("another trainer is at work", expected="one", fix="wait")
    )
    assert not has_failure_report(tmp_path)
    (tmp_path / "log").write_text(capsys.readouterr().out)
    assert type(explain_failure(tmp_path, tmp_path / "log", "nl")) is StageLockedError


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_may_not_be_written_to_is_one_clear_error(
    number: int, tmp_path: Path
) -> None:
    with (
        pytest.raises(TrainingError, match=rf"work/x is refused: {os.strerror(number)}") as refused,
        wrap_os_errors(tmp_path),
    ):
        raise OSError(number, os.strerror(number), "work/x")
    assert str(tmp_path) in refused.value.expected
    with pytest.raises(FileNotFoundError), wrap_os_errors(tmp_path):
        (tmp_path / "absent").read_text()


LOST = [
    "[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer. This is typically",
    "Connection closed by peer [127.0.0.1]",
    "NCCL error: remote process exited or there was a network error, ncclRemoteError",
]


@pytest.mark.parametrize("said", LOST)
def test_a_lost_neighbour_is_no_reason_so_the_log_is_told(tmp_path: Path, said: str) -> None:
    report_failure(tmp_path, 0, RuntimeError(said))
    assert not has_failure_report(tmp_path)
    log = tmp_path / "log"
    log.write_text(
        "".join(f"line {number}\n" for number in range(100)) + "exits with return code = -9\n"
    )
    told = explain_failure(tmp_path, log, "nl")
    assert "no rank could say why" in told.got
    assert told.got.endswith("exits with return code = -9")
    assert "line 88" not in told.got
    assert "line 89" in told.got


def test_a_rank_that_does_not_see_the_folder_is_heard_through_this_attempts_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for got in ("an earlier attempt's", "this attempt's"):
        report_failure(tmp_path / "absent" / "work", 1, ConfigError(got, expected="e", fix="d"))
    assert not (tmp_path / "absent").exists()
    before, now = capsys.readouterr().out.splitlines(keepends=True)
    log = tmp_path / "log"
    log.write_text(f"{before}1: {now}later\n")  # Slurm can put the number of the task before it.
    error = explain_failure(tmp_path / "work", log, "nl", log_start=len(before.encode()))
    assert type(error) is ConfigError
    assert error.got == "this attempt's"


def test_a_disk_that_is_too_full_for_the_reason_is_the_reason(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "disk", size_kb=64) as disk:
        (disk / "work").mkdir()
        with suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
            while fill.write(b"x" * 4096):
                pass
        report_failure(
            disk / "work", 0, DiskFullError("no room for step 4", expected="room", fix="free some")
        )
        error = explain_failure(disk / "work", disk / "train.log", "nl")
        assert type(error) is DiskFullError
        assert str(disk / "work") in error.got
        log = tmp_path / "train.log"  # On another disk.
        log.write_text(
            'reported: {"rank": 1, "go\nreported: {"rank": 0, "kind": "StorageFull", "got": "g", "expected": "", "fix": ""}\n'
        )
        assert explain_failure(disk / "work", log, "nl").got == "g"


def test_no_report_and_no_log(tmp_path: Path) -> None:
    assert "stage nl" in explain_failure(tmp_path / "gone", tmp_path / "log", "nl").got
