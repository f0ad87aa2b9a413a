"""Answers to MTPB problems, graded end to end by the rules of docs/paper.md, section 5.

Case 0 of each problem; the comment above has the expected value, the comment beside an answer the
rule.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from components.evaluation.benchmarks.mtpb import MEMORY_MIB, PREFIX, load_mtpb
from components.evaluation.benchmarks.problem import grade_printed
from components.evaluation.sandbox import ResourceLimits, Sandbox

PASS, FAIL, NO_PRINT, SYNTAX = "passed", "wrong_answer", "no_print", "syntax_error"

ANSWERS: dict[int, list[tuple[str, str]]] = {
    # ['a', 'b', 'c', 'd', 'e']
    1: [
        ("print(sorted(set('ddeabc')))", PASS),
        ("print('abcde')", PASS),
        ("print('edcba')", FAIL),  # list() of a text
    ],
    # ['1.8', ...]: texts, compared exactly
    2: [
        ("n = np.arange(1, 11)\nprint([f'{v:.1f}' for v in n / n.sum() * 100])", PASS),
        ("print(['1.80'] * 10)", FAIL),
    ],
    # 7980
    3: [
        ("print(2 * 3600 + 13 * 60)", PASS),
        ("print('7980')", PASS),
        ("print(7980.9)", PASS),
        ("print('7980.0')", FAIL),
    ],
    # 1
    4: [("print(True)", PASS), ("print([1])", FAIL)],  # int(True) is 1; int([1]) raises
    # 4
    5: [
        ("print(np.int32(4))", PASS),
        ("print(np.array(4))", PASS),
        ("print(np.array([4]))", FAIL),  # tolist()
    ],
    # [35.5, 66.5]
    6: [
        # a Series: allclose
        (
            "import pandas as pd\nd = pd.DataFrame([[50, 131], [21, 2]])\nprint(d.mean(axis=0))",
            PASS,
        ),
        # within allclose's relative 1e-5
        ("import pandas as pd\nprint(pd.Series([35.5, 66.50001]))", PASS),
        ("print([35.5, 66.50001])", FAIL),  # a list is exact
        ("import pandas as pd\nprint(pd.Series([], dtype=float))", FAIL),  # of another shape
    ],
    # ['fizzbuzz', 1, 2, 'fizz', 4]
    7: [
        ("print(['fizzbuzz' if i == 0 else 'fizz' if i % 3 == 0 else i for i in range(5)])", PASS),
        ("print(('fizzbuzz', 1.0, 2, 'fizz', 4))", PASS),  # list() of a tuple; 1.0 == 1
        ("for i in range(5): print(i)", FAIL),  # the last print is 4
    ],
    # [['Have', 'free'], ...]
    8: [
        (
            "w = 'Have free hours and love children? "
            "Drive kids to school, soccer practice and other activities.'.split()\n"
            "print(list(zip(w, w[1:])))",
            PASS,  # tuples inside a list become lists
        ),
        ("print([['Have', 'free']])", FAIL),
    ],
    # 'Kevin'
    9: [
        ("print('Kevin', 4)", PASS),
        ("print('The top note is', 'Kevin')", FAIL),
        ("print(['Kevin'])", FAIL),
    ],
    # 255
    10: [
        ("print(int('0xFF', 16))", PASS),
        ("print(bin(255))", FAIL),
        ("print(b'255')", PASS),  # int(b'255') is 255
    ],
    # False
    11: [
        ("print(False)", PASS),
        ("print('False')", PASS),
        ("print(0)", FAIL),
        ("print(np.bool_(False))", PASS),
    ],
    # 'David Jones is age 25'
    12: [
        # str() of anything
        (
            "class Person:\n    def __str__(self): return 'David Jones is age 25'\nprint(Person())",
            PASS,
        ),
        ("print('David Jones', 'is age', 25)", FAIL),
    ],
    # 12
    13: [
        ("print(max([1, 2, 3, 12]))", PASS),
        ("answer = max([1, 2, 3, 12])", PASS),
        ("print('12 ')", PASS),
    ],
    # 2
    14: [
        (
            "from sklearn.linear_model import LinearRegression\nimport math\nx = np.arange(11)\n"
            "m = LinearRegression().fit(x.reshape(-1, 1), (x * 2).reshape(-1, 1))\n"
            "print(math.ceil(m.predict([[1]])[0][0] - 1e-9))",
            PASS,
        ),
        ("print([[2]])", FAIL),
    ],
    # ['hi', 'jk']
    15: [
        ("print(['hi', ''.join(chr(ord(c) + 2) for c in 'hi')])", PASS),
        ("print({'hi': 0, 'jk': 1})", PASS),  # its keys
    ],
    # 2
    16: [("print(2)\nprint()", NO_PRINT), ("print(2)\nraise ValueError", PASS)],
    # [29348, '29348']
    17: [("print([29348, '29348'])", PASS), ("print(['29348', '29348'])", FAIL)],
    # 'HELLO WORLD'
    18: [("print('Hello World'.upper())", PASS), ("print('Hello World')", FAIL)],
    # [1, 3]
    19: [
        ("print({1, 3})", PASS),
        ("print(np.array([1, 3]))", PASS),
        ("print(np.array([[1, 3]]))", FAIL),
    ],
    # '(-10, -10), (10, 10)'
    20: [
        ("print('(-10, -10), (10, 10)')", PASS),
        ("print((-10, -10), (10, 10))", FAIL),  # str() of the first argument
    ],
    # [0, 1]
    21: [
        ("print([0, 1])", PASS),
        ("print(range(2))", PASS),
        ("print(i for i in range(2))", PASS),
        ("print([False, True])", PASS),
    ],
    # ['a', ..., 'g']
    22: [("print('abcdefg')", PASS), ("print(list('abcdefg')[::-1])", FAIL)],
    # 20
    24: [
        ("print(sum([2, 4, 6, 8]))", PASS),
        ("def main():\n    print(20)\nmain()", FAIL),  # main() is printed: None
    ],
    # 4
    25: [
        ("print(max([0, 4]) - min([0, 4]))", PASS),
        ("print(4)\n'''done'''", FAIL),  # the docstring is printed
    ],
    # ['a', ..., 'e']
    26: [
        # the value at the end
        ("x = ['a', 'b', 'c', 'd']\nprint(x)\nx.append('e')\nif x: pass", PASS),
        ("print(list('abcd'))", FAIL),
    ],
    # 'abcde'
    27: [("print(max('abcde', 'ab', key=len))", PASS), ("print(\"'abcde'\")", FAIL)],
    # 99
    28: [("print(99)\nprint(", SYNTAX), ("def print(x): pass\nprint(99)", NO_PRINT)],
    # 5
    29: [
        ("print(sum(c in 'aeiouAEIOU' for c in 'CelebrAtion'))", PASS),
        ("import sys\nprint(5)\nsys.exit(1)", PASS),
    ],
    # 2
    30: [
        ("import math\nprint(math.factorial(2))", PASS),
        ("print(2.0000001)", PASS),
        ("print(1.9999999)", FAIL),  # truncated
    ],
    # 2
    32: [
        ("from fractions import Fraction\nprint(Fraction(5, 2))", PASS),  # int(5/2) is 2
        ("print(None)", FAIL),
    ],
    # 3.14
    33: [
        ("print(3.1400009)", PASS),
        ("print(3.140002)", FAIL),
        ("print('3.14')", PASS),
        ("print(np.float32(3.14))", PASS),
    ],
    # 333
    34: [("print(int('111') + int('222'))", PASS), ("print('111' + '222')", FAIL)],
    # 35
    35: [("print(35, sep=0)", PASS), ("print(end='')", NO_PRINT)],  # recorded, then it raises
    # 2
    36: [("printed = 2", PASS), ("total = 0\ntotal += 2", PASS)],  # what is added is printed
    # -3
    37: [
        ("print(sum(x for x in [-1, -2, 0, 1, 5] if x < 0))", PASS),
        ("print(-3.99)", PASS),
        ("print(3)", FAIL),
    ],
    # [5, 6]
    39: [("print([5, 6])", PASS), ("print(bytes([5, 6]))", PASS), ("print('56')", FAIL)],
    # True
    40: [("print(True)", PASS), ("print(1)", FAIL), ("print('true')", FAIL)],
    # 2
    41: [
        (
            "from collections import Counter\n"
            "print(Counter([1, 1, 2, 2, 2, 2]).most_common(1)[0][0])",
            PASS,
        )
    ],
    # '02/04/1990'
    42: [
        (
            "import datetime\n"
            "d = datetime.date(1990, 1, 28) + datetime.timedelta(7)\n"
            "print(d.strftime('%m/%d/%Y'))",
            PASS,
        ),
        ("import datetime\nprint(datetime.date(1990, 2, 4))", FAIL),  # str() of it is 1990-02-04
    ],
    # True
    43: [("print('True')", PASS), ("print([True])", FAIL)],
    # False
    44: [("print(str(123456) == str(123456)[::-1])", PASS), ("print('')", FAIL)],
    # 'hello'
    45: [
        ("import sys\nsys.stdout.write('x')\nprint('hello', file=sys.stderr)", PASS),
        ("import sys\nsys.stdout.write('hello')", FAIL),
    ],
    # 29
    47: [
        ("print(29) if True else None", FAIL),
        ("printer = str\nprint(29)\nprinter(5)", PASS),  # a bare name: print...
    ],
    # ['1a', '2b']
    48: [
        ("print([s for s in ['1a', 'a', '2b', 'b'] if any(c.isdigit() for c in s)])", PASS),
        ("print('1a', '2b')", FAIL),
    ],
    # 8
    49: [("print(2 ** 3)", PASS), ("while True: pass", "time_out")],
    # 10
    51: [
        ("print(sum([1, 2, 3, 4]))", PASS),
        ("import os\nprint(10)\nos._exit(0)", "exited"),  # it ends without a report
    ],
    # ['hello']
    52: [("print(['hello'])", PASS), ("print('hello')", FAIL)],  # list('hello') is five letters
    # 1
    53: [("print(1)", PASS), ("print(float('inf'))", FAIL)],
    # [1]
    54: [("print((1,))", PASS), ("print(1)", FAIL)],
    # 'False'
    55: [("print(False)", PASS), ("print('false')", FAIL)],
    # [1, 2, 2, 2, 3, 4]
    56: [("print(sorted([1, 2, 2, 2] + [3, 4]))", PASS), ("print([1, 2, 2, 2], [3, 4])", FAIL)],
}


@pytest.fixture(scope="module")
def graded(sandbox: Sandbox, problems_file: Path) -> dict[int, list[tuple[str, str]]]:
    problems = {problem.number: problem for problem in load_mtpb(problems_file)}
    programs = [(number, source) for number, answers in ANSWERS.items() for source, _ in answers]
    prints = sandbox.last_printed_values(
        [PREFIX + source for _, source in programs], ResourceLimits(1, MEMORY_MIB)
    )
    kinds: dict[int, list[tuple[str, str]]] = {}
    for (number, source), printed in zip(programs, prints, strict=True):
        kinds.setdefault(number, []).append(
            (source, grade_printed(printed, problems[number].outputs[0]).kind)
        )
    return kinds


@pytest.mark.parametrize("number", ANSWERS)
def test_answers_are_graded_by_the_official_rules(
    graded: dict[int, list[tuple[str, str]]], number: int
) -> None:
    assert graded[number] == ANSWERS[number]
