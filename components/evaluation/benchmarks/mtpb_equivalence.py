"""Whether what a program printed is what an MTPB problem expects, by the rules of the official checker.

The rules are docs/paper.md, section 5, oddities included: a faithful score needs them. One decision: the comparison runs
outside the jail on plain data (`sandbox.jailed.values`), so no method of the program's own takes part in it. pandas 3 gave
`Series` another class name, which the official checker no longer recognises; here it is recognised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from components.evaluation.sandbox import PrintedValue
from components.evaluation.sandbox.jailed.values import Foreign, Series

FLOAT_TOLERANCE = 1e-6
"""Absolute, of the official checker."""

_INTEGERS = (np.uint8, np.int16, np.int32, np.int64)
_FLOATS = (np.float16, np.float32, np.float64)


def equivalent(printed: PrintedValue, expected: Any) -> bool:
    """Whether what was printed counts as `expected`. A comparison that raises counts as different, as upstream."""
    value = printed.value
    if isinstance(value, Foreign):  # its own text, which data alone does not tell
        value = Foreign(value.type_name, printed.text, value.items, value.numbers)
    try:
        with np.errstate(all="ignore"):
            return _equivalent(value, expected)
    except Exception:
        return False


def _equivalent(value: Any, expected: Any) -> bool:
    if isinstance(value, Series):
        return bool(np.allclose(value.array, np.array(expected)))
    value = _as_python(value)
    if type(value) is not type(expected):
        if type(expected) is bool:
            value, expected = str(value), str(expected)
        else:
            value = type(expected)(value)
    if type(value) is float:
        return bool(abs(value - expected) < FLOAT_TOLERANCE)
    if type(value) in (str, int, list, bool):
        return bool(value == expected)
    return False  # as upstream: no dictionary and no None is ever right


def _as_python(value: Any) -> Any:
    """NumPy values as Python's, and a list of tuples as a list of lists."""
    if type(value) is list and value and type(value[0]) is tuple:
        return [list(item) for item in value]
    if type(value) in _INTEGERS:
        return int(value)
    if type(value) in _FLOATS:
        return float(value)
    if type(value) is np.bool_:
        return bool(value)
    return value.tolist() if type(value) is np.ndarray else value
