"""How a rank that fails tells the flow why: a small JSON document, written by the first one that fails.

When one rank fails, the others lose their connection and fail too. Only the first report counts, and a lost connection is
none: where all that is known is a signal (no memory left, say), the launcher's log tells it.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from components.core import errors
from components.core.errors import CodegenError, TrainingError
from components.core.files import read_json

_FAILURE = "failure.json"
_LAST_LINES = 12
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting")
"""What gloo says in a rank whose neighbour ended."""


def report_failure(work: Path, rank: int, error: Exception) -> None:
    """Leave the reason in the folder, unless another rank was first or the error only says that one was."""
    if any(said in str(error) for said in _LOST_CONNECTION):
        return
    reason: dict[str, Any] = {"rank": rank, "kind": type(error).__name__}
    if isinstance(error, CodegenError):
        reason |= {"got": error.got, "expected": error.expected, "do": error.do}
    else:
        reason["lines"] = "".join(traceback.format_exception(error)).splitlines()[-_LAST_LINES:]
    try:
        work.mkdir(parents=True, exist_ok=True)
        with (work / _FAILURE).open("x", encoding="utf-8") as file:
            json.dump(reason, file)
    except FileExistsError:
        pass


def forget_failure(work: Path) -> None:
    """Remove what an earlier attempt reported."""
    (work / _FAILURE).unlink(missing_ok=True)


def explain_failure(work: Path, log: Path, stage: str) -> CodegenError:
    """The error to raise for a stage that ended without a result."""
    try:
        reason = read_json(work / _FAILURE)
    except (OSError, ValueError):
        what = "the trainer was ended before the stage was finished (by a signal, or for want of memory)"
        return _unexplained(stage, what, _last_lines(log), log)
    if "got" in reason:
        kind = getattr(errors, reason["kind"], TrainingError)
        return kind(reason["got"], expected=reason["expected"], do=reason["do"])
    return _unexplained(stage, f"rank {reason['rank']} failed", reason["lines"], log)


def _unexplained(stage: str, what: str, lines: list[str], log: Path) -> TrainingError:
    return TrainingError(
        "\n    ".join([f"stage {stage}: {what}; the last lines are", *lines]),
        expected="every rank to reach the last step",
        do=f"read {log}, then run the same command again: it goes on from the last checkpoint",
    )


def _last_lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
