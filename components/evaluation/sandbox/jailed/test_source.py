"""The compilation of prompts and tests, and signs that only the mode `fast` can execute a test.

`a is b` becomes a call, since a copy of a value is another object than the value.
"""

from __future__ import annotations

import ast
import functools
from typing import Any, NamedTuple

IS_IDENTICAL = "__is_identical__"
"""The global name of the function that replaces `is`."""

_PROCESS_NAMES = frozenset({
    "patch", "monkeypatch", "alarm", "setitimer", "environ", "putenv", "chdir", "getcwd",
    "listdir", "mkdir", "makedirs",
    "open", "tempfile", "read_bytes", "read_text", "write_bytes", "write_text", "getcontext",
    "setcontext", "localcontext", "setlocale", "setrecursionlimit", "set_int_max_str_digits",
    "catch_warnings", "assertWarns", "assertWarnsRegex", "assertLogs", "assertNoLogs",
})  # fmt: skip
"""Names by which tests change or observe state of a process; a program has another process."""
_EXECUTING_NAMES = frozenset({
    "eval", "exec", "__import__", "import_module", "pickle", "cloudpickle", "dill", "joblib",
    "marshal", "shelve", "read_pickle", "runpy", "timeit", "doctest", "ctypes", "get_type_hints",
    "singledispatch", "eval_str",
})  # fmt: skip
"""Names by which tests may execute data of a program, such as a text or a pickle."""
_IDENTITY_FUNCTIONS = frozenset({"id", "is_", "is_not"})
_IDENTITY_ASSERTIONS = {"assertIs": "assertTrue", "assertIsNot": "assertFalse"}


class CompiledSource(NamedTuple):
    """A compiled prompt or test."""

    code: Any
    fast_reason: str
    """Why only the mode `fast` can execute it as a test; empty if there is no sign."""
    is_seeding: bool
    """Whether it seeds a generator of random numbers."""


@functools.lru_cache(maxsize=1 << 9)
def compile_source(text: str) -> CompiledSource:
    """Compile a prompt or a test once for many programs."""
    tree = ast.parse(text)
    names = _names(tree)
    reasons = sorted(names & (_PROCESS_NAMES | _EXECUTING_NAMES))
    reasons += _changed_imports(tree) + _identity_checks(tree)
    tree = ast.fix_missing_locations(_ReplaceIs().visit(tree))
    code = compile(tree, "<benchmark>", "exec", dont_inherit=True)
    return CompiledSource(code, f"test.{reasons[0]}" if reasons else "", "seed" in names)


@functools.lru_cache(maxsize=1 << 9)
def compile_prompt(prompt: str) -> CompiledSource:
    """Compile the definitions of a prompt, without a last definition that is not complete."""
    lines = prompt.splitlines()
    while lines:
        last = lines[-1]
        indent = last[: len(last) - len(last.lstrip())]
        for end in ("", f"{indent}pass", f"{indent}    pass"):
            try:
                return compile_source("\n".join([*lines, end]))
            except (SyntaxError, ValueError):
                continue
        lines.pop()
    return compile_source("")


def _names(tree: ast.AST) -> set[str]:
    """Return the names of variables, attributes and imported modules, and `eval_str`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg="eval_str" as name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                imported = [getattr(node, "module", None) or "", *(alias.name for alias in aliases)]
                names.update(part for name in imported for part in name.split("."))
    return names


def _changed_imports(tree: ast.AST) -> list[str]:
    """Return the imported names of which an attribute or an item is assigned or deleted."""
    imports = (ast.Import, ast.ImportFrom)
    aliases = [
        alias for node in ast.walk(tree) if isinstance(node, imports) for alias in node.names
    ]
    imported = {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    changed = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and root.id in imported:
                changed.append(root.id)
    return changed


def _identity_checks(tree: ast.AST) -> list[str]:
    """Return the functions that compare identities, and `is` if it is chained."""
    checks = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) > 1 and any(map(_is_identity, node.ops)):
            checks.append("is")
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            checks += _IDENTITY_FUNCTIONS & {name}
    return checks


class _ReplaceIs(ast.NodeTransformer):
    """Replaces `a is b` and `assertIs(a, b)` unless an operand is a constant such as None."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        operands = [node.left, *node.comparators]
        if len(node.ops) > 1 or not _is_identity(node.ops[0]) or any(map(_is_singleton, operands)):
            return node
        call = _call_is_identical(operands)
        return call if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(ast.Not(), call)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _IDENTITY_ASSERTIONS:
            operands, others = node.args[:2], node.args[2:]
            if not any(map(_is_singleton, operands)):
                node.func.attr = _IDENTITY_ASSERTIONS[node.func.attr]
                node.args = [_call_is_identical(operands), *others]
        return node


def _call_is_identical(operands: list[ast.expr]) -> ast.expr:
    return ast.Call(ast.Name(IS_IDENTICAL, ast.Load()), operands, [])


def _is_identity(operator: ast.cmpop) -> bool:
    return isinstance(operator, ast.Is | ast.IsNot)


def _is_singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or type(node.value) is bool)
