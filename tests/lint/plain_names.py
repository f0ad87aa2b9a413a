"""Refuses names that say nothing: pronouns, bare participles and house metaphors as bound names.

`python tests/lint/plain_names.py [PATH ...]` checks variables, parameters, fields, functions and
classes; exit status 1 if there are any. `make lint` runs it over `flows` and `components`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PRONOUNS = "one ones some every here there own both ours theirs what which"
PARTICIPLES = "found given told said made wanted known kept gone held chosen shown taken"
VAGUE = frozenset((*PRONOUNS.split(), *PARTICIPLES.split()))
METAPHORS = frozenset(
    ["desk", "room", "house", "shelf", "patience", "hasty", "nobody", "somebody", "whence"]
)


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of every assignment target, parameter, function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def main(paths: list[str]) -> int:
    """Print every refused name; return the exit status."""
    files = [path for root in paths for path in sorted(Path(root).rglob("*.py"))]
    num_refused = 0
    for path in files:
        for line, name in bound_names(ast.parse(path.read_text(encoding="utf-8"))):
            if name.strip("_").lower() in VAGUE | METAPHORS:
                num_refused += 1
                print(f"{path}:{line}: {name!r} names no thing; fix: use the noun or the verb")
    return int(num_refused > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or ["flows", "components"]))
