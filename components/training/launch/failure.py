"""How a rank that fails tells the flow why: a small JSON document, written by the first one that fails.

When one rank fails, the others lose their connection and fail too. Only the first report counts, and a lost connection is
none. The document lies in the stage's work folder, where the other ranks see it too, and is a line of the launcher's log as
well: a rank that does not see the folder can only tell its log.
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
    StageLockedError,
    TrainingError,
)
from components.core.files import read_json

_FAILURE = "failure.json"
_LAST_LINES = 12
_REASON_BYTES = 100_000
"""More than a reason takes, with its traceback in the log (assumption)."""
_MARK = "reported: "
_LOST_CONNECTION = (
    *("Connection closed by peer", "Connection reset by peer", "Timed out waiting"),
    *("Connection was likely closed", "Broken pipe", "recv, got 0 bytes"),
    *("Connection closed by remote peer", "remote process exited", "ncclRemoteError"),
)
"""What gloo, torch's store and NCCL say in a rank whose neighbour ended."""


def report_failure(work: Path, rank: int, error: Exception) -> None:
    """Leave the reason in the folder, unless another rank was first or the error only says that one was."""
    if any(said in str(error) for said in _LOST_CONNECTION):
        return
    reason: dict[str, Any] = {"rank": rank, "kind": type(error).__name__}
    if isinstance(error, CodegenError):
        reason |= {"got": error.got, "expected": error.expected, "fix": error.fix}
    else:
        reason["lines"] = "".join(traceback.format_exception(error)).splitlines()[-_LAST_LINES:]
    document = json.dumps(reason)
    # What lies in the folder of another trainer would be taken for its own failure, and end it.
    if not isinstance(error, StageLockedError):
        _write_report(work, document)
    print(f"{_MARK}{document}", flush=True)


def _write_report(work: Path, document: str) -> None:
    # The stage's own folder is not made: where it is absent, this host does not share the flow's file system. On a full disk
    # nothing can be written, and the log, which may lie on another one, is still told.
    with contextlib.suppress(OSError):
        work.mkdir(exist_ok=True)
        with (work / _FAILURE).open("x", encoding="utf-8") as file:
            file.write(document)


@contextlib.contextmanager
def wrap_os_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder that may not be written to into a `TrainingError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise TrainingError(
            f"{error.filename} is refused: {error.strerror}",
            expected=f"a stage's folder that this user may write to, {folder}, and inputs that it may read",
            fix="mend that, then run the same command again: it goes on from the last checkpoint",
        ) from error


def wrap_oom(error: Exception, rank: int) -> Exception:
    """An error of torch's that says that there is no memory as one of ours, any other as it is."""
    if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
        return error
    return OutOfMemoryError(
        f"rank {rank} has no memory left: {str(error).splitlines()[0]}",
        expected="weights, optimizer and the activations of a micro-batch to fit",
        fix="use a smaller micro_batch, or auto; `codegen plan` says what else needs less",
    )


def was_reported(work: Path) -> bool:
    """Whether a rank has failed since the stage was started."""
    return (work / _FAILURE).exists()


def clear_failure(work: Path) -> None:
    """Remove what an earlier attempt reported."""
    (work / _FAILURE).unlink(missing_ok=True)


def explain_failure(work: Path, log: Path, stage: str, log_start: int = 0) -> CodegenError:
    """The error to raise for a stage that ended without a result; its part of the log begins at byte `log_start`."""
    said = (
        log.read_bytes()[log_start:].decode(errors="replace").splitlines() if log.exists() else []
    )
    reason = _reported(work) or _marked(said)
    if reason is None and _is_full(work):
        return DiskFullError(
            f"stage {stage} ended, and the disk of {work} has no room left for the reason",
            expected="room for checkpoints and logs",
            fix="free space or point the workspace at a larger disk, then run the same command again: it continues",
        )
    if reason is None:
        what = "the trainer was ended before the stage was finished, and no rank could say why"
        return _unexplained(stage, what, said[-_LAST_LINES:], log)
    if "got" in reason:
        kind = getattr(errors, reason["kind"], TrainingError)
        return kind(reason["got"], expected=reason["expected"], fix=reason["fix"])
    return _unexplained(stage, f"rank {reason['rank']} failed", reason["lines"], log)


def _reported(work: Path) -> dict[str, Any] | None:
    try:
        reason: dict[str, Any] = read_json(work / _FAILURE)
    except (OSError, ValueError):
        return None
    return reason


def _marked(said: list[str]) -> dict[str, Any] | None:
    """The first reason in a log; a line that a full disk cut in half is none."""
    for line in said:
        if _MARK in line:
            with contextlib.suppress(ValueError):
                reason: dict[str, Any] = json.loads(line.partition(_MARK)[2])
                return reason
    return None


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder has no room for a line of reason."""
    return folder.exists() and shutil.disk_usage(folder).free < _REASON_BYTES


def _unexplained(stage: str, what: str, lines: list[str], log: Path) -> TrainingError:
    return TrainingError(
        "\n    ".join([f"stage {stage}: {what}; the last lines are", *lines]),
        expected="every rank to reach the last step",
        fix=f"read {log}, then run the same command again: it goes on from the last checkpoint",
    )
