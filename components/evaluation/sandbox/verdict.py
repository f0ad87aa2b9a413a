"""How a program ended, in the few classes that results count."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple, get_args

from pydantic import JsonValue

from components.evaluation.sandbox.jailed.frames import FrameError
from components.evaluation.sandbox.jailed.values import decode

Kind = Literal[
    "passed",
    "wrong_answer",
    "syntax_error",
    "exception",
    "exited",
    "time_out",
    "memory",
    "no_print",
]
"""`exited`: it ended, or spoke nonsense, without an answer. `no_print`: nothing was printed to compare (MTPB alone)."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_MAX_NAME = 80


class Verdict(NamedTuple):
    """The class of a result and, for exceptions, the name of the type that was raised (as the program tells it)."""

    kind: Kind
    type_name: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program solved its task."""
        return self.kind == "passed"

    @property
    def out_of_time(self) -> bool:
        """Whether it is to be run again alone, before this counts."""
        return self.kind == "time_out"


class _Nothing:
    """The value of a program that printed nothing."""

    def __repr__(self) -> str:
        return "nothing printed"


NOTHING_PRINTED = _Nothing()


class PrintedValue(NamedTuple):
    """The first argument of a program's last print.

    `end` tells how the program ended ("passed": to its end), `value` is plain data, `text` what `str` of it was there.
    """

    end: Verdict
    value: Any
    text: str
    report: Any = None
    """What the process sent, from which `as_printed` makes the same again; none where it sent nothing."""

    @property
    def out_of_time(self) -> bool:
        """Whether it is to be run again alone, before this counts."""
        return self.end.out_of_time


def as_verdict(report: Any) -> Verdict | None:
    """The verdict in what a process reported, or none where it is no verdict. Names are cut to harmless ones."""
    if not isinstance(report, dict) or report.get("class") not in KINDS:
        return None
    kind: Kind = report["class"]
    return Verdict(kind, re.sub(r"[^A-Za-z0-9_.]", "", str(report.get("type") or ""))[:_MAX_NAME])


def as_printed(report: Any) -> PrintedValue:
    """What a process reported about its prints. Nothing in it is believed beyond being plain data."""
    if not isinstance(report, dict):
        return PrintedValue(Verdict("exited"), NOTHING_PRINTED, "")
    end = as_verdict(report["failure"]) if report.get("failure") else Verdict("passed")
    value: Any = NOTHING_PRINTED
    if "value" in report:
        try:
            value = decode(report["value"], hashed=False)
        except FrameError:
            return PrintedValue(Verdict("exited"), NOTHING_PRINTED, "")
    return PrintedValue(end or Verdict("exited"), value, str(report.get("str", "")), report)


def as_record(outcome: Verdict | PrintedValue) -> dict[str, JsonValue]:
    """An outcome as plain data for a journal; what a program printed stays as it was sent, and is believed no more."""
    if isinstance(outcome, Verdict):
        return {"verdict": _told(outcome)}
    return {
        "printed": {"failure": _told(outcome.end)} if outcome.report is None else outcome.report
    }


def from_record(record: Any) -> Verdict | PrintedValue:
    """What `as_record` was given.

    Raises:
        KeyError, TypeError, ValueError: it is no such record.
    """
    if "printed" in record:
        return as_printed(record["printed"])
    verdict = as_verdict(record["verdict"])
    if verdict is None:
        raise ValueError(f"no verdict: {record['verdict']}")
    return verdict


def _told(verdict: Verdict) -> dict[str, JsonValue]:
    return {"class": verdict.kind, "type": verdict.type_name}
