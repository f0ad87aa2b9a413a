"""Tests of many shapes in the mode `split`: the verdict of plain Python, or `needs_fast_mode`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest
from fixtures.shapes_of_tests import NEEDS_FAST, SHAPES, Shape

from components.evaluation.sandbox import (
    FunctionTest,
    ResourceLimits,
    Sandbox,
    Verdict,
)
from components.evaluation.sandbox.backends import find_jail
from components.evaluation.sandbox.job import Job
from components.evaluation.sandbox.system_calls import compile_seccomp_filters
from components.evaluation.sandbox.worker import Worker

LIMITS = ResourceLimits(cpu_s=2, memory_mib=1024)


def function_test(shape: Shape, program: str) -> FunctionTest:
    """Return the test of a program; the last definition of the prompt is its entry point."""
    *_, definition = (line for line in shape.prompt.splitlines() if line[:1].isalpha())
    entry_point = definition.partition("(")[0].split()[-1].rstrip(":")
    test = "def check(candidate):\n" + textwrap.indent(shape.test, "    ")
    return FunctionTest(shape.prompt, f"    {program}\n", test, entry_point)


def programs(shapes: dict[str, Shape]) -> Iterator[tuple[str, bool, FunctionTest]]:
    """Yield the name of the shape, whether the program is right, and its test."""
    for name, shape in shapes.items():
        for is_right, sources in ((True, shape.right), (False, shape.wrong)):
            for source in sources:
                yield name, is_right, function_test(shape, source)


SUPPORTED = list(programs(SHAPES))
UNSUPPORTED = list(programs({name: shape for name, (shape, _) in NEEDS_FAST.items()}))


@pytest.fixture(scope="module")
def verdicts(sandbox: Sandbox) -> list[Verdict]:
    return sandbox.run_tests([test for _, _, test in SUPPORTED], LIMITS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_program_has_the_verdict_of_plain_python(verdicts: list[Verdict], shape: str) -> None:
    failures = [
        (test.completion, verdict)
        for (name, is_right, test), verdict in zip(SUPPORTED, verdicts, strict=True)
        if name == shape and (verdict.passed != is_right or verdict.kind == "needs_fast_mode")
    ]
    assert failures == []


def test_a_test_that_needs_fast_has_its_own_outcome(sandbox: Sandbox) -> None:
    outcomes = sandbox.run_tests([test for _, _, test in UNSUPPORTED], LIMITS)
    reasons = [(name, verdict) for (name, _, _), verdict in zip(UNSUPPORTED, outcomes, strict=True)]
    assert reasons == [
        (name, Verdict("needs_fast_mode", NEEDS_FAST[name][1])) for name, _, _ in UNSUPPORTED
    ]


def test_the_expected_verdicts_are_those_of_a_single_process(sandbox: Sandbox) -> None:
    every = [*SUPPORTED, *UNSUPPORTED]
    outcomes = sandbox.run_tests([test for _, _, test in every], LIMITS, "fast")
    assert [verdict.passed for verdict in outcomes] == [is_right for _, is_right, _ in every]


REPLIES = {
    "a class that is a list": b'{"class":[]}',
    "an operation that is a list": b'{"op":[],"value":1,"objects":{},"unused":[]}',
    "no object": b"[]",
    "no JSON": b"{",
    "a verdict": b'{"op":"failed","value":["passed",""],"objects":{},"unused":[]}',
    "an exception without a class": b'{"op":"raise","value":[],"objects":{},"unused":[]}',
    "an exception of the harness": (
        b'{"op":"raise","value":["tuple",["tuple",["tuple","jailed.shared_objects","TestAborted"]],'
        b'["tuple"],["ref",9],"",null,null],"objects":{"9":[null,null,["dict"]]},"unused":[]}'
    ),
    "an unknown object": b'{"op":"return","value":["ref",99],"objects":{},"unused":[]}',
    "a number of the tests": (
        b'{"op":"return","value":["ref",40],"objects":{"40":[null,null,["list"]]},"unused":[]}'
    ),
    "another type of container": (
        b'{"op":"return","value":1,"objects":{"1":[null,null,["list"]]},"unused":[]}'
    ),
    "a function of Python": (
        b'{"op":"return","value":["global","builtins","exec"],"objects":{},"unused":[]}'
    ),
    "a module": b'{"op":"return","value":["global","os","system"],"objects":{},"unused":[]}',
    "a huge array": (
        b'{"op":"return","value":["ref",9],"objects":{"9":[null,null,'
        b'["ndarray","f8",2,99999999,0]]},"unused":[]}'
    ),
    "a failure with many texts": (
        b'{"op":"failed","value":["tuple","exception",["tuple"'
        + 4 * (b',"' + 2000 * b"x" + b'"')
        + b']],"objects":{},"unused":[]}'
    ),
    "an exception whose name is an object": (
        b'{"op":"raise","value":["tuple",["tuple",["tuple","x",["ref",9]],["tuple","builtins",'
        b'"TypeError"]],["tuple"],["ref",11],"",null,null],"objects":{"9":'
        b'[["N",["__getitem__"],[],1,0,["N"],true,null],"Name",null],"11":[null,null,["dict"]]},'
        b'"unused":[]}'
    ),
    "a subclass of an array": (
        b'{"op":"return","value":["ref",11],"objects":{"9":[null,null,["ndarray","i8",1,1,3]],'
        b'"11":[["N",[],[],1,0,["N"],true,null],["ref",9],null]},"unused":[]}'
    ),
    "a value that needs a call": (
        b'{"op":"return","value":["complex",["ref",9],0],"objects":{"9":'
        b'[["N",["__complex__","__float__"],[],1,0,["N"],true,null],null,null]},"unused":[]}'
    ),
    "a date from bytes": (
        b'{"op":"return","value":["date",["bytes","000001ff"]],"objects":{},"unused":[]}'
    ),
    "the importer": (
        b'{"op":"return","value":["global","builtins","__loader__"],"objects":{},"unused":[]}'
    ),
    "too deep": b'{"op":"return","value":'
    + b"[" * 400
    + b"]" * 400
    + b',"objects":{},"unused":[]}',
    "too many containers": (
        b'{"op":"return","value":1,"objects":{},"unused":[' + b"[]," * 300_000 + b"[]]}"
    ),
}
RAISES_TYPE_ERROR = (
    b'{"op":"raise","value":["tuple",["tuple",["tuple","builtins","TypeError"]],["tuple"],["ref",9],'
    b'"",null,null],"objects":{"9":[null,null,["dict"]]},"unused":[]}'
)
"""A valid reply, as of a program that raises TypeError."""
REPLYING = """    import os
    body = {reply!r}
    body = len(body).to_bytes(4, "big") + body
    while body:
        body = body[os.write(3, body):]
    os._exit(0)
"""


@pytest.mark.parametrize("expected", ["TypeError", "Exception", "BaseException"])
def test_a_malformed_reply_is_no_exception_that_a_test_can_expect(
    sandbox: Sandbox, expected: str
) -> None:
    test = (
        "def check(candidate):\n    try:\n        candidate()\n"
        f"    except {expected}:\n        return\n    raise AssertionError\n"
    )
    tests = [
        FunctionTest("def f():\n", REPLYING.format(reply=reply), test, "f")
        for reply in (*REPLIES.values(), RAISES_TYPE_ERROR)
    ]
    *outcomes, valid = sandbox.run_tests(tests, LIMITS)
    assert dict(zip(REPLIES, outcomes, strict=True)) == dict.fromkeys(REPLIES, Verdict("exited"))
    assert valid == Verdict("passed")


class _ShortWall(ResourceLimits):
    wall_s = 1.0  # type: ignore[assignment]


@pytest.mark.usefixtures("sandbox")
def test_a_test_that_waits_for_a_call_is_killed() -> None:
    test = (
        "import threading\ndef check(candidate):\n    event = threading.Event()\n"
        "    candidate(event.set)\n    event.wait()\n"
    )
    jobs = [
        Job(FunctionTest("def f(g):\n", completion, test, "f"), _ShortWall(2), "split")
        for completion in ("    pass\n", "    g()\n")
    ]
    with Worker(find_jail(), compile_seccomp_filters()) as worker:
        assert [worker.run(job).kind for job in jobs] == ["time_out", "passed"]


def test_a_program_can_only_call_the_functions_of_a_test(sandbox: Sandbox) -> None:
    """In a callback, it reads neither the globals of a function nor another object."""
    attempts = {
        "f.__globals__": "needs_fast_mode",
        "f.__code__": "needs_fast_mode",
        "f.missing": "exception",
        "type(f).__getattr__(f, '__class__')": "needs_fast_mode",
        "xs.side.call(0, '__getitem__', 'SECRET')": "exception",
    }
    test = "SECRET = 7919\ndef check(candidate):\n    assert candidate(lambda: 0, []) == SECRET\n"
    tests = [
        FunctionTest("def g(f, xs):\n", f"    return {attempt}\n", test, "g")
        for attempt in attempts
    ]
    kinds = [verdict.kind for verdict in sandbox.run_tests(tests, LIMITS)]
    assert dict(zip(attempts, kinds, strict=True)) == attempts
