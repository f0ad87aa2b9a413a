"""The compilation of a test, and signs that only the mode `fast` can execute it.

`a is b` becomes a call, since a copy of a value is another object than the value.
"""

from __future__ import annotations

import ast
import functools
from typing import Any, NamedTuple

IS_IDENTICAL = "__is_identical__"
"""The global name of the function that replaces `is`."""

_REPLACING_NAMES = frozenset({"patch", "monkeypatch"})
"""Names by which tests replace objects that a program in another process does not see."""


class CompiledTest(NamedTuple):
    """A compiled test."""

    code: Any
    replaces: str
    """The function by which the test replaces objects; empty if it does not."""
    is_seeding: bool
    """Whether the test seeds a generator of random numbers."""


@functools.lru_cache(maxsize=1 << 9)
def compile_test(text: str) -> CompiledTest:
    """Compile a test once for many programs."""
    tree = ast.parse(text)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    replacing = [f"test.{name}" for name in sorted(names & _REPLACING_NAMES)]
    tree = ast.fix_missing_locations(_ReplaceIs().visit(tree))
    code = compile(tree, "<benchmark>", "exec", dont_inherit=True)
    return CompiledTest(code, "".join(replacing[:1]), "seed" in names)


class _ReplaceIs(ast.NodeTransformer):
    """Replaces `a is b` unless an operand is a constant such as None."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        operands = [node.left, *node.comparators]
        is_identity = isinstance(node.ops[0], ast.Is | ast.IsNot)
        if len(node.ops) > 1 or not is_identity or any(map(_is_singleton, operands)):
            return node
        call = ast.Call(ast.Name(IS_IDENTICAL, ast.Load()), operands, [])
        return call if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(ast.Not(), call)


def _is_singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or type(node.value) is bool)
