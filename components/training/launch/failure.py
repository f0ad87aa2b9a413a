"""Failure reports: how a failed rank passes its error to the flow.

If a rank fails, the others lose their connection and fail too, so only the first report counts and
a lost connection is not reported. The report is a JSON file in the stage's work folder, where the
other ranks see it, and a line of the log, for a rank whose host does not share the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.core import errors
from components.core.errors import (
    CodegenError,
    DiskFullError,
    OutOfMemoryError,
    StageInterruptedError,
    StageLockedError,
    TrainingError,
)
from components.core.files import parse_json, read_json

_REPORT_FILE = "failure.json"
_NUM_LAST_LINES = 12
_MAX_REPORT_BYTES = 100_000
"""More than a report takes, with its traceback in the log (assumption)."""
_LOG_PREFIX = "reported: "
_LOST_CONNECTION_MESSAGES = (
    *("Connection closed by peer", "Connection reset by peer", "Timed out waiting"),
    *("Connection was likely closed", "Broken pipe", "recv, got 0 bytes"),
    *("Connection closed by remote peer", "remote process exited", "ncclRemoteError"),
)
"""Errors of gloo, torch's store and NCCL in a rank whose neighbour ended."""


def report_failure(work: Path, rank: int, error: Exception) -> None:
    """Write the report, unless another rank was first or the error is a lost connection."""
    if any(message in str(error) for message in _LOST_CONNECTION_MESSAGES):
        return
    if isinstance(error, CodegenError):
        report = _report_of(error)
    else:
        lines = "".join(traceback.format_exception(error)).splitlines()
        report = {"kind": type(error).__name__, "lines": lines[-_NUM_LAST_LINES:]}
    document = json.dumps({"rank": rank, **report})
    # A report in the folder of another trainer would end that trainer.
    if not isinstance(error, StageLockedError):
        _write_report(work, document)
    print(f"{_LOG_PREFIX}{document}", flush=True)


def write_failure(work: Path, error: CodegenError) -> None:
    """Write a report of the launcher, so that the supervisors end their ranks."""
    _write_report(work, json.dumps(_report_of(error)))


def _report_of(error: CodegenError) -> dict[str, Any]:
    parts = {"got": error.got, "expected": error.expected, "fix": error.fix}
    return {"kind": type(error).__name__, **parts}


def _write_report(work: Path, document: str) -> None:
    # The stage's folder is not created: if it is absent, this host does not share the file system.
    # Errors are suppressed, e.g. of a full disk: the log may be on another disk.
    with contextlib.suppress(OSError):
        work.mkdir(exist_ok=True)
        with (work / _REPORT_FILE).open("x", encoding="utf-8") as file:
            file.write(document)


@contextlib.contextmanager
def wrap_os_errors(folder: Path) -> Iterator[None]:
    """Turn a permission error or a read-only file system into a `TrainingError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise TrainingError(
            f"no access to {error.filename}: {error.strerror}",
            expected=f"a stage folder that this user may write, {folder}, and readable inputs",
            fix="change the permissions, then run the same command again to resume",
        ) from error


def wrap_oom(error: Exception, rank: int) -> Exception:
    """torch's out-of-memory errors as `OutOfMemoryError`; other errors unchanged."""
    if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
        return error
    return OutOfMemoryError(
        f"rank {rank} is out of memory: {str(error).splitlines()[0]}",
        expected="memory for weights, optimizer and the activations of a micro-batch",
        fix="use a smaller micro_batch, or auto; `codegen plan` shows other settings that save "
        "memory",
    )


def has_failure_report(work: Path) -> bool:
    """Whether a rank of this attempt has failed."""
    return (work / _REPORT_FILE).exists()


def clear_failure(work: Path) -> None:
    """Remove the report of an earlier attempt."""
    (work / _REPORT_FILE).unlink(missing_ok=True)


def explain_failure(work: Path, log: Path, stage: str, log_start: int = 0) -> CodegenError:
    """The error of a stage that ended without a result.

    Args:
        log_start: the byte at which this attempt's part of the log begins.
    """
    log_lines: list[str] = []
    if log.exists():
        log_lines = log.read_bytes()[log_start:].decode(errors="replace").splitlines()
    report = _read_report(work) or _find_logged_report(log_lines)
    if report is None and _is_disk_full(work):
        return DiskFullError(
            f"stage {stage} ended, and the disk of {work} is too full for a failure report",
            expected="space for checkpoints and logs",
            fix="free space or point the workspace at a larger disk, then run the same command "
            "again to resume",
        )
    if report is None:
        summary = "the trainer ended before the last step, and no rank reported a reason"
        return _error_with_lines(stage, summary, log_lines[-_NUM_LAST_LINES:], log)
    if "got" in report:
        error_class = getattr(errors, report["kind"], TrainingError)
        return error_class(report["got"], expected=report["expected"], fix=report["fix"])
    return _error_with_lines(stage, f"rank {report['rank']} failed", report["lines"], log)


def _read_report(work: Path) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = read_json(work / _REPORT_FILE)
    except (OSError, ValueError):
        return None
    return report


def _find_logged_report(log_lines: list[str]) -> dict[str, Any] | None:
    """The first complete report in a log; a full disk truncates reports."""
    for line in log_lines:
        if _LOG_PREFIX in line:
            with contextlib.suppress(ValueError):
                report: dict[str, Any] = parse_json(line.partition(_LOG_PREFIX)[2])
                return report
    return None


def _is_disk_full(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < _MAX_REPORT_BYTES


def _error_with_lines(
    stage: str, summary: str, lines: list[str], log: Path
) -> StageInterruptedError:
    return StageInterruptedError(
        "\n    ".join([f"stage {stage}: {summary}; the last lines are", *lines]),
        expected="every rank to reach the last step",
        fix=f"read {log}, then run the same command again to resume from the last checkpoint",
    )
